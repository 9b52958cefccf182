"""A short run of the soak, in a process of its own: no warning, no finding. `make soak` runs it for ten minutes."""

from __future__ import annotations

import subprocess
import sys

from .test_house import PROJECT


def test_faults_at_random_leave_nothing_behind() -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.soak", "--seconds", "5", "--seed", "7"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    figures = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines())
    assert figures["findings"] == "0"
    assert int(figures["calls"]) > 300
