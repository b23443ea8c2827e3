"""The program whose annotations `make lint` checks, run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("annotated_program.py")


def test_the_annotations_are_of_what_is_given(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(PROGRAM), f"file://{tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "b'some, and more' ['a/large']",
        "14 b'some'",
        "False",
        "b'content' True None BlockingStore",
    ]
