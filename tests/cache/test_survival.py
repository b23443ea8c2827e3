"""The short form of :mod:`.survival`: by its command, as pytest has threads, and forks are to have none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_writers_are_killed_and_no_byte_is_wrong() -> None:
    command = [sys.executable, "-m", "tests.cache.survival", "--kills", "10", "--writers", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stdout.startswith("10 kills")) == (0, True), done.stderr
