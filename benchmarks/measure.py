"""One measurement, in a process of its own: `python -m benchmarks.measure CLIENT CASE`, with the case as JSON.

Prints one line of JSON, a :class:`Measurement`.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from importlib.metadata import version

from .cases import Case, Job, Measurement
from .clients import CLIENTS


def measure(name: str, case: Case) -> Measurement:
    """Errors: whatever the client raises, and `RuntimeError` where it did not read everything."""
    client = CLIENTS[name]
    result = Measurement(name, case.name, version(client.package))
    client.acts[case.verb](Job(case, result))
    expected = case.count * case.passes
    if (result.objects, result.bytes) != (expected, expected * case.size):
        raise RuntimeError(f"{name} read {result.objects} objects, {result.bytes} bytes, not {expected} objects")
    return result


if __name__ == "__main__":
    print(json.dumps(asdict(measure(sys.argv[1], Case(**json.loads(sys.argv[2]))))), flush=True)
    os._exit(0)  # at times, threads of a Rust runtime abort a process that ends in the usual way
