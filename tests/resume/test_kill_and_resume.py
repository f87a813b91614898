"""The kill-and-resume script in its smaller form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("kill_and_resume.py")


def test_a_run_that_is_killed_and_resumed_ends_with_the_same_bits():
    options = ["--kills", "2", "--iterations", "12"]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit-identical" in done.stdout
