"""What setup.cfg, the documentation and `make matrix` say of versions is the same."""

import configparser
import csv
import re
import runpy
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LIBRARIES = ("timm", "pandas", "scikit-learn", "torch")
ENDS = ("newest", "lowest")


def ranges() -> dict[str, Requirement]:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lines = parser["options"]["install_requires"].split("\n")
    return {one.name: one for one in map(Requirement, filter(None, lines))}


def bound(requirement: Requirement, operator: str) -> Version | None:
    found = [one.version for one in requirement.specifier if one.operator == operator]
    return Version(found[0]) if found else None


def tested() -> dict[str, dict[str, str]]:
    with (ROOT / "results" / "matrix.csv").open(encoding="utf-8") as file:
        return {row["cell"]: row for row in csv.DictReader(file)}


def pinned(end: str) -> dict[str, Version]:
    text = (ROOT / "results" / "matrix" / f"{end}.txt").read_text(encoding="utf-8")
    found = re.findall(r"^([\w.-]+)==([\w.+]+)", text, flags=re.MULTILINE)
    return {name.lower().replace("_", "-"): Version(version) for name, version in found}


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_range_of_a_library_is_what_was_tested(library):
    requirement, cells = ranges()[library], tested()
    assert Version(cells["lowest"][library]) == bound(requirement, ">=")
    newest = Version(cells["newest"][library])
    assert bound(requirement, "<") == Version(str(newest.major + 1))


@pytest.mark.parametrize("end", ENDS)
def test_every_requirement_is_at_the_end_that_was_tested(end):
    versions = pinned(end)
    for name, requirement in ranges().items():
        version = versions[name.lower()]
        assert requirement.specifier.contains(version), name
        least = bound(requirement, ">=")
        if end == "lowest" and least is not None:
            # A lower bound may be below what exists, or below what another library asks for.
            assert version.release[: len(least.release)] >= least.release, name


def test_the_ends_passed_and_other_pythons_resolve():
    cells = tested()
    for end in ENDS:
        assert (cells[end]["state"], cells[end]["failed"]) == ("passed", "0")
        assert cells[end]["python"].startswith("3.11.")
        assert int(cells[end]["passed"]) > 200
        for version in ("3.10", "3.12"):
            assert cells[f"{end} on Python {version}"]["state"] in ("resolved", "passed")


def test_the_documentation_names_the_versions_that_ran():
    cells = tested()
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    for library in LIBRARIES:
        assert f"| {library} | {cells['lowest'][library]} | {cells['newest'][library]} |" in page


def test_cells_take_the_tests_that_exist():
    script = runpy.run_path(str(ROOT / "benchmarks" / "matrix.py"), run_name="matrix")
    cells = script["plan"]({})
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names) == 10
    for cell in cells:
        for test in cell.tests:
            file, _, name = test.partition("::")
            assert (ROOT / file).exists(), test
            assert not name or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), test
    single = script["lowest_version"]("timm")
    assert Version(single) == bound(ranges()["timm"], ">=")
