"""An epoch over eight endpoints, of which three are killed: `python -m benchmarks.endpoints --help`.

One SeaweedFS stands behind eight gateways, each a process that lets so many bytes a second through. From the start one
is ten times slower, and one refuses all requests. A `DataLoader` of some processes reads small objects; after a third
of them three gateways are killed, and started again after another. What is read is compared, and drawn over time beside
what the gateways let through. A batch is there when its last object is: so it takes more than two processes to ask
eight gateways for all that they can give.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import trio

import s3dlio
from s3dlio.compat.s3torchconnector import S3MapDataset, S3Reader
from tests.servers.gateway import Gateway
from tests.servers.seaweedfs import SeaweedFS, seaweedfs

BUCKET = "endpoints"
SIZE = 64 << 10
RATE = 2_000_000
"""Bytes a second of a gateway; few, so that no processor is what is measured."""

_KILLED, _SLOW, _REFUSES, _WELL = 3, 1, 1, 3
_STEP = 0.5
"""Seconds of one point of the curve."""


@dataclass
class Run:
    """What was read when, in seconds from the first batch on."""

    count: int
    batches: list[tuple[float, int]] = field(default_factory=list)
    """When one came, and of how many bytes."""
    killed_at: float = 0.0
    back_at: float = 0.0
    wrong: int = 0
    missing: int = 0
    twice: int = 0

    def rate(self, start: float, end: float) -> float:
        """Bytes a second between two moments."""
        return sum(size for when, size in self.batches if start <= when < end) / max(end - start, 1e-9)

    def allowed(self, when: float) -> float:
        """Bytes a second that the gateways let through then."""
        there = _WELL + (0 if self.killed_at <= when < self.back_at else _KILLED)
        return RATE * (there + 0.1 * _SLOW)


def content(key: str) -> bytes:
    """The body of an object."""
    return random.Random(key).randbytes(SIZE)


def told(reader: S3Reader) -> tuple[str, int, int]:
    """Of an object its key, size and checksum: its bytes stay in the worker."""
    body = reader.read()
    return reader.key, len(body), zlib.crc32(body)


@contextlib.contextmanager
def gateways(server: SeaweedFS) -> Iterator[list[Gateway]]:
    """The eight: those to be killed first, then the slow one, the one that refuses, and the rest."""
    behind = int(server.endpoint.rpartition(":")[2])
    usual, slow = ("--rate", str(RATE)), ("--rate", str(RATE / 10))
    options = [*[usual] * _KILLED, *[slow] * _SLOW, *[("--refuse",)] * _REFUSES, *[usual] * _WELL]
    with tempfile.TemporaryDirectory() as logs, contextlib.ExitStack() as running:
        found = [Gateway(behind, Path(logs) / f"{number}", *each) for number, each in enumerate(options)]
        for gateway in found:
            gateway.start()
            running.callback(gateway.stop)
        yield found


async def fill(server: SeaweedFS, keys: list[str]) -> None:
    """Write all objects."""
    server.create_bucket(BUCKET)
    limit = trio.CapacityLimiter(32)
    async with s3dlio.open_store(f"s3://{BUCKET}") as store, trio.open_nursery() as nursery:

        async def put(key: str) -> None:
            async with limit:
                await store.put(key, content(key))

        for key in keys:
            nursery.start_soon(put, key)


def epoch(keys: list[str], through: list[Gateway], workers: int) -> Run:
    """Read all once, in batches of 16; kill and start gateways on the way."""
    from torch.utils.data import DataLoader

    run, seen, expected = Run(len(keys)), Counter[str](), {key: zlib.crc32(content(key)) for key in keys}
    uris = [f"s3://{BUCKET}/{key}" for key in keys]
    endpoint = ",".join(gateway.endpoint for gateway in through)
    dataset = S3MapDataset.from_objects(uris, region="us-east-1", endpoint=endpoint, transform=told)
    loader = DataLoader(dataset, batch_size=16, num_workers=workers, multiprocessing_context="fork", collate_fn=list)
    begun = 0.0
    for batch in loader:
        begun = begun or time.monotonic()
        run.batches.append((time.monotonic() - begun, sum(size for _, size, _ in batch)))
        seen.update(key for key, _, _ in batch)
        run.wrong += sum(expected[key] != checksum for key, _, checksum in batch)
        _strike(run, through[:_KILLED], seen.total() / len(keys), begun)
    run.missing, run.twice = len(set(keys) - set(seen)), sum(times > 1 for times in seen.values())
    return run


def _strike(run: Run, victims: list[Gateway], done: float, begun: float) -> None:
    if not run.killed_at and done > 1 / 3:
        for gateway in victims:
            gateway.stop()
        run.killed_at = time.monotonic() - begun
    if not run.back_at and done > 2 / 3:
        for gateway in victims:
            gateway.start()
        run.back_at = time.monotonic() - begun


def lines(run: Run) -> Iterator[str]:
    """What was found, in Markdown."""
    end = run.batches[-1][0]
    yield f"{run.count} objects of {SIZE >> 10} KiB: {run.wrong} wrong, {run.missing} missing, {run.twice} twice"
    yield ""
    yield "| time | read, MB/s | of what the gateways let through |"
    yield "| --- | ---: | ---: |"
    spans = {
        "before": (2.0, run.killed_at),
        "three dead, the first 2 s": (run.killed_at, run.killed_at + 2),
        "three dead, from then on": (run.killed_at + 2, run.back_at),
        "back, the first 10 s": (run.back_at, min(run.back_at + 10, end)),
        "back, from then on": (run.back_at + 10, end),
    }
    for name, (first, last) in spans.items():
        if last - first > 1:
            rate = run.rate(first, last)
            yield f"| {name} | {rate / 1e6:.1f} | {rate / run.allowed((first + last) / 2):.2f} |"


def draw(run: Run, place: Path) -> None:
    """The curve."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    end = run.batches[-1][0]
    moments = [_STEP * number for number in range(int(end / _STEP))]
    figure, axes = pyplot.subplots(figsize=(9, 3), layout="constrained")
    axes.plot(moments, [run.allowed(when) / 1e6 for when in moments], color="#c8c8c8", label="let through")
    axes.plot(moments, [run.rate(when, when + _STEP) / 1e6 for when in moments], color="#1f6f8b", label="read")
    for when, what in ((run.killed_at, "three of eight killed"), (run.back_at, "started again")):
        axes.axvline(when, color="black", linewidth=0.8)
        axes.annotate(what, (when, 0), xytext=(4, 4), textcoords="offset points")
    axes.set_xlabel("seconds")
    axes.set_ylabel("MB/s")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(place, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endpoints", description=__doc__)
    parser.add_argument("--count", type=int, default=9000, metavar="N", help="how many objects (9000)")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="processes of the DataLoader (4)")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write the curve and all that was measured there")
    options = parser.parse_args()
    keys = [f"{number:06}" for number in range(options.count)]
    with seaweedfs() as server, gateways(server) as through:
        os.environ.update(server.environment())
        trio.run(fill, server, keys)
        run = epoch(keys, through, options.workers)
    print(*lines(run), sep="\n")
    if options.write:
        options.write.mkdir(parents=True, exist_ok=True)
        (options.write / "endpoints.json").write_text(json.dumps(asdict(run)))
        draw(run, options.write / "endpoints.svg")


if __name__ == "__main__":
    main()
