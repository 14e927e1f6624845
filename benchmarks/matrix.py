"""Installs the oldest and the newest supported libraries, and runs tests on them: `make matrix`.

Every cell has a virtual environment of its own below `build/matrix`, made by uv from the package
index and removed afterwards. The cell "newest" takes the newest version of all that setup.cfg
allows, "lowest" the lowest version of all that it names; in the cells between, one library alone is
at its lowest. They run the tests that touch what differs, and a small training. For other versions
of Python both ends are resolved; the newest are run where `--python` names an interpreter.

    python benchmarks/matrix.py --python 3.12=/path/to/python3.12

A cell that has been run is not run again (`--again` does). What came of all is written to
`results/matrix.md` and `results/matrix.csv`, the versions to `results/matrix`.
"""

import argparse
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
import xml.etree.ElementTree as ET
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "matrix"
RESULTS = ROOT / "results"
LIBRARIES = ("timm", "pandas", "scikit-learn", "torch")
RUN = "3.11"
RESOLVED = ("3.10", "3.12")
ENDS = {"newest": "highest", "lowest": "lowest-direct"}
TEST_TOOLS = ("pytest", "hypothesis")

_TRAINING = (
    "tests/harness/test_train.py::test_the_loss_falls",
    "tests/harness/test_train.py::test_last_and_best_and_the_test_rows_are_written",
)
TOUCHES = {
    "timm": ("tests/zoo/test_timm_localiser.py",),
    "pandas": (
        "tests/results/test_tables.py",
        "tests/results/test_store.py",
        "tests/results/test_paired.py",
        "tests/results/test_latex.py",
        "tests/results/test_html.py",
        "tests/results/test_robustness.py",
    ),
    "scikit-learn": ("tests/harness/test_metrics.py", "tests/harness/test_evaluators.py"),
    "torch": (
        "tests/model/test_sparsevit.py",
        "tests/model/test_weights.py",
        "tests/model/test_attention.py",
        "tests/model/test_kernels.py",
        "tests/hub/test_folder.py",
    ),
}
"""The tests that a library's version can break; every cell adds a registration and a training."""
ALWAYS = ("tests/model/test_register.py", *_TRAINING)
ALSO = ("tests/harness/test_jpeg.py", "tests/explain/test_gradcam.py")
"""What the two ends run besides: the other libraries differ there."""


@dataclass(frozen=True)
class Cell:
    """One combination of versions.

    Attributes:
        name: What it is called.
        python: The version of Python.
        resolution: uv's name for how versions are chosen.
        pinned: The library that alone is at its lowest version; empty for none.
        interpreter: What runs it; empty where it is only resolved.
    """

    name: str
    python: str
    resolution: str
    pinned: str = ""
    interpreter: str = ""

    @property
    def tests(self) -> tuple[str, ...]:
        """The tests that it runs."""
        if self.pinned:
            return (*TOUCHES[self.pinned], *ALWAYS)
        return (*(test for tests in TOUCHES.values() for test in tests), *ALWAYS, *ALSO)


@dataclass
class Outcome:
    """What came of a cell.

    Attributes:
        cell: Its name.
        python: The version of Python, in full where it was run.
        state: "passed", "failed", "resolved", "unresolved" or "not installed".
        versions: Of the libraries.
        passed: Tests that passed.
        skipped: Tests that were skipped, for want of an extra.
        failures: Tests that failed, or the last line of what went wrong.
        seconds: Of the tests, by the clock.
        commit: Of the code.
        requirements: Every version, as pip's requirements.
    """

    cell: str
    python: str
    state: str
    versions: dict[str, str] = field(default_factory=dict)
    passed: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: int = 0
    commit: str = ""
    requirements: str = ""


class CellError(Exception):
    """A command of the matrix that failed, in one line."""


