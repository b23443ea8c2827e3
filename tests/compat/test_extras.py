"""Without an optional package, the error names the extra that brings it."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
try:
    __import__(sys.argv[2])
except ImportError as error:
    print(type(error).__name__, error.name, error)
"""


@pytest.mark.parametrize(
    ("absent", "imported", "extra"),
    [
        ("torch", "s3dlio.compat.s3torchconnector", "torch"),
        ("torch", "s3dlio.compat.s3torchconnector.dcp", "torch"),
        ("torch", "s3dlio.compat.s3torchconnectorclient", "torch"),
        ("lightning", "s3dlio.compat.s3torchconnector.lightning", "lightning"),
        ("packaging", "s3dlio.compat.s3torchconnector.lightning", "lightning"),
        ("trio", "s3dlio.compat.s3torchconnector", None),
    ],
)
def test_the_error_names_the_extra(absent: str, imported: str, extra: str | None) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, absent, imported], capture_output=True, text=True, timeout=200, check=True
    )
    advice = f". Install it with: pip install 's3dlio[{extra}]'" if extra else ""
    assert done.stdout.strip() == f"ModuleNotFoundError {absent} No module named '{absent}'{advice}"
