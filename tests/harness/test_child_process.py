"""A child process: its answers, and one line for whatever ends it."""

import os
import textwrap
import time

import pytest

from sparsevit_plugin.harness.child_process import ChildError, ChildProcess, shorten

CHILD = """
    import os, signal, sys, time
    sys.argv = ["benco"]  # as in the command line, nothing is registered and torch stays out
    from sparsevit_plugin.errors import UserError
    from sparsevit_plugin.harness.child_process import serve

    def answer(question):
        print("not an answer")
        do = question["do"]
        if do == "raise":
            raise ValueError("no\\nluck")
        if do == "refuse":
            raise UserError("mend it")
        if do == "fill":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 1 TB")
        if do == "leave":
            sys.stderr.write("some lines\\nthe last words\\n")
            sys.stderr.flush()
            os._exit(3)
        if do == "kill":
            os.kill(os.getpid(), getattr(signal, question["signal"]))
        if do == "sleep":
            time.sleep(60)
        return {"pid": os.getpid(), "question": question}

    serve(answer)
"""


@pytest.fixture
def child(tmp_path):
    (tmp_path / "answering.py").write_text(textwrap.dedent(CHILD))
    with ChildProcess("answering", {**os.environ, "PYTHONPATH": str(tmp_path)}) as process:
        yield process


def test_questions_are_answered_by_another_process_whatever_it_prints(child):
    first = child.ask({"do": "a", "text": "ä\n"}, 60)
    assert first["question"] == {"do": "a", "text": "ä\n"}
    assert first["pid"] != os.getpid()
    assert child.ask({"do": "b"}, 60)["pid"] == first["pid"]


@pytest.mark.parametrize(
    ("do", "message", "out_of_memory"),
    [
        ("raise", "ValueError: no luck", False),
        ("refuse", "mend it", False),
        ("fill", "out of memory", True),
    ],
)
def test_what_it_raises_is_an_error_and_it_goes_on(child, do, message, out_of_memory):
    with pytest.raises(ChildError) as error:
        child.ask({"do": do}, 60)
    assert str(error.value) == message
    assert error.value.out_of_memory is out_of_memory
    assert not error.value.is_over
    assert child.ask({"do": "a"}, 60)["question"] == {"do": "a"}


@pytest.mark.parametrize(
    ("question", "message", "out_of_memory"),
    [
        ({"do": "leave"}, "ended with code 3: the last words", False),
        ({"do": "kill", "signal": "SIGKILL"}, "killed, as the kernel does", True),
        ({"do": "kill", "signal": "SIGSEGV"}, "ended: SIGSEGV", False),
    ],
)
def test_its_end_is_told_and_told_again(child, question, message, out_of_memory):
    for _ in range(2):
        with pytest.raises(ChildError, match=message) as error:
            child.ask(question, 60)
        assert error.value.is_over
        assert error.value.out_of_memory is out_of_memory


def test_one_that_takes_too_long_is_ended(child):
    pid = child.ask({"do": "a"}, 60)["pid"]
    began = time.monotonic()
    with pytest.raises(ChildError, match=r"stopped after 0\.2 s"):
        child.ask({"do": "sleep"}, 0.2)
    child.close()
    assert time.monotonic() - began < 30
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_messages_are_one_line_of_bounded_length():
    assert shorten("a\n  b") == "a b"
    assert len(shorten("x" * 1000)) == 200
