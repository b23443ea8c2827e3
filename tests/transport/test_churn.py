"""A few seconds of :mod:`.churn`, in a process of its own, plain, over TLS, and of several endpoints."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("options", [(), ("--tls",), ("--endpoints", "4")], ids=["plain", "TLS", "several"])
@pytest.mark.timeout(300)
def test_nothing_is_left(compiled_pump: bool, options: tuple[str, ...]) -> None:
    if not compiled_pump:
        pytest.skip("the pump cannot be compiled here, or is not to be")
    program = [sys.executable, "-X", "dev", "-W", "error", "-m", "tests.transport.churn", "--seconds", "3"]
    done = subprocess.run([*program, *options], capture_output=True, text=True, timeout=280, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
