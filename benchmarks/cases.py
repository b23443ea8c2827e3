"""What is measured, and what is found."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from .usage import begin_peak, cpu_seconds, memory

KiB = 1 << 10
MiB = 1 << 20
LATENCY = 0.020
"""Seconds to the first byte from the slow server."""

Verb = Literal["get", "check", "list", "write", "save", "load"]
"""Read objects; read objects of which the server tells checksums; list their keys; write one in pieces; write one by
`torch.save`; read objects into tensors, on a GPU where there is one."""


@dataclass(frozen=True)
class Case:
    """Do `verb` to `count` objects of `size` bytes in `bucket`, `passes` times over, after `warm_up` objects."""

    name: str
    title: str
    bucket: str
    count: int
    size: int
    warm_up: int
    passes: int = 1
    verb: Verb = "get"
    slow: bool = False
    """From the server that answers late, by plain iteration or by as many requests at once as the client likes."""
    tls: bool = False
    """Over TLS, by the clients that can be told whom to trust."""
    busy: bool = False
    """While another thread of the process computes, in Python, without an end."""
    think: float = 0.0
    """Seconds for which the consumer computes, in Python, with each object."""
    workers: int = 0
    """How many processes of a DataLoader read, forked, which stay from pass to pass."""

    @property
    def keys(self) -> list[str]:
        return [f"{number:06}" for number in range(self.count)]

    @property
    def is_large(self) -> bool:
        return self.size >= 16 * MiB

    @property
    def reads(self) -> bool:
        """Whether there has to be something in its bucket."""
        return self.verb in ("get", "check", "list", "load")

    @property
    def by_iteration(self) -> bool:
        """Whether it is of the classes that are swapped alone."""
        return self.verb in ("save", "load") or bool(self.think or self.workers)


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
    first_seconds: float = 0.0
    """Of the warm-up, from when the client is loaded; of all objects, once, in the cases of large and small ones."""


@dataclass
class Job:
    """What a client is given: the case, a clock, and a place to count what was read."""

    case: Case
    result: Measurement
    _resident: int = 0
    _started: float = 0.0

    def count(self, size: int) -> None:
        """One object of `size` bytes was read, or written, or one key was listed."""
        self.result.objects += 1
        self.result.bytes += size

    def start(self) -> None:
        """The client is loaded; the first object has not been asked for."""
        if self.case.busy:  # only now: the imports of some clients take minutes beside it
            threading.Thread(target=_compute, daemon=True).start()
        self._resident = begin_peak()
        self._started = time.perf_counter()

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """The part that counts, after the warm-up."""
        self.result.first_seconds = time.perf_counter() - self._started
        self.result.objects = self.result.bytes = 0
        cpu, begin = cpu_seconds(), time.perf_counter()
        yield
        self.result.seconds = time.perf_counter() - begin
        self.result.cpu_seconds = cpu_seconds() - cpu
        self.result.peak_bytes = memory("VmHWM") - self._resident


def _compute() -> None:
    while True:
        pass


def think(seconds: float) -> None:
    """Compute, in Python, for so long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def cases(*, quick: bool) -> list[Case]:
    """All cases; quick ones have smaller large objects."""
    size, many = (64 if quick else 256) * MiB, "1,000 objects of 128 KiB"
    large = Case("large", f"4 objects of {size // MiB} MiB", "large", 4, size, warm_up=4)
    small = Case("small", many, "small", 1000, 128 * KiB, warm_up=1000, passes=3)
    encrypted = [
        replace(case, name=f"{case.name}, TLS", title=f"{case.title}, TLS", tls=True) for case in (large, small)
    ]
    beside = "beside a thread that computes"
    crowded = [
        replace(case, name=f"{case.name}, busy", title=f"{case.title}, {beside}", passes=1, busy=True)
        for case in (large, small, *encrypted)
    ]
    checked = replace(large, name="checked", title=f"{large.title}, with checksums", bucket="checked", verb="check")
    tensors = replace(large, name="load", title=f"{large.title} as tensors, on a GPU where there is one", verb="load")
    reads = [large, checked, tensors, small, *_late(small), *encrypted, *crowded, *_consumed(small)]
    return [*reads, *_listings(), *_writes(size)]


def _late(small: Case) -> list[Case]:
    late = f"of 128 KiB, {LATENCY * 1000:.0f} ms to the first byte"
    few = replace(
        small, name="slow", title=f"200 objects {late}", bucket="few", count=200, warm_up=0, passes=1, slow=True
    )
    return [few, replace(few, name="slow, many", title=f"2,000 objects {late}", bucket="many", count=2000)]


def _consumed(small: Case) -> list[Case]:
    busy = "300 objects of 128 KiB, 2 ms of Python with each"
    thinking = replace(small, name="think", title=busy, bucket="some", count=300, warm_up=300, passes=1, think=0.002)
    forked = replace(small, name="workers", title=f"{small.title}, DataLoader of 4 processes that stay", workers=4)
    return [thinking, forked]


def _listings() -> list[Case]:
    one = Case("list", "a listing of 1,000 keys", "page", 1000, 0, warm_up=1000, passes=20, verb="list")
    many = replace(
        one,
        name="list, long",
        title="a listing of 100,000 keys",
        bucket="pages",
        count=100_000,
        warm_up=100_000,
        passes=1,
    )
    return [one, many]


def _writes(size: int) -> list[Case]:
    write = Case("write", f"a checkpoint of {2 * size // MiB} MiB", "sink", 1, 2 * size, 1, verb="write", passes=2)
    title = f"`torch.save` of {4 * size // MiB} MiB"
    return [write, replace(write, name="save", title=title, size=4 * size, verb="save", passes=1)]
