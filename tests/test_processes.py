"""Several processes do what one does: a sample here, all of it in `make test-system`."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "processes.py"


def run_script(*words: str) -> str:
    command = [sys.executable, str(SCRIPT), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_tests_and_trainings_in_several_processes_equal_those_of_one(tmp_path):
    printed = run_script("--quick", "--parts", "testing,training", "--folder", str(tmp_path))
    assert "54 rows equal a lone process's" in printed
    assert "the same 3 were skipped" in printed
    assert "0 wrong" in printed


@pytest.mark.system
def test_every_number_of_processes_two_machines_and_processes_that_die(tmp_path):
    printed = run_script("--times", "9", "--folder", str(tmp_path))
    for part in ("testing", "training", "ends", "agents", "deaths"):
        assert f"{part}: " in printed
    assert "0 wrong" in printed
