"""Where forked children are when a test has taken too long: what hangs is often one of them, such as a worker."""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

_told = tempfile.TemporaryFile("w+")  # noqa: SIM115 - for as long as the process lives, and its children
_PATIENCE = 1.0


def pytest_configure() -> None:
    """A forked child inherits it: at this signal it writes its threads' stacks, whatever it waits for."""
    faulthandler.register(signal.SIGUSR1, _told)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add the stacks to the report of a test that was ended for its time."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if call.excinfo is not None and "pytest-timeout" in str(call.excinfo.value):
        report.sections.append(("Stacks of forked children", _stacks()))
    return report  # type: ignore[return-value]


def _stacks() -> str:
    for child in _forked():
        os.kill(child, signal.SIGUSR1)
    time.sleep(_PATIENCE)
    _told.seek(0)
    return _told.read()


def _forked() -> list[int]:
    """Children that run this very program: any other would be ended by the signal."""
    own = Path("/proc/self/cmdline").read_bytes()
    found = [int(each) for tasks in Path("/proc/self/task").glob("*/children") for each in tasks.read_text().split()]
    return [child for child in found if Path(f"/proc/{child}/cmdline").read_bytes() == own]