def main() -> int:
    """Run what is not done; the exit code is 1 where anything failed."""
    args = parse()
    cells = plan(dict(args.python))
    wanted = [cell for cell in cells if not args.only or cell.name in args.only.split(",")]
    WORK.mkdir(parents=True, exist_ok=True)
    for number, cell in enumerate(wanted, 1):
        done = _read(cell)
        if done and not args.again and not done.failures:
            print(f"[{number}/{len(wanted)}] {cell.name}: {done.state}, done before")
            continue
        print(f"[{number}/{len(wanted)}] {cell.name} ...", flush=True)
        outcome = run_cell(cell, keep=args.keep)
        _record(cell).write_text(json.dumps(asdict(outcome), indent=1), encoding="utf-8")
        print(f"    {_sentence(outcome)}", flush=True)
    outcomes = [outcome for cell in cells if (outcome := _read(cell))]
    write_results(outcomes)
    failed = [outcome.cell for outcome in outcomes if outcome.failures]
    print(f"{len(outcomes)} of {len(cells)} cells, {len(failed)} failed {' '.join(failed)}".strip())
    return int(bool(failed) or len(outcomes) < len(cells))


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        type=_interpreter,
        metavar="VERSION=PATH",
        help="run the newest libraries with this interpreter too",
    )
    parser.add_argument("--only", default="", help="cells by name, separated by commas")
    parser.add_argument("--again", action="store_true", help="also what has been done")
    parser.add_argument("--keep", action="store_true", help="keep the virtual environments")
    return parser.parse_args()


def _interpreter(text: str) -> tuple[str, str]:
    version, _, path = text.partition("=")
    if version not in RESOLVED or not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"{text}: {' or '.join(RESOLVED)}=PATH of an interpreter")
    return version, path


def plan(interpreters: dict[str, str]) -> list[Cell]:
    """Return every cell.

    Args:
        interpreters: Version to path of an interpreter, for versions besides `RUN`.
    """
    ends = [Cell(name, RUN, how, interpreter=sys.executable) for name, how in ENDS.items()]
    singles = [
        Cell(f"lowest {library}", RUN, "highest", library, sys.executable) for library in LIBRARIES
    ]
    others = [
        Cell(f"{name} on Python {version}", version, how, "", _given(interpreters, name, version))
        for version in RESOLVED
        for name, how in ENDS.items()
    ]
    return [*ends, *singles, *others]


def _given(interpreters: dict[str, str], end: str, version: str) -> str:
    return interpreters.get(version, "") if end == "newest" else ""


def run_cell(cell: Cell, keep: bool) -> Outcome:
    """Resolve a cell, and install and test it where it has an interpreter."""
    outcome = Outcome(cell.name, cell.python, "unresolved", commit=_commit())
    folder = WORK / re.sub(r"\W+", "-", cell.name)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        outcome.requirements = resolve(cell)
        outcome.versions = _versions(outcome.requirements)
        outcome.state = "resolved"
        if cell.interpreter:
            outcome.state = "not installed"
            python = install(cell, outcome.requirements, folder)
            outcome.python = _output(
                python, "-c", "import platform as p; print(p.python_version())"
            )
            test(cell, python, folder, outcome)
    except CellError as error:
        outcome.failures.append(str(error))
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
    return outcome


def resolve(cell: Cell) -> str:
    """Return the versions that a cell is made of, as pip's requirements.

    Raises:
        CellError: There is no combination, or no index can be reached.
    """
    words = ["pip", "compile", "--quiet", "--no-header", "--no-annotate", "setup.cfg"]
    words += ["--python-version", cell.python, "--resolution", cell.resolution]
    if cell.pinned:
        pin = f"{cell.pinned}=={lowest_version(cell.pinned)}\n"
        words += ["--constraint", str(_written(WORK / "pin.txt", pin))]
    return _output(_uv(), *words, cwd=ROOT) + "\n"


def lowest_version(library: str) -> str:
    """Return the lower bound that setup.cfg gives a library."""
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    found = re.search(rf"^ +{re.escape(library)}>=([\w.]+)", text, flags=re.MULTILINE)
    if not found:
        raise CellError(f"setup.cfg gives {library} no lower bound")
    return found[1]


