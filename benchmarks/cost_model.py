"""What a job costs, from what small ones did: fixed + per object + per byte. Pure.

Of each way to work with objects some runs are measured, of several counts and sizes. CPU seconds, requests and bytes
are fitted by three numbers that are not negative; so is memory, of which the last number counts for one object where
the way holds a few of them at a time. The fit is of relative errors, so that small runs count as much as large ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil
from typing import Any

import numpy as np

QUANTITIES = ("requests", "bytes", "cpu", "memory")
GB = 1e9
_LEAST = {"requests": 1.0, "bytes": 1e3, "cpu": 1e-3, "memory": 1e6}
"""What less than this differs by is no difference."""
_PAGE = 1000
_PART = 8 << 20


@dataclass(frozen=True)
class Run:
    """What one process did with `count` objects of `size` bytes: requests, bytes of bodies, CPU seconds, and the growth
    of its memory in bytes, at its largest.
    """

    count: int
    size: int
    requests: float
    bytes: float
    cpu: float
    memory: float


@dataclass(frozen=True)
class Cost:
    """What a process takes at all, for each object, and for each byte: of all, or of one where it `holds_few`."""

    fixed: float
    per_object: float
    per_byte: float
    holds_few: bool = False

    def of(self, count: float, size: float) -> float:
        """What `count` objects of `size` bytes cost."""
        return self.fixed + self.per_object * count + self.per_byte * (size if self.holds_few else count * size)


Model = dict[str, Cost]
"""By quantity."""


def fit(runs: Sequence[Run], *, holds_few: bool) -> Model:
    """The costs nearest to what the `runs` took. Of a way that `holds_few` objects, memory is by one's size."""
    return {name: _fit(runs, name, holds_few=holds_few and name == "memory") for name in QUANTITIES}


def _fit(runs: Sequence[Run], name: str, *, holds_few: bool) -> Cost:
    if not any(getattr(run, name) for run in runs):
        return Cost(0.0, 0.0, 0.0, holds_few)
    rows = np.array([[1.0, run.count, run.size if holds_few else run.count * run.size] for run in runs])
    measured = np.array([max(getattr(run, name), _LEAST[name]) for run in runs])
    fixed, per_object, per_byte = _least_squares(rows / measured[:, None], np.ones(len(runs)))
    return Cost(float(fixed), float(per_object), float(per_byte), holds_few)


def _least_squares(rows: Any, wanted: Any) -> Any:
    """The numbers, none negative, by which `rows` come nearest to `wanted`: of all choices of columns the best."""
    width, best, least = rows.shape[1], np.zeros(rows.shape[1]), np.inf
    scale = np.abs(rows).max(axis=0)
    scale[scale == 0] = 1.0
    for chosen in (list(each) for size in range(1, width + 1) for each in combinations(range(width), size)):
        part, *_ = np.linalg.lstsq(rows[:, chosen] / scale[chosen], wanted, rcond=None)
        error = float(((rows[:, chosen] / scale[chosen] @ part - wanted) ** 2).sum())
        if (part >= 0).all() and error < least - 1e-12:
            best, least = np.zeros(width), error
            best[chosen] = part / scale[chosen]
    return best


def difference(model: Model, run: Run, name: str) -> float:
    """By which part of what was measured the model is off, above 0 where it says too much."""
    measured: float = max(getattr(run, name), _LEAST[name])
    return max(model[name].of(run.count, run.size), _LEAST[name]) / measured - 1


@dataclass(frozen=True)
class Job:
    """What is extrapolated to: so many ranks, each with so many worker processes, and the data of one epoch."""

    title: str
    ranks: int
    workers: int
    count: int
    size: int
    connections: int
    """Most connections of a process."""
    rate: float
    """Bytes a second that a rank is to be fed with."""

    @property
    def processes(self) -> int:
        return self.ranks * self.workers

    @property
    def share(self) -> float:
        """Objects of one process."""
        return self.count / self.processes


def epoch(job: Job, plain: Model, tls: Model) -> Iterator[tuple[str, str]]:
    """What an epoch takes, all processes together unless it is said otherwise."""
    total = job.count * job.size
    requests = job.count * max(1, ceil(job.size / _PART))
    seconds = total / (job.rate * job.ranks)
    yield "bytes", f"{total / 1e15:.3g} PB"
    yield "requests for objects", f"{requests:,}"
    yield f"time at {job.rate / GB:.2g} GB/s a rank", _duration(seconds)
    yield "requests a second in that time", f"{requests / seconds:,.0f}"
    yield "connections, at most", f"{job.processes * job.connections:,}"
    for name, model in (("plain", plain), ("TLS", tls)):
        used = model["cpu"].of(job.share, job.size) * job.processes
        yield (
            f"CPU, {name}",
            f"{used / 3600:,.0f} core hours, {used / seconds / job.ranks:.2f} cores of each rank's host",
        )
    held = model_memory(plain, job)
    yield "memory for bodies, of a process", f"{held / 1e6:,.0f} MB"


def model_memory(model: Model, job: Job) -> float:
    """Bytes of one process, without what it takes for each key."""
    cost = model["memory"]
    return cost.fixed + cost.per_byte * (job.size if cost.holds_few else job.share * job.size)


def keys(job: Job, listing: Model, making: Model, shuffled: Model, per_second: float) -> Iterator[tuple[str, str]]:
    """What it takes to know the keys: by a listing of each process, by one, and by a manifest."""
    pages = ceil(job.count / _PAGE)
    listed = listing["cpu"].of(job.count, 0)
    yield "one listing", f"{pages:,} requests, {_duration(pages / per_second)} at {per_second:,.0f} pages a second"
    yield "CPU for it", _duration(listed)
    yield (
        "a listing by each process",
        f"{pages * job.processes:,} requests, {listed * job.processes / 3600:,.0f} core hours",
    )
    yield "keys in memory, of a process that holds them all", f"{listing['memory'].of(job.count, 0) / GB:,.1f} GB"
    yield "a manifest, made once", f"{_duration(making['cpu'].of(job.count, 0))} of CPU"
    yield "shuffled from a manifest, of a process", f"{shuffled['memory'].of(job.count, 0) / GB:,.2f} GB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:,.1f} hours"


def coefficients(models: dict[str, Model]) -> Iterator[str]:
    """Of each way what a process, an object and a gigabyte cost, in Markdown."""
    yield "| way | | requests | CPU | memory |"
    yield "| --- | --- | ---: | ---: | ---: |"
    parts: list[tuple[str, Callable[[Cost], float]]] = [
        ("fixed", lambda cost: cost.fixed),
        ("per object", lambda cost: cost.per_object),
        ("per GB", lambda cost: cost.per_byte * GB),
    ]
    for way, model in models.items():
        for number, (name, part) in enumerate(parts):
            requests, cpu, memory = (part(model[each]) for each in ("requests", "cpu", "memory"))
            told = _bytes(memory) if name != "per GB" or not model["memory"].holds_few else _times(model["memory"])
            yield f"| {way if not number else ''} | {name} | {requests:.4g} | {_seconds(cpu)} | {told} |"


def _times(cost: Cost) -> str:
    return f"{cost.per_byte:.1f} times an object"


def _seconds(value: float) -> str:
    return f"{value * 1e6:.1f} µs" if value < 0.01 else f"{value:.3g} s"


def _bytes(value: float) -> str:
    return f"{value:,.0f} B" if value < 1e4 else f"{value / 1e6:,.1f} MB"
