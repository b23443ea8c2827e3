"""What is measured, and what is found."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .usage import begin_peak, cpu_seconds, memory

KiB = 1 << 10
MiB = 1 << 20


@dataclass(frozen=True)
class Case:
    """Read `count` objects of `size` bytes from `bucket`, `passes` times over, after `warm_up` objects unmeasured."""

    name: str
    title: str
    bucket: str
    count: int
    size: int
    warm_up: int
    passes: int = 1
    slow: bool = False
    """Read from the server that answers late, and by plain iteration alone."""
    tls: bool = False
    """Read over TLS, by the clients that can be told whom to trust."""
    busy: bool = False
    """Read while another thread of the process computes, in Python, without an end."""

    @property
    def keys(self) -> list[str]:
        return [f"{number:04}" for number in range(self.count)]

    @property
    def is_large(self) -> bool:
        return self.size >= 16 * MiB


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


LATENCY = 0.020
"""Seconds to the first byte from the slow server."""


def cases(*, quick: bool) -> list[Case]:
    """All cases; quick ones have smaller large objects."""
    size, many = (64 if quick else 256) * MiB, "1,000 objects of 128 KiB"
    large = Case("large", f"4 objects of {size // MiB} MiB", "large", 4, size, warm_up=4)
    small = Case("small", many, "small", 1000, 128 * KiB, warm_up=1000, passes=3)
    late = f"{many}, {LATENCY * 1000:.0f} ms to the first byte"
    plain = [large, small, replace(small, name="slow", title=late, warm_up=16, passes=1, slow=True)]
    encrypted = [
        replace(case, name=f"{case.name}, TLS", title=f"{case.title}, TLS", tls=True) for case in (large, small)
    ]
    beside = "beside a thread that computes"
    crowded = [
        replace(case, name=f"{case.name}, busy", title=f"{case.title}, {beside}", passes=1, busy=True)
        for case in (large, small, *encrypted)
    ]
    return plain + encrypted + crowded
