"""How one of several processes that work together ends.

A thread of gloo's lets go of the last collective's tensors some time after the collective is done.
They belong to Python as well, so the thread asks for the interpreter's lock. If the interpreter is
being torn down by then, it ends the asking thread by unwinding its stack, through a destructor,
where C++ allows no such thing: the process dies of SIGABRT with all its work done ("terminate
called without an active exception"). So no teardown begins: the exit functions run, the output is
flushed, and the process leaves. Its connections are closed by the system, which loses nothing that
was sent. Destroying the process group instead would wait for a collective that never comes to an
end where one process fails within it.
"""

import atexit
import os
import sys
from collections.abc import Callable
from typing import Any

_FAILED = 1


def in_group() -> bool:
    """Say whether this process has joined others; nothing is imported to find out."""
    distributed: Any = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def end_safely(command: Callable[[], int]) -> int:
    """Run a command; where it has joined other processes, end this one with its exit code.

    Returns:
        The command's exit code, where this process works alone.

    Raises:
        BaseException: What the command raises, likewise.
    """
    had_joined = in_group()  # whoever called from within a group goes on with it
    try:
        code = command()
    except BaseException as error:
        if had_joined or not in_group():
            raise
        code = _report(error)
    if in_group() and not had_joined:
        _leave(code)
    return code


def _report(error: BaseException) -> int:
    """Print an error as the interpreter does, and return its exit code."""
    if not isinstance(error, SystemExit):
        sys.excepthook(type(error), error, error.__traceback__)
        return _FAILED
    if error.code is None or isinstance(error.code, int):
        return error.code or 0
    print(error.code, file=sys.stderr)
    return _FAILED


def _leave(code: int) -> None:
    try:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