def install(cell: Cell, requirements: str, folder: Path) -> Path:
    """Make a cell's environment, with the committed code, and return its interpreter.

    Raises:
        CellError: Something cannot be installed.
    """
    archive = subprocess.run(
        ["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as code:
        code.extractall(folder / "code", filter="data")
    python = folder / "venv" / "bin" / "python"
    _output(_uv(), "venv", "--quiet", "--python", cell.interpreter, folder / "venv")
    pip = (_uv(), "pip", "install", "--quiet", "--python", python)
    listed = _written(folder / "requirements.txt", requirements)
    _output(*pip, "--requirement", listed, *TEST_TOOLS)
    _output(*pip, "--no-deps", "--editable", folder / "code")
    return python


def test(cell: Cell, python: Path, folder: Path, outcome: Outcome) -> None:
    """Run a cell's tests and note what came of them.

    Raises:
        CellError: They did not even start.
    """
    report = folder / "report.xml"
    words = ["-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", f"--junitxml={report}"]
    began = time.monotonic()
    done = subprocess.run(
        [python, *words, "-m", "not system and not zoo_full and not slow", *cell.tests],
        cwd=folder / "code",
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    outcome.seconds = round(time.monotonic() - began)
    _written(WORK / f"{folder.name}.log", done.stdout + done.stderr)
    if not report.exists():
        raise CellError(f"no test ran: {_last_line(done.stdout + done.stderr)}")
    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            outcome.failures.append(f"{case.get('classname')}::{case.get('name')}")
        elif "skipped" in kinds:
            outcome.skipped += 1
        else:
            outcome.passed += 1
    outcome.state = "failed" if outcome.failures else "passed"
    if done.returncode and not outcome.failures:
        raise CellError(f"pytest ended with {done.returncode}: {_last_line(done.stdout)}")


def write_results(outcomes: list[Outcome]) -> None:
    """Write the table, for people and for programs, and the versions of what was run."""
    columns = ["cell", "python", *LIBRARIES, "state", "passed", "failed", "skipped", "commit"]
    rows = [
        [
            one.cell,
            one.python,
            *(one.versions.get(name, "") for name in LIBRARIES),
            one.state,
            *((one.passed, len(one.failures), one.skipped) if one.passed else ("", "", "")),
            one.commit,
        ]
        for one in outcomes
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    _written(RESULTS / "matrix.csv", text.getvalue())
    _written(RESULTS / "matrix.md", _page(columns, rows, outcomes))
    for one in outcomes:
        if one.state == "passed" and one.cell in ENDS:
            _written(RESULTS / "matrix" / f"{one.cell}.txt", one.requirements)


def _page(columns: list[str], rows: list[list], outcomes: list[Outcome]) -> str:
    lines = [
        "# What was tested with what",
        "",
        "`make matrix`. Cells with a full version of Python were installed and ran tests, the",
        "others resolved only. What each is: [docs/compatibility.md](../docs/compatibility.md).",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * 6 + " --- |" + " --: |" * 3 + " --- |",
        *("| " + " | ".join(str(value) for value in row) + " |" for row in rows),
        "",
        "All versions: [newest.txt](matrix/newest.txt), [lowest.txt](matrix/lowest.txt).",
    ]
    failures = [f"- {one.cell}: `{failure}`" for one in outcomes for failure in one.failures]
    if failures:
        lines += ["", "Failed:", "", *failures]
    return "\n".join(lines) + "\n"


def _sentence(outcome: Outcome) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in outcome.versions.items())
    counts = f", {outcome.passed} tests passed in {outcome.seconds} s" if outcome.passed else ""
    return "\n    ".join([f"{outcome.state}: {versions}{counts}", *outcome.failures])


def _versions(requirements: str) -> dict[str, str]:
    found = dict(re.findall(r"^([\w.-]+)==([\w.+]+)", requirements, flags=re.MULTILINE))
    return {name: found[name] for name in LIBRARIES}


def _record(cell: Cell) -> Path:
    return WORK / f"{re.sub(r'[^a-z0-9.]+', '-', cell.name.lower())}.json"


def _read(cell: Cell) -> Outcome | None:
    """Return what came of a cell before; None where it was not run, or with less."""
    if not _record(cell).exists():
        return None
    outcome = Outcome(**json.loads(_record(cell).read_text(encoding="utf-8")))
    return None if cell.interpreter and outcome.state == "resolved" else outcome


def _commit() -> str:
    return _output("git", "rev-parse", "--short", "HEAD", cwd=ROOT)


def _uv() -> str:
    found = shutil.which("uv", path=sysconfig.get_path("scripts")) or shutil.which("uv")
    if not found:
        raise CellError("uv is missing: pip install uv")
    return found


def _output(*words: object, cwd: Path | None = None) -> str:
    """Return what a command prints.

    Raises:
        CellError: It failed.
    """
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CellError(f"{Path(str(words[0])).name} {words[1]}: {_last_line(done.stderr)}")
    return done.stdout.strip()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
