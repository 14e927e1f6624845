"""Progress of a function that calls back with what is done and what there is to do."""

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def shown_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback that shows progress from its first call on."""
    from sparsevit_plugin.harness.progress import Progress

    with contextlib.ExitStack() as stack:
        bars: list[Progress] = []

        def show(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(Progress(total, label)))
            bars[0].advance(done - bars[0].done)

        yield show
