"""Progress that is a live bar on a terminal and plain lines elsewhere."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

LINE_SECONDS = 10.0
"""Off a terminal, a line is printed at most this often."""


class Progress:
    """Shows how far a loop is, on standard error.

    Use as a context manager and call `advance` once a step. Only the main process should show
    anything: pass `visible=False` elsewhere.

    Args:
        total: Number of steps.
        label: What is running, e.g. `epoch 3/20`.
        start: Steps that were done before.
        visible: Whether anything is shown.
    """

    def __init__(self, total: int, label: str, *, start: int = 0, visible: bool = True) -> None:
        self.total = total
        self.label = label
        self.done = start
        self._start = start
        self._note = ""
        self._visible = visible
        self._began = self._printed = time.monotonic()
        self._bar: RichProgress | None = None
        console = Console(stderr=True)
        if visible and console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(label, total=total, completed=start, note="")

    def __enter__(self) -> "Progress":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        if self._visible and error is None:
            self._print_line()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` more steps; `note` (the loss, say) is shown behind them."""
        self.done += steps
        self._note = note
        if self._bar:
            self._bar.update(self._task, advance=steps, note=note)
        elif self._visible and time.monotonic() - self._printed >= LINE_SECONDS:
            self._print_line()

    def _print_line(self) -> None:
        self._printed = time.monotonic()
        elapsed = self._printed - self._began
        left = elapsed / max(1, self.done - self._start) * (self.total - self.done)
        note = f"  {self._note}" if self._note else ""
        print(
            f"{self.label}: {self.done}/{self.total}  {elapsed:.0f} s, eta {left:.0f} s{note}",
            file=sys.stderr,
            flush=True,
        )
