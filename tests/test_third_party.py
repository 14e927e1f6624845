"""A third party's distribution adds a model, a set and a protocol by entry points and cards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsevit_plugin.cli.main import main

PACKAGE = Path(__file__).parent / "third_party"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Install the package as its user would, but into a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--target", str(folder), str(PACKAGE)]
    subprocess.run(command, check=True)
    return folder


DRIVER = """
import contextlib, io, json, sys
from sparsevit_plugin.cli.main import main

shown = []
for words in json.loads(sys.argv[1]):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(words)
    shown.append([code, out.getvalue()])
print(json.dumps(shown))
"""


@pytest.fixture
def benco(site, tmp_path):
    """`benco(*commands) -> outputs`, in one process that has the package; each must succeed."""

    def run(*commands):
        words = json.dumps([[str(word) for word in command] for command in commands])
        answer = subprocess.run(
            [sys.executable, "-c", DRIVER, words],
            env={**os.environ, "PYTHONPATH": str(site)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        shown = json.loads(answer.stdout.splitlines()[-1])
        assert [code for code, _ in shown] == [0] * len(commands), answer.stderr
        return [text for _, text in shown]

    return run


@pytest.fixture
def source(tmp_path, make_photo, make_mask):
    """The laboratory's set as its server has it."""
    folder = tmp_path / "download"
    for number in range(4):
        make_photo(folder / "edited" / f"{number:04d}.png", seed=number)
        make_mask(folder / "edited" / f"{number:04d}_truth.png", seed=number)
        make_photo(folder / "clean" / f"{number:04d}.png", seed=50 + number)
    return folder


@pytest.mark.slow
def test_it_appears_in_every_command(benco, source, tmp_path):
    root = tmp_path / "data"
    run = ["protocol", "run", "lab-forensics", "--models", "LabNet,AllTampered"]
    models, sets, protocols, _, _, status, table = benco(
        ["models", "--json"],
        ["data", "list"],
        ["protocol", "list"],
        ["data", "import", "LabSet", source, "--data-root", root],
        [*run, "--data-root", root, "--tiny", "--device", "cpu"],
        ["protocol", "status", "lab-forensics"],
        ["table", "lab-forensics", "--format", "csv"],
    )
    known = {row["name"]: row for row in json.loads(models)}
    assert known["LabNet"]["source"] == "lab-forensics 2.5"
    assert known["LabNet"]["image_size"] == 64
    assert "LabSet" in sets
    assert "lab-forensics" in protocols
    assert "2 of 2 rows are finished" in status
    assert "LabNet" in table
    assert "LabSet" in table
    best = next(tmp_path.glob("runs/lab-forensics/train/*/best.safetensors"))
    (shown,) = benco(
        [
            *("test", "--model", "LabNet", "--checkpoint", best, "--test-data-path", "set:LabSet"),
            *("--data-root", root, "--output-dir", tmp_path / "tested", "--device", "cpu"),
        ]
    )
    assert "LabNet" in shown


def test_without_the_package_its_names_are_unknown(capsys):
    assert main(["protocol", "run", "lab-forensics", "--models", "LabNet"]) == 2
    assert 'unknown protocol "lab-forensics"' in capsys.readouterr().err
