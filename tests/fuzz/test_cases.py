"""A fixed sample of broken files of every kind; `benchmarks/fuzz.py` tries thousands."""

from pathlib import Path

import pytest

from sparsevit_plugin.errors import UserError
from tests.fuzz import watch
from tests.fuzz.cases import try_case
from tests.fuzz.targets import KINDS
from tests.fuzz.watch import Violation, run_case

SEED = 12
SLOW = {"result rows": 5, "run.json and logs": 4, "names of photographs": 5, "model cards": 12}
USUAL = 20


@pytest.mark.parametrize("kind", KINDS)
def test_broken_files_are_refused_in_one_line_or_read(kind):
    answers = [try_case(kind, SEED, number) for number in range(SLOW.get(kind, USUAL))]
    assert set(answers) <= {"accepted", "refused"}


# --- the watch itself: each violation is seen -----------------------------------------------------


@pytest.fixture
def places(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    return tmp_path, out


def refuse(text: str):
    raise UserError(text)


def test_what_is_right_is_no_violation(places):
    root, out = places
    assert run_case(root, out, lambda: (out / "x").write_text("x")) == "accepted"
    assert run_case(root, out, lambda: refuse("x.png: is no image")) == "refused"


@pytest.mark.parametrize(
    ("call", "seen"),
    [
        (lambda root: 1 / 0, "ZeroDivisionError at test_cases.py"),
        (lambda root: (root / "x").write_text("x"), "open outside"),
        (lambda root: (root / "out" / ".." / "y").mkdir(), "os.mkdir outside"),
        (lambda root: __import__("os").system("true"), "os.system"),
        (lambda root: __import__("subprocess").run(["true"], check=True), "subprocess.Popen"),
        (lambda root: watch.run_command("--max-pixels", "7", "no-such-verb"), None),
        (lambda root: __import__("time").sleep(5), "took too long"),
        (lambda root: watch.check_line("a\nb"), "2 lines"),
        (lambda root: watch.check_line("a\x1b[2Jb"), "control characters"),
        (lambda root: watch.check_line("a" * 50_000), "50000 characters"),
        # What is written below Python's own functions is found by comparing the folder.
        (
            lambda root: __import__("cv2").imwrite(
                str(root / "c.png"), __import__("numpy").zeros((4, 4))
            ),
            "files outside the output folder changed",
        ),
    ],
)
def test_every_violation_is_seen(places, call, seen):
    root, out = places
    if seen is None:
        assert run_case(root, out, lambda: call(root)) == "refused"
        return
    with pytest.raises(Violation, match=seen):
        run_case(root, out, lambda: call(root), limit=1)


def test_code_of_a_checkpoint_would_be_seen(monkeypatch, tmp_path):
    import pickle
    import tempfile

    from tests.fuzz import targets

    # A process that was started may write once more after its case's folder was removed.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(targets, "_load", lambda path, case: pickle.loads(path.read_bytes()))
    found = []
    for number in range(60):
        try:
            try_case("checkpoints, pickles", 0, number, limit=5)
        except Violation as violation:
            found.append(str(violation))
    assert any("os.system" in text or "subprocess" in text or "code of" in text for text in found)


def test_cases_are_the_same_for_the_same_number(tmp_path):
    from random import Random

    from tests.fuzz.targets import Case

    def material(kind: str, folder: Path) -> dict[str, bytes]:
        case = Case(folder, Random(f"{kind}/1/2"))
        case.into.mkdir(parents=True)
        KINDS[kind](case)
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*")
                if p.is_file()}  # fmt: skip

    for kind in ("JPEG", "lists", "protocols"):
        assert material(kind, tmp_path / kind / "a") == material(kind, tmp_path / kind / "a2"), kind
