"""`python -m seektune`."""

from __future__ import annotations

import subprocess
import sys


def test_the_module_runs_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "seektune", "--help"], capture_output=True, text=True, check=True
    )
    assert "train" in done.stdout
