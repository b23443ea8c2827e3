"""Manifests of many keys: `python -m benchmarks.manifests COUNT... [--draw docs/benchmarks]`.

Of each count a manifest is made, of a listing that is generated in the process, as no server here holds so many; then a
fresh process opens it, looks at the first keys in order, and at the first of a shuffled epoch, and sends it to workers
that look at keys all over it. Memory is what the process grew by; of a worker's, what it shares is left out. With
`--draw`, `manifests.svg` in that folder shows how memory grows while they are made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

from s3dlio import manifest
from s3dlio.blocking.store import BlockingStore
from s3dlio.compat.s3torchconnector import S3IterableDataset
from s3dlio.model import ListPage, ObjectColumns

from .plots import draw_memory
from .servers import ROOT
from .usage import begin_peak, memory

_PREFIX, _PAGE, _WORKERS, _BATCH = "train/", 1000, 4, 64
_POINTS = 100

Curve = list[tuple[int, float]]
"""Keys, and the megabytes that the process had grown by when it had come so far."""


def pages(count: int) -> Iterator[ListPage]:
    """A listing of `count` objects, with etags that are not alike."""
    for start in range(0, count, _PAGE):
        numbers = range(start, min(start + _PAGE, count))
        digest = hashlib.md5(str(start).encode(), usedforsecurity=False).hexdigest()
        columns: dict[str, Sequence[object]] = {
            "key": [f"{_PREFIX}{number // 5000:06}/{number:010}.jpg" for number in numbers],
            "size": [100_000 + number % 50_000 for number in numbers],
            "etag": [f'"{digest[:24]}{number % (1 << 32):08x}"' for number in numbers],
        }
        yield ListPage(ObjectColumns(columns))


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Seconds and megabytes that `work` takes."""
    resident, begun = begin_peak(), time.monotonic()
    work()
    return {"s": round(time.monotonic() - begun, 3), "MB": round((memory("VmHWM") - resident) / 1e6, 1)}


def watched(count: int, curve: Curve) -> Iterator[ListPage]:
    """The same; what is resident meanwhile goes to `curve`."""
    before, step = memory("VmRSS"), max(_PAGE, count // _POINTS)
    for number, page in enumerate(pages(count)):
        if number * _PAGE % step < _PAGE:
            curve.append((number * _PAGE, round((memory("VmRSS") - before) / 1e6, 1)))
        yield page


def make(count: int, place: Path) -> dict[str, object]:
    """Make one, of the generated listing."""
    curve: Curve = []
    with mock.patch.object(BlockingStore, "list_pages", return_value=watched(count, curve)):
        made = timed(lambda: manifest.create(f"s3://bucket/{_PREFIX}", place))
    beside = round((place.stat().st_size - _text(count)) / count, 2)
    return made | {"bytes a key beside its text": beside, "curve": curve}


def _text(count: int) -> int:
    return count * len("000000/0000000000.jpg")


def first_keys(place: Path, *, shuffle: bool) -> list[str]:
    """Those of the first batch, for which no object is read."""
    found = S3IterableDataset.from_manifest(place, region="us-east-1", shuffle=shuffle)
    return [item.key for item in islice(found, _BATCH)]


def look(found: manifest.Manifest) -> float:
    """In a worker: megabytes of its own after keys all over the manifest were looked at."""
    before = memory("RssAnon")
    for number in range(0, len(found), max(1, len(found) // 10_000)):
        _ = found[number].key
    return (memory("RssAnon") - before) / 1e6


def opened(place: Path) -> dict[str, object]:
    """What a fresh process takes for the first batch, in order and shuffled, and its workers."""
    taken: dict[str, object] = {"first batch": timed(lambda: first_keys(place, shuffle=False))}
    taken["shuffled"] = timed(lambda: first_keys(place, shuffle=True))
    found = manifest.load(place)
    with ProcessPoolExecutor(_WORKERS, get_context("spawn")) as workers:
        taken["MB of a worker's own"] = round(max(workers.map(look, [found] * _WORKERS)), 1)
    return taken


def in_a_process(*arguments: str) -> dict[str, Any]:
    """Errors: `CalledProcessError`."""
    command = [sys.executable, "-m", "benchmarks.manifests", *arguments]
    told: dict[str, Any] = json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.manifests", description=__doc__)
    parser.add_argument("counts", nargs="+", type=int, metavar="COUNT", help="how many keys")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="where to write manifests.svg")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make or options.open:
        print(json.dumps(make(options.counts[0], options.make) if options.make else opened(options.open)))
        return
    curves: dict[int, Curve] = {}
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".disk-") as folder:
        for count in options.counts:
            place = f"{folder}/{count}.manifest"
            print(f"{count:,} keys", flush=True)
            made = in_a_process(str(count), "--make", place)
            curves[count] = made.pop("curve")
            print("  made:", made, flush=True)
            print("  opened:", in_a_process(str(count), "--open", place), flush=True)
            Path(place).unlink()
    if options.draw:
        draw_memory(curves, options.draw)


if __name__ == "__main__":
    main()
