"""Programs in an interpreter of their own."""

from __future__ import annotations

import os
import subprocess
import sys


def run_python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `code` with this environment and `variables`; warnings are errors, and the output is kept."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | variables,
    )
