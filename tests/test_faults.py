"""The script that strikes commands runs, and finds every promise kept. How often is its matter."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "faults.py"


@pytest.mark.system
def test_struck_commands_and_broken_surroundings_resume(tmp_path):
    words = ["--times", "8", "--seed", "3", "--cases", "all", "--folder", str(tmp_path / "lab")]
    command = [sys.executable, str(SCRIPT), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 strikes, 0 with a violation" in done.stdout
    assert " cases, 0 broken" in done.stdout
