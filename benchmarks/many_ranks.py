"""Many ranks and one listing: `python -m benchmarks.many_ranks`, of 512 ranks with 8 workers each.

A server makes the listing up and counts its pages. The ranks are threads: 512 processes would have 130,000 connections
to each other. Each has its own data set and a rank of PyTorch's process group for threads, which has no connections;
all else is what a job does, up to the broadcast. Then each worker of each rank has its copy of the data set, as one
that was spawned has, and takes its share to the end, one after the other.
"""

from __future__ import annotations

import argparse
import os
import pickle
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch._C import _distributed_c10d
from torch.testing._internal.distributed import multi_threaded_pg
from torch.utils.data import _utils

from s3dlio import manifest
from s3dlio.compat.s3torchconnector import S3IterableDataset, S3Reader
from s3dlio.config import Config

from .listing_server import PREFIX, listing_of

_c10d: Any = _distributed_c10d
_threads: Any = multi_threaded_pg

_URI = f"s3://bucket/{PREFIX}"


def key_of(reader: S3Reader) -> str:
    """What an item is here: no object is read."""
    return reader.key


def in_ranks(ranks: int, make: Callable[[], S3IterableDataset]) -> list[S3IterableDataset]:
    """What `make` gives at each of so many ranks, all at once."""
    store = _c10d.HashStore()

    def one(rank: int) -> S3IterableDataset:
        try:
            dist.init_process_group("threaded", rank=rank, world_size=ranks, store=store)
            return make()
        except BaseException as error:
            _threads.ProcessLocalGroup.exception_handle(error)  # or the others would wait for it
            raise

    _threads._install_threaded_pg()
    _c10d._set_thread_isolation_mode(True)
    try:
        with ThreadPoolExecutor(ranks) as pool:
            return [*pool.map(one, range(ranks))]
    finally:
        _c10d._set_thread_isolation_mode(False)
        _threads._uninstall_threaded_pg()
        _threads.ProcessLocalGroup.reset()


def taken(dataset: S3IterableDataset, workers: int) -> Iterator[list[str]]:
    """What each of the workers of one rank takes."""
    worker: Any = _utils.worker
    for number in range(workers):
        own = pickle.loads(pickle.dumps(dataset))
        worker._worker_info = worker.WorkerInfo(id=number, num_workers=workers, seed=0, dataset=own)
        try:
            yield [*own]
        finally:
            worker._worker_info = None


def shares(datasets: Sequence[S3IterableDataset], workers: int) -> Counter[str]:
    """How often each key was taken by all workers of all ranks."""
    return Counter(key for dataset in datasets for share in taken(dataset, workers) for key in share)


def listed_by_one(endpoint: str, ranks: int) -> list[S3IterableDataset]:
    """The data sets of all ranks, of which one has listed."""

    def make() -> S3IterableDataset:
        dataset = S3IterableDataset.from_prefix(
            _URI, region="us-east-1", endpoint=endpoint, transform=key_of, enable_sharding=True, shuffle=True
        )
        dataset.share_listing()
        return dataset

    return in_ranks(ranks, make)


def of_a_manifest(place: Path, ranks: int) -> list[S3IterableDataset]:
    """The data sets of all ranks, of a manifest."""
    return in_ranks(
        ranks,
        lambda: S3IterableDataset.from_manifest(
            place, region="us-east-1", transform=key_of, enable_sharding=True, shuffle=True
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_ranks", description=__doc__)
    parser.add_argument("--ranks", type=int, default=512)
    parser.add_argument("--workers", type=int, default=8, help="of each rank")
    parser.add_argument("--keys", type=int, default=5000)
    options = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "none"}
    with listing_of(options.keys) as (endpoint, asked), tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "keys.manifest"
        manifest.create(_URI, place, config=Config(endpoint=endpoint, region="us-east-1"))
        print(f"{options.ranks} ranks of {options.workers} workers, {options.keys:,} keys")
        ways: dict[str, Callable[[], list[S3IterableDataset]]] = {
            "one rank lists": lambda: listed_by_one(endpoint, options.ranks),
            "a manifest": lambda: of_a_manifest(place, options.ranks),
        }
        for name, make in ways.items():
            asked.clear()
            begun = time.monotonic()
            datasets = make()
            pages = asked["pages"]
            print(f"  {name}: {pages} pages listed, in {time.monotonic() - begun:.1f} s", flush=True)
            times = shares(datasets, options.workers)
            once = len(times) == options.keys and {*times.values()} == {1}
            print(f"  the workers listed {asked['pages'] - pages} more, and took each key once: {once}", flush=True)


if __name__ == "__main__":
    main()
