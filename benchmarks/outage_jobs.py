"""One job that an outage meets, in a process of its own: `python -m benchmarks.outage_jobs LIBRARY JOB`.

Settings are the library's defaults, objects those of :func:`objects`. It ends well when everything was read or written.
"""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable
from typing import Any

BUCKET = "outages"
REGION = "us-east-1"
MiB = 1 << 20
EPOCH, SMALL = 600, 64 << 10
LARGE = 400 * MiB


def content(size: int) -> bytes:
    """The body of every object of that size."""
    return random.Random(0).randbytes(min(size, MiB)) * max(1, size // MiB)


def iterate(library: str) -> None:
    """An epoch of an iterable data set."""
    dataset = importlib.import_module(library).S3IterableDataset.from_prefix(f"s3://{BUCKET}/train/", region=REGION)
    expected = content(SMALL)
    assert sum(item.read() == expected for item in dataset) == EPOCH


def batches(library: str) -> None:
    """An epoch of a map data set, in batches of 64."""
    from torch.utils.data import DataLoader

    kind = importlib.import_module(library).S3MapDataset
    dataset = kind.from_prefix(f"s3://{BUCKET}/train/", region=REGION, transform=_read)
    expected = content(SMALL)
    found = [item == expected for batch in DataLoader(dataset, batch_size=64, collate_fn=list) for item in batch]
    assert len(found) == EPOCH
    assert all(found)


def _read(item: Any) -> bytes:
    body: bytes = item.read()
    return body


def read(library: str) -> None:
    """One `read()` of a large object."""
    with importlib.import_module(library).S3Checkpoint(REGION).reader(f"s3://{BUCKET}/large") as reader:
        assert reader.read() == content(LARGE)


def write(library: str) -> None:
    """A large object in pieces of a mebibyte."""
    checkpoint = importlib.import_module(library).S3Checkpoint(REGION)
    piece = content(MiB)
    with checkpoint.writer(f"s3://{BUCKET}/written") as writer:
        for _ in range(LARGE // MiB):
            writer.write(piece)
    with checkpoint.reader(f"s3://{BUCKET}/written") as reader:
        assert reader.read() == content(LARGE)


def checkpoint(library: str) -> None:
    """A distributed checkpoint of one rank, saved and loaded."""
    import torch
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.checkpoint.state_dict_saver import save

    dcp = importlib.import_module(f"{library}.dcp")
    state = {f"weight {number}": torch.full((4, MiB), float(number)) for number in range(12)}
    save(state, storage_writer=dcp.S3StorageWriter(REGION, f"s3://{BUCKET}/checkpoint/"))
    loaded = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    load(loaded, storage_reader=dcp.S3StorageReader(REGION, f"s3://{BUCKET}/checkpoint/"))
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


JOBS: dict[str, tuple[Callable[[str], None], int]] = {
    "epoch, iterable": (iterate, EPOCH * SMALL // 2),
    "epoch, batches of 64": (batches, EPOCH * SMALL // 2),
    "read of 400 MiB": (read, LARGE // 2),
    "write of 400 MiB": (write, LARGE // 2),
    "checkpoint": (checkpoint, 96 * MiB),
}
"""And the bytes after which each is in its middle."""


if __name__ == "__main__":
    JOBS[sys.argv[2]][0](sys.argv[1])
