"""The benchmark of diagnoses still runs: one sick training, its twin, a healthy one, and the peers."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_gauntlet_runs():
    names = ["shallow/logistic_regression", "wiring/optimizer_of_a_copy"]
    command = [sys.executable, "-m", "benchmarks.gauntlet", "--half", "tuned", "--processes", "1", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("| gradiometer"))
    assert "100% (1 of 1)" in row
    assert "TheDeepChecker" in done.stdout
