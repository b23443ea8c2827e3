"""Datasets divided among ranks and workers, and loaded by PyTorch."""

from __future__ import annotations

import traceback
from typing import Any

import torch
import torch.distributed
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    DistributedSampler,
    SequentialSampler,
    Subset,
    random_split,
)

from .cases_datasets import body_of, key_of
from .kit import REGION, Library, Place, case, process_group

# --- division --------------------------------------------------------------------------------------------------------


def _sharded(lib: Library, at: Place) -> Any:
    return lib.iterable(at.uri("train/"), transform=key_of, enable_sharding=True)


def _loaded(dataset: Any, **options: Any) -> list[Any]:
    workers: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": "fork", "batch_size": None}
    return list(DataLoader(dataset, **workers | options))


@case
def sharing_by_rank(lib: Library, at: Place) -> object:
    shares = []
    for rank in range(3):
        with process_group(rank, 3):
            shares.append(list(_sharded(lib, at)))
    return shares


@case
def the_rank_is_that_of_the_construction(lib: Library, at: Place) -> object:
    before = _sharded(lib, at)
    with process_group(1, 2):
        inside, plain = list(before), list(lib.iterable(at.uri("train/"), transform=key_of))
        made = _sharded(lib, at)
    return inside, plain, list(made)


@case
def sharing_by_worker(lib: Library, at: Place) -> object:
    return sorted(_loaded(_sharded(lib, at))), list(_sharded(lib, at))


@case
def sharing_by_rank_and_worker(lib: Library, at: Place) -> object:
    with process_group(1, 2):
        dataset = _sharded(lib, at)
    return _loaded(dataset, batch_size=2, collate_fn=list)


@case
def without_sharing_every_worker_has_everything(lib: Library, at: Place) -> object:
    return _loaded(lib.iterable(at.uri("train/"), transform=key_of), batch_size=4, collate_fn=list)


@case
def more_workers_than_objects(lib: Library, at: Place) -> object:
    dataset = lib.iterable(at.uri("train/01"), transform=body_of, enable_sharding=True)
    return _loaded(dataset, batch_size=2, collate_fn=list)


@case
def subsets_and_splits(lib: Library, at: Place) -> object:
    dataset = lib.mapped(at.uri("train/"), transform=key_of)
    parts = random_split(dataset, [4, 7], torch.Generator().manual_seed(3))
    subset: Any = Subset(dataset, [5, 0, -1])
    return (
        [subset[i] for i in range(3)],
        subset.__getitems__([2, 1]),
        [[part[i] for i in range(len(part))] for part in parts],
    )


@case
def concatenated_map_datasets(lib: Library, at: Place) -> object:
    left, right = (lib.mapped(at.uri(prefix), transform=key_of) for prefix in ("train/0", "train/1"))
    both: Any = right + left
    return type(both), len(both), [both[i] for i in (0, 2, -1)], len(ConcatDataset([both, left]))


@case
def chained_iterable_datasets(lib: Library, at: Place) -> object:
    left, right = (lib.iterable(at.uri(prefix), transform=key_of) for prefix in ("train/0", "train/1"))
    return type(right + left), list(right + left), list(ChainDataset([left, right]))


# --- DataLoader ------------------------------------------------------------------------------------------------------


@case
def loading_without_workers(lib: Library, at: Place) -> object:
    dataset = lib.mapped(at.uri("train/"), transform=body_of)
    return list(DataLoader(dataset, batch_size=4)), list(
        DataLoader(dataset, batch_size=4, drop_last=True, collate_fn=list)
    )


@case
def loading_with_workers(lib: Library, at: Place) -> object:
    dataset = lib.mapped(at.uri("train/"), transform=body_of)
    used = len(dataset)
    return used, _loaded(dataset, batch_size=3, collate_fn=list), dataset[0]


@case
def loading_in_a_shuffled_order(lib: Library, at: Place) -> object:
    dataset = lib.mapped(at.uri("train/"), transform=key_of)
    return _loaded(dataset, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(5), collate_fn=list)


@case
def loading_again_with_workers_that_stay(lib: Library, at: Place) -> object:
    dataset = lib.iterable(at.uri("train/"), transform=body_of, enable_sharding=True)
    loader = DataLoader(
        dataset, batch_size=4, num_workers=2, multiprocessing_context="fork", persistent_workers=True, collate_fn=list
    )
    return list(loader), list(loader)


@case
def loading_with_a_distributed_sampler(lib: Library, at: Place) -> object:
    dataset = lib.mapped(at.uri("train/"), transform=key_of)
    samplers: list[Any] = [DistributedSampler(dataset, 2, rank, shuffle=False) for rank in range(2)]
    return [list(DataLoader(dataset, batch_size=3, sampler=each)) for each in samplers]


@case
def loading_with_a_batch_sampler(lib: Library, at: Place) -> object:
    dataset = lib.mapped(at.uri("train/"), transform=key_of)
    sampler = BatchSampler(SequentialSampler(dataset), 5, drop_last=False)
    return list(DataLoader(dataset, batch_sampler=sampler, collate_fn=tuple))


@case
def readers_travel_unread_from_workers(lib: Library, at: Place) -> object:
    batches = _loaded(lib.mapped(at.uri("train/")), batch_size=4, collate_fn=list)
    return [[(type(reader), reader.tell(), *body_of(reader)) for reader in batch] for batch in batches]


@case
def the_error_of_a_worker(lib: Library, at: Place) -> object:
    dataset = lib.root.S3MapDataset.from_objects([at.uri("absent")], region=REGION, transform=body_of)
    try:
        _loaded(dataset)
    except lib.root.S3Exception as error:
        traceback.clear_frames(error.__traceback__)  # they hold the loader, whose workers end with it
        texts = ("in DataLoader worker process 0", "Service error: The key does not exist")
        return [text in str(error) for text in texts]
    return "nothing was raised"
