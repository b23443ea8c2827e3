"""The second epoch of a data set from its local cache, beside the same files by `direct://`.

`python -m benchmarks.cached --folder /nvme --count 64 --size 16777216`. Every epoch is a fresh process that lists the
data set and reads it in a random order; those that are compared take turns. Neither uses the page cache, where the file
system of the folder knows direct I/O.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.servers.seaweedfs import seaweedfs

ROOT = Path(__file__).parents[1]
TARGET = 0.95
"""Of the speed of `direct://`."""


def epoch(uri: str) -> None:
    """Read the data set at `uri`, and print its bytes and the seconds that it took."""
    from s3dlio.compat.s3torchconnector import S3MapDataset

    dataset = S3MapDataset.from_prefix(uri, region="us-east-1")
    order = random.Random(1).sample(range(len(dataset)), len(dataset))
    begun, total = time.perf_counter(), 0
    for start in range(0, len(order), 32):
        total += sum(len(item.read()) for item in dataset.__getitems__(order[start : start + 32]))
    print(total, time.perf_counter() - begun)


def speed(uri: str, environment: dict[str, str]) -> float:
    """Bytes a second."""
    command = [sys.executable, "-m", "benchmarks.cached", "--epoch", uri]
    done = subprocess.run(
        command, env=os.environ | environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    total, seconds = done.stdout.split()
    return int(total) / float(seconds)


def make(environment: dict[str, str], *uris: str, count: int, size: int) -> None:
    """The same objects at each of `uris`."""
    import s3dlio

    os.environ.update(environment)
    for number in range(count):
        data = random.Random(number).randbytes(size)
        for uri in uris:
            s3dlio.put(f"{uri}{number}", data)


def compare(folder: Path, count: int, size: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix="cached-") as name, seaweedfs() as server:
        server.create_bucket("bucket")
        cached, direct, environment = "s3://bucket/data/", f"direct://{name}/files/", server.environment()
        make(environment, cached, direct, count=count, size=size)
        environment["S3DLIO_CACHE"] = f"{name}/cache"
        first = speed(cached, environment)
        pairs = [(speed(cached, environment), speed(direct, environment)) for _ in range(rounds)]
    again, beside = (median(each) for each in zip(*pairs, strict=True))
    print(f"first epoch {first / 1e6:,.0f} MB/s, second {again / 1e6:,.0f}, direct:// {beside / 1e6:,.0f}")
    print(f"second beside direct:// {again / beside:.2f}, wanted {TARGET}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT, help="on the disk to measure")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--size", type=int, default=16 << 20, help="bytes of an object")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epoch", metavar="URI", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.epoch:
        epoch(wanted.epoch)
    else:
        compare(wanted.folder, wanted.count, wanted.size, wanted.rounds)


if __name__ == "__main__":
    main()
