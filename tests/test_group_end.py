"""One of several processes ends with its code and output, without the teardown of Python."""

import subprocess
import sys

import pytest
import torch

from sparsevit_plugin import group_end
from sparsevit_plugin.group_end import end_safely

MODULE = group_end.__file__

# A stand-in for a process that joined others: no second process is needed to see how it ends. The
# module is run as it is, without its package, which would import torch.
PROGRAM = """
import atexit, runpy, sys

module = runpy.run_path(FILE)
assert not module["in_group"]() and "torch" not in sys.modules
scope = module["end_safely"].__globals__
joined = []
scope["in_group"] = lambda: bool(joined)
atexit.register(print, "exit function")

class Teardown:
    def __del__(self):
        print("teardown")

kept = Teardown()

def command():
    joined.append(True)
    print("done")
    ENDING

module["end_safely"](command)
print("never reached")
"""


def run(ending: str) -> subprocess.CompletedProcess:
    program = PROGRAM.replace("FILE", repr(MODULE)).replace("ENDING", ending)
    return subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("ending", "code", "error"),
    [
        ("return 0", 0, ""),
        ("return 2", 2, ""),
        ("raise SystemExit(143)", 143, ""),
        ("raise SystemExit()", 0, ""),
        ("sys.exit('a reason')", 1, "a reason"),
        ("raise ValueError('a mistake')", 1, "ValueError: a mistake"),
    ],
)
def test_a_process_of_several_ends_with_its_code_and_its_output(ending, code, error):
    done = run(ending)
    assert done.returncode == code
    assert done.stdout == "done\nexit function\n"
    assert done.stderr.strip().endswith(error)
    assert ("Traceback" in done.stderr) == (error.startswith("ValueError"))


def test_a_process_that_works_alone_goes_on():
    assert not group_end.in_group()
    assert end_safely(lambda: 3) == 3
    with pytest.raises(ValueError, match="a mistake"):
        end_safely(lambda: int("a mistake"))


def test_whoever_calls_a_command_from_within_a_group_goes_on(monkeypatch):
    monkeypatch.setattr(group_end, "in_group", lambda: True)
    assert end_safely(lambda: 3) == 3


def test_joining_others_is_noticed(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    try:
        assert group_end.in_group()
    finally:
        torch.distributed.destroy_process_group()
    assert not group_end.in_group()
