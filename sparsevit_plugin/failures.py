"""Failures of the machine, in words: memory that is used up, processes that were killed."""

import re
import signal
from typing import Final

# What PyTorch's allocators and oneDNN say where they raise no class of their own.
_OUT_OF_MEMORY: Final = re.compile(
    r"out of memory|can(no|')t allocate memory|bad_alloc|could not create a (primitive|memory)",
    re.IGNORECASE,
)
_LOADER: Final = re.compile(
    r"DataLoader worker \(pid\D* [\d, ]+\) (?:is killed by signal: (?P<signal>[\w ]+)|exited)"
)
# What gloo and NCCL say where a collective's other side is gone.
_OTHERS_GONE: Final = re.compile(
    r"Connection (closed by|reset by) peer|Broken pipe.*gloo|gloo.*Broken pipe|"
    r"remote process exited|Socket unexpectedly closed"
)
_LONGEST: Final = 160

PEER_GONE: Final = 75  # EX_TEMPFAIL: nothing is wrong with this process, try again
"""Exit code of a process that ends because another one of its job has."""


def is_peer_gone(error: BaseException) -> bool:
    """Say whether an error only tells that another process of the job has ended."""
    return isinstance(error, RuntimeError) and bool(_OTHERS_GONE.search(str(error)))


def in_words(error: BaseException) -> str | None:
    """Say what is wrong with the machine and what to do, in one line; None for any other error."""
    text = str(error)
    loader = _LOADER.search(text)
    if loader:
        how = f"was ended by a signal ({loader['signal']})" if loader["signal"] else "has ended"
        return (
            f"a process that loads images {how}; out of memory? Take fewer --num-workers and run "
            "the same command again; a training goes on with --resume auto"
        )
    if is_peer_gone(error):
        return (
            "another process of this job has ended; its own output says why. Run the same command "
            "again, a training with --resume auto"
        )
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text):
        said = (text.strip().splitlines() or ["MemoryError"])[0][:_LONGEST]
        return (
            f"out of memory ({said}): take a smaller --batch-size, --test-batch-size or "
            "--image-size; a training goes on with --resume auto"
        )
    return None


def signal_in_words(number: int) -> str:
    """Name the signal that ended a process, and who sends it where nobody else does."""
    name = signal.Signals(number).name
    return f"ended by {name}{' (out of memory?)' if number == signal.SIGKILL else ''}"
