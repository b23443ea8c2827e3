"""Training programs in small: `python -m tests.compat.loader_program URI START_METHOD...` prints what each read.

For each way of starting workers a process is forked, which prints a line of JSON: whether it had used the network
before it started workers is the point.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from typing import Any

from torch.utils.data import DataLoader

from s3dlio.compat.s3torchconnector import S3IterableDataset, S3MapDataset, S3Reader


def every_other_read(reader: S3Reader) -> S3Reader | tuple[str, bytes]:
    """Half of the items are read by the worker, half travel unread."""
    return (reader.key, reader.read()) if int(reader.key[-1]) % 2 else reader


def _finish(item: Any) -> tuple[str, bytes]:
    return item if isinstance(item, tuple) else (item.key, item.read())


def _loaded(dataset: Any, method: str, workers: int) -> dict[str, int]:
    loader = DataLoader(dataset, batch_size=3, num_workers=workers, multiprocessing_context=method, collate_fn=list)
    items = [_finish(item) for batch in loader for item in batch]
    assert len({key for key, _ in items}) == len(items)
    return {key: sum(body) for key, body in sorted(items)}


def load(method: str, uri: str) -> None:
    """Load before anything else was done, then in the middle of using the network."""
    iterable = S3IterableDataset.from_prefix(uri, region="us-east-1", transform=every_other_read, enable_sharding=True)
    unused = _loaded(iterable, method, 2)
    iterator = iter(S3IterableDataset.from_prefix(uri, region="us-east-1"))
    first, second = next(iterator), next(iterator)
    begun = first.read(5)
    mapped = S3MapDataset.from_prefix(uri, region="us-east-1", transform=every_other_read)
    assert len(mapped)
    used = _loaded(mapped, method, 1)
    rest = {reader.key: sum(reader.read()) for reader in (second, *iterator)}
    print(json.dumps({"unused": unused, "used": used, "parent": {first.key: sum(begun + first.read())} | rest}))


def main(uri: str, *methods: str) -> None:
    """In the parent all of them; in each child its own, to its end as that of a program."""
    multiprocessing.set_forkserver_preload(["torch"])  # which each of its workers would import
    for method in methods:
        if not (child := os.fork()):
            load(method, uri)
            return
        if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
