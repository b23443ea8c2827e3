"""Without an optional package, the error names the extra that brings it."""

from __future__ import annotations

import json
import subprocess
import sys

_CASES = [
    ("torch", "s3dlio.compat.s3torchconnector", "torch"),
    ("torch", "s3dlio.compat.s3torchconnector.dcp", "torch"),
    ("torch", "s3dlio.compat.s3torchconnectorclient", "torch"),
    ("trio", "s3dlio.compat.s3torchconnector", None),
    ("lightning", "s3dlio.compat.s3torchconnector.lightning", "lightning"),
    ("packaging", "s3dlio.compat.s3torchconnector.lightning", "lightning"),
]

_PROGRAM = """
import json, os, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for absent, imported in json.loads(sys.argv[1]):
    if absent not in ("torch", "trio"):
        import torch  # which the rest has
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        continue
    for name in list(sys.modules):
        if name.partition(".")[0] == absent:
            del sys.modules[name]
    sys.meta_path.insert(0, Blocker())
    try:
        __import__(imported)
    except ImportError as error:
        print(type(error).__name__, error.name, error)
    break
"""


def test_the_error_names_the_extra() -> None:
    """Each case in a fork of one interpreter."""
    pairs = json.dumps([case[:2] for case in _CASES])
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, pairs], capture_output=True, text=True, timeout=200, check=True
    )
    told = [
        f"ModuleNotFoundError {absent} No module named '{absent}'"
        + (f". Install it with: pip install 's3dlio[{extra}]'" if extra else "")
        for absent, _, extra in _CASES
    ]
    assert done.stdout.splitlines() == told
