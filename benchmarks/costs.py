"""What requests, bytes, memory and CPU cost, fitted, and compared at four times the size: `python -m benchmarks.costs`.

Each way to work with objects is run in fresh processes, of several counts and sizes, and a linear model is fitted to
what they took (:mod:`.cost_model`). Then each is run with four times as many objects as the largest of these, and the
difference to what the model says is printed; and what the model says of a thousand ranks.

Processes are forked from one that has imported everything, and has done nothing yet: what a process takes at all is
counted without imports, which are told of by themselves. CPU is that of the client's process. The objects of a bucket
are links to one file, so that a server finds them in its page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import string
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import s3dlio
from tests.servers.process import without_cloud_variables

from .__main__ import SETTINGS
from .cases import Case, KiB, MiB
from .cost_model import QUANTITIES, Job, Model, Run, coefficients, difference, epoch, fit, keys
from .objects import write_objects
from .servers import ROOT, Server, fast_server, sink_server
from .usage import begin_peak, cpu_seconds, memory

_GROWN = 4
_AGREES = 0.20
_REGION = "us-east-1"
_BATCH = 32

Work = Callable[[], int]
"""Gives how many objects it did something with."""

JOBS = (
    Job("100 M objects of 10 MB: 1 PB", 1000, 8, 100_000_000, 10_000_000, 64, 1e9),
    Job("100 M objects of 128 KiB", 1000, 8, 100_000_000, 128 * KiB, 64, 1e9),
)
_PAGES_A_SECOND = 10.0
"""Of one listing in sequence: a page of a store in the cloud takes about 100 ms."""


@dataclass(frozen=True)
class Shape:
    """So many objects of so many bytes."""

    count: int
    size: int

    @property
    def bucket(self) -> str:
        """A name of letters alone."""
        digits = f"{self.count}x{self.size}"
        return "".join(string.ascii_lowercase[int(each)] if each.isdigit() else each for each in digits)


@dataclass(frozen=True)
class Way:
    """How to work with objects: `prepare` gives what is measured, of objects of that shape."""

    name: str
    prepare: Callable[[Shape, Path], Work]
    counts: Sequence[int]
    sizes: Sequence[int]
    tls: bool = False
    holds_few: bool = False
    """Memory is for some objects at a time, not for all."""
    sinks: bool = False
    """It writes, to a server that keeps nothing."""

    @property
    def reads(self) -> bool:
        """Whether there has to be something at the server."""
        return not self.sinks and self.prepare is not _shuffle_manifest

    @property
    def shapes(self) -> list[Shape]:
        return [Shape(count, size) for count in self.counts for size in self.sizes]

    @property
    def grown(self) -> Shape:
        return Shape(_GROWN * max(self.counts), max(self.sizes))


def _iterate(shape: Shape, folder: Path) -> Work:
    from s3dlio.compat.s3torchconnector import S3IterableDataset

    def work() -> int:
        items = S3IterableDataset.from_prefix(f"s3://{shape.bucket}/", region=_REGION)
        return sum(len(item.read()) == shape.size for item in items)

    return work


def _length(item: Any) -> int:
    return len(item.read())


def _index(shape: Shape, folder: Path) -> Work:
    from s3dlio.compat.s3torchconnector import S3MapDataset

    def work() -> int:
        found = S3MapDataset.from_prefix(f"s3://{shape.bucket}/", region=_REGION, transform=_length)
        numbers = range(len(found))
        batches = (found.__getitems__(numbers[start : start + _BATCH]) for start in numbers[::_BATCH])
        return sum(size == shape.size for batch in batches for size in batch)

    return work


def _state(shape: Shape) -> dict[str, Any]:
    import torch

    return {f"{number:06}": torch.full((shape.size,), number % 251, dtype=torch.uint8) for number in range(shape.count)}


def _save(shape: Shape, folder: Path) -> Work:
    import torch

    from s3dlio.compat.s3torchconnector import S3Checkpoint

    state = _state(shape)

    def work() -> int:
        with S3Checkpoint(region=_REGION).writer("s3://sink/checkpoint") as writer:
            torch.save(state, writer)
        return len(state)

    return work


def _load(shape: Shape, folder: Path) -> Work:
    import torch

    from s3dlio.compat.s3torchconnector import S3Checkpoint

    def work() -> int:
        with S3Checkpoint(region=_REGION).reader(f"s3://{shape.bucket}/checkpoint") as reader:
            return len(torch.load(reader, weights_only=True))

    return work


def _list(shape: Shape, folder: Path) -> Work:
    from s3dlio.compat.s3torchconnector import S3MapDataset

    return lambda: len(S3MapDataset.from_prefix(f"s3://{shape.bucket}/", region=_REGION))


def _make_manifest(shape: Shape, folder: Path) -> Work:
    from s3dlio import manifest

    def work() -> int:
        manifest.create(f"s3://{shape.bucket}/", folder / f"{shape.bucket}.manifest")
        return len(manifest.load(folder / f"{shape.bucket}.manifest"))

    return work


def _shuffle_manifest(shape: Shape, folder: Path) -> Work:
    """Of a manifest that the way before has made."""
    from s3dlio.compat.s3torchconnector import S3IterableDataset

    place = folder / f"{shape.bucket}.manifest"

    def work() -> int:
        return sum(1 for _ in S3IterableDataset.from_manifest(place, region=_REGION, shuffle=True))

    return work


_SMALL: Mapping[str, Any] = {"counts": (1000, 2000), "sizes": (32 * KiB, 128 * KiB), "holds_few": True}
_LARGE: Mapping[str, Any] = {"counts": (8, 16), "sizes": (32 * MiB, 64 * MiB), "holds_few": True}
_STATES: Mapping[str, Any] = {"counts": (32, 64), "sizes": (2 * MiB, 4 * MiB)}
_KEYS: Mapping[str, Any] = {"counts": (50_000, 100_000), "sizes": (0,)}

WAYS = (
    Way("small objects, iterable", _iterate, **_SMALL),
    Way("small objects, iterable, TLS", _iterate, **_SMALL, tls=True),
    Way("small objects, map", _index, **_SMALL),
    Way("large objects, iterable", _iterate, **_LARGE),
    Way("large objects, iterable, TLS", _iterate, **_LARGE, tls=True),
    Way("checkpoint, saved", _save, **_STATES, holds_few=True, sinks=True),
    Way("checkpoint, loaded", _load, **_STATES),
    Way("keys, listed", _list, **_KEYS),
    Way("keys, written to a manifest", _make_manifest, **_KEYS),
    Way("keys, shuffled from a manifest", _shuffle_manifest, **_KEYS),
)


def forked(work: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """What `work` tells, in a process of its own. Errors: `RuntimeError`; what went wrong is on stderr."""
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        _tell(work, sending)
    os.close(sending)
    with open(receiving) as pipe:
        told = pipe.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("a process failed")
    return dict(json.loads(told))


def _tell(work: Callable[[], Mapping[str, Any]], sending: int) -> None:
    """In the child, which ends here."""
    try:
        with open(sending, "w") as pipe:
            json.dump(work(), pipe)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def measure(way: Way, shape: Shape, folder: Path, server: Server) -> Mapping[str, Any]:
    """What a :class:`Run` says, of this process. Errors: `RuntimeError` where not all was done."""
    os.environ.update(server.encrypted if way.tls else server.environment)
    work = way.prepare(shape, folder)
    resident, cpu = begin_peak(), cpu_seconds()
    done = work()
    used, grown = cpu_seconds() - cpu, memory("VmHWM") - resident
    if done != shape.count:
        raise RuntimeError(f"{way.name}: {done} objects, not {shape.count}")
    asked = s3dlio.stats().endpoints
    requests = sum(each.requests + sum(each.failures.values()) for each in asked)
    moved = sum(each.received + each.sent for each in asked)
    return asdict(Run(shape.count, shape.size, requests, moved, used, max(grown, 0)))


def typical(runs: Sequence[Run]) -> Run:
    """The median of each quantity."""
    middle = {name: median(getattr(run, name) for run in runs) for name in QUANTITIES}
    return Run(runs[0].count, runs[0].size, **middle)


def run(ways: Sequence[Way], folder: Path, rounds: int) -> dict[str, list[Run]]:
    """Of each way what its shapes took, and, last, what four times the largest did."""
    found: dict[str, list[Run]] = {}
    with ExitStack() as servers:
        fast = servers.enter_context(fast_server(folder / "objects", []))
        sink = servers.enter_context(sink_server(folder / "objects"))
        if fast.name != "nginx":
            raise RuntimeError("nginx is needed: it alone costs less than what is measured")
        for way in ways:
            shapes = [*way.shapes, way.grown]
            turns = [_turn(way, shapes, folder, sink if way.sinks else fast) for _ in range(rounds)]
            found[way.name] = [typical(each) for each in zip(*turns, strict=True)]
            print(f"{way.name}: {found[way.name][-1]}", file=sys.stderr, flush=True)
    return found


def _turn(way: Way, shapes: Sequence[Shape], folder: Path, server: Server) -> list[Run]:
    return [Run(**forked(partial(measure, way, shape, folder, server))) for shape in shapes]


def write(ways: Sequence[Way], folder: Path) -> None:
    """All that is read: objects, each a link to one of its size, with their listings, and checkpoints."""
    (folder / "objects").mkdir()
    shapes = {(way.prepare is _load, shape) for way in ways if way.reads for shape in (*way.shapes, way.grown)}
    for is_checkpoint, shape in shapes:
        if is_checkpoint:
            forked(partial(_write_checkpoint, shape, folder / "objects" / f"{shape.bucket}"))
        else:
            _write_objects(shape, folder)


def _write_objects(shape: Shape, folder: Path) -> None:
    body = folder / f"body-{shape.size}"
    if not body.exists():
        body.write_bytes(os.urandom(shape.size))
    write_objects(folder / "objects", Case("", "", shape.bucket, shape.count, shape.size, 0), body)


def _write_checkpoint(shape: Shape, place: Path) -> Mapping[str, Any]:
    import torch

    place.mkdir()
    torch.save(_state(shape), place / "checkpoint")
    return {}


_IMPORTS = """
import json
from s3dlio.compat import s3torchconnector
from benchmarks.usage import cpu_seconds, memory
print(json.dumps([cpu_seconds(), memory("VmRSS")]))
"""


def imports() -> tuple[float, float]:
    """CPU seconds and bytes of memory that a process takes which imports what a data set needs."""
    done = subprocess.run([sys.executable, "-c", _IMPORTS], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    cpu, resident = json.loads(done.stdout)
    return cpu, resident


def comparison(models: Mapping[str, Model], found: Mapping[str, Sequence[Run]]) -> list[str]:
    """What the model says of the largest runs, which it was not fitted to, beside what they took."""
    lines = ["| way | objects | requests | bytes | CPU | memory |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for name, model in models.items():
        largest = found[name][-1]
        off = [difference(model, largest, each) for each in QUANTITIES]
        cells = " | ".join(f"{each:+.1%}{'' if abs(each) <= _AGREES else ' (!)'}" for each in off)
        lines.append(f"| {name} | {largest.count:,} of {largest.size:,} B | {cells} |")
    return lines


def table(title: str, rows: Sequence[tuple[str, str]]) -> list[str]:
    return ["", f"| {title} | |", "| --- | ---: |", *(f"| {name} | {value} |" for name, value in rows)]


def extrapolation(models: Mapping[str, Model]) -> list[str]:
    """Of each job, what an epoch takes, and what it takes to know the keys."""
    lines: list[str] = []
    for job in JOBS:
        size = "small" if job.size < MiB else "large"
        plain, tls = models[f"{size} objects, iterable"], models[f"{size} objects, iterable, TLS"]
        lines += table(f"{job.title}; {job.ranks:,} ranks of {job.workers} processes", [*epoch(job, plain, tls)])
    names = ("listed", "written to a manifest", "shuffled from a manifest")
    listed, made, shuffled = (models[f"keys, {each}"] for each in names)
    return lines + table(f"{JOBS[0].count:,} keys", [*keys(JOBS[0], listed, made, shuffled, _PAGES_A_SECOND)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.costs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="runs of each kind, whose median counts (3)")
    parser.add_argument("--only", default="", metavar="TEXT", help="ways whose names have it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all runs there")
    options = parser.parse_args()
    environment = without_cloud_variables(os.environ) | SETTINGS
    os.environ.clear()
    os.environ.update(environment)
    ways = [way for way in WAYS if options.only in way.name]
    cpu, resident = imports()
    import torch
    import torch.utils.data

    import s3dlio.compat.s3torchconnector  # noqa: F401

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="s3dlio-costs-") as name:
        write(ways, Path(name))
        found = run(ways, Path(name), options.rounds)
    if options.json:
        options.json.write_text(json.dumps({name: [asdict(each) for each in runs] for name, runs in found.items()}))
    models = {way.name: fit(found[way.name][:-1], holds_few=way.holds_few) for way in ways}
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, medians of {options.rounds}")
    print(f"Imports of a process: {cpu:.1f} s of CPU, {resident / 1e6:.0f} MB")
    print("", *coefficients(models), "", *comparison(models, found), sep="\n")
    if len(ways) == len(WAYS):
        print(*extrapolation(models), sep="\n")


if __name__ == "__main__":
    main()
