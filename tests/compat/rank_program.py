"""What each rank of a job of four finds in data sets: `python -m tests.compat.rank_program URI RESULTS`.

Two of the four are a job of two afterwards. What a rank found is written as JSON into RESULTS, one file a rank.
"""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.utils.data import DataLoader

from s3dlio.compat.s3torchconnector import S3IterableDataset, S3MapDataset, S3Reader

from .forked_ranks import run_ranks

EPOCHS = 2
STOP = 2
"""How many items each of the four ranks takes before it stops."""


def key_of(reader: S3Reader) -> str:
    return reader.key


def epochs(dataset: S3IterableDataset, workers: int) -> list[list[str]]:
    """This rank's keys in each epoch, by a loader whose workers stay."""
    context: dict[str, Any] = {"multiprocessing_context": "fork", "persistent_workers": True} if workers else {}
    loader: Any = DataLoader(dataset, None, num_workers=workers, collate_fn=str, **context)
    found = []
    for epoch in range(EPOCHS):
        dataset.set_epoch(epoch)
        found.append(list(loader))
    return found


def shares(uri: str) -> dict[str, Any]:
    """This rank's keys, for each number of workers, in order and shuffled."""
    found = {}
    for shuffle in (False, True):
        options: Any = {"transform": key_of, "enable_sharding": True, "shuffle": shuffle, "seed": 5}
        for workers in (0, 1, 2):
            dataset = S3IterableDataset.from_prefix(uri, **options)
            found[f"{shuffle} {workers}"] = epochs(dataset, workers)
    return found


def stopped(uri: str) -> tuple[list[str], list[dict[str, Any]]]:
    """What this rank takes before it stops, and the states of all."""
    dataset = S3IterableDataset.from_prefix(uri, transform=key_of, enable_sharding=True, shuffle=True)
    taken = list(islice(dataset, STOP))
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, dataset.state_dict())
    return taken, states


def rest(uri: str, states: list[dict[str, Any]]) -> list[str]:
    dataset = S3IterableDataset.from_prefix(uri, transform=key_of, enable_sharding=True, shuffle=True)
    return list(dataset.remaining(states))


def listed_by_one(uri: str) -> dict[str, Any]:
    """What this rank has when one has listed for all, and how often it listed itself."""
    found: dict[str, Any] = {"listed": 0}

    def find(client: Any) -> Any:
        found["listed"] += 1
        return S3IterableDataset.from_prefix(uri)._objects.records()

    options: Any = {"transform": key_of, "enable_sharding": True, "shuffle": True}
    dataset, mapped = S3IterableDataset(None, find, **options), S3MapDataset(None, find, transform=key_of)
    dataset.share_listing()
    mapped.share_listing()
    return found | {"epochs": epochs(dataset, 2), "mapped": list(mapped)}  # type: ignore[call-overload]


def failed_by_one() -> list[str]:
    """What this rank gets of a listing that fails at rank 0: by an error that is no one else's, and by a pickle's."""

    class OwnError(Exception):
        """Cannot be pickled."""

    def find(client: Any) -> Any:
        raise OwnError("the shelf is empty")

    told = []
    findings: tuple[Any, ...] = (find, lambda client: [lambda: None])
    for finding in findings:
        try:
            S3IterableDataset(None, finding).share_listing()
        except Exception as error:
            told.append(f"{type(error).__name__}: {error}")
    return told


def main(uri: str, results: str) -> None:
    """As four ranks, then as two."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    taken, states = stopped(uri)
    found = {"4": shares(uri), "taken": taken, "one": listed_by_one(uri), "failed": failed_by_one()}
    dist.destroy_process_group()
    if rank < 2:
        dist.init_process_group("gloo", init_method=f"file://{results}/two", rank=rank, world_size=2)
        found |= {"2": shares(uri), "rest": rest(uri, states)}
        dist.destroy_process_group()
    (Path(results) / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    sys.exit(run_ranks(4, main, *sys.argv[1:]) or None)
