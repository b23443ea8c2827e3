"""One measurement, in a process of its own: `python -m benchmarks.measure CLIENT CASE`, with the case as JSON.

Prints one line of JSON, a :class:`Measurement`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from .cases import Case
from .clients import CLIENTS


@dataclass
class Measurement:
    """What one client did with one case. CPU time is that of all threads, of the client alone."""

    client: str
    case: str
    version: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    objects: int = 0
    bytes: int = 0
    peak_bytes: int = 0
    """Growth of the resident set, at its largest, since before the first object was read."""


@dataclass
class Job:
    """What a client is given: the case, a clock, and a place to count what was read."""

    case: Case
    result: Measurement
    _resident: int = 0

    def count(self, size: int) -> None:
        """One object of `size` bytes was read."""
        self.result.objects += 1
        self.result.bytes += size

    def start(self) -> None:
        """The client is loaded; the first object has not been asked for."""
        self._resident = begin_peak()

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """The part that counts, after the warm-up."""
        self.result.objects = self.result.bytes = 0
        cpu, begin = cpu_seconds(), time.perf_counter()
        yield
        self.result.seconds = time.perf_counter() - begin
        self.result.cpu_seconds = cpu_seconds() - cpu
        self.result.peak_bytes = memory("VmHWM") - self._resident


def begin_peak() -> int:
    """Bytes that are resident now. The largest resident set is looked for from here on."""
    with contextlib.suppress(OSError):  # not every kernel has it; then the peak may be one of the imports
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, see proc(5)
    return memory("VmRSS")


def cpu_seconds() -> float:
    """CPU time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory(name: str) -> int:
    """A line of /proc/self/status, in bytes. `ru_maxrss` would not do: a child inherits its parent's."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def measure(name: str, case: Case) -> Measurement:
    """Errors: whatever the client raises, and `RuntimeError` where it did not read everything."""
    client = CLIENTS[name]
    result = Measurement(name, case.name, version(client.package))
    client.read(Job(case, result))
    expected = case.count * case.passes
    if (result.objects, result.bytes) != (expected, expected * case.size):
        raise RuntimeError(f"{name} read {result.objects} objects, {result.bytes} bytes, not {expected} objects")
    return result


if __name__ == "__main__":
    print(json.dumps(asdict(measure(sys.argv[1], Case(**json.loads(sys.argv[2]))))), flush=True)
    os._exit(0)  # at times, threads of a Rust runtime abort a process that ends in the usual way
