"""Going on in the middle of an epoch: every stopping point, with PyTorch's loaders and their workers."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from s3dlio.compat.s3torchconnector import S3IterableDataset, S3MapDataset, S3Reader
from s3dlio.compat.s3torchconnector._s3bucket_key_data import S3BucketKeyData

COUNT = 7
KEYS = [f"train/{number}" for number in range(COUNT)]

pytestmark = [
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # torchdata calls it
    pytest.mark.filterwarnings(
        "ignore:This DataLoader will create 3 worker processes"
    ),  # more than a small machine has
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bucket of files."""
    (tmp_path / "train").mkdir()
    for number, key in enumerate(KEYS):
        (tmp_path / key).write_bytes(bytes([number]) * 100)
    return tmp_path


@pytest.fixture
def uri(folder: Path) -> str:
    return f"file://{folder}/train/"


def body_of(reader: S3Reader) -> str:
    """The key, once the body was read: so those to come are being read ahead."""
    name = reader.key.rpartition("/")[2]
    assert reader.read() == bytes([int(name)]) * 100
    return f"train/{name}"


def dataset_of(uri: str, **options: Any) -> S3IterableDataset:
    return S3IterableDataset.from_prefix(uri, transform=body_of, **options)


def first(iterator: Iterator[Any], count: int) -> list[Any]:
    return [next(iterator) for _ in range(count)]


def keys_of(batches: Iterable[list[str]]) -> list[str]:
    return list(chain.from_iterable(batches))


def kept(state: Any) -> Any:
    """As a program keeps it."""
    return json.loads(json.dumps(state))


@pytest.mark.parametrize("options", [{}, {"enable_sharding": True}, {"shuffle": True, "seed": 5}])
def test_every_stopping_point_and_again_in_the_same_epoch(uri: str, options: dict[str, Any]) -> None:
    whole = list(dataset_of(uri, **options))
    for stop in range(COUNT + 1):
        dataset = dataset_of(uri, **options)
        begun = first(iter(dataset), stop)
        for more in range(COUNT + 1 - stop):
            again = dataset_of(uri, **options)
            again.load_state_dict(kept(dataset.state_dict()))
            assert again.state_dict() == dataset.state_dict()
            middle = first(iter(again), more)
            last = dataset_of(uri, **options)
            last.load_state_dict(kept(again.state_dict()))
            assert begun + middle + list(last) == whole
            assert list(last) == whole


def test_named_objects_and_records_of_a_programs_own(folder: Path) -> None:
    uris = [f"file://{folder}/{key}" for key in ("train/3", "train/3", "train/1", "train/3")]
    one: Any = S3IterableDataset.from_objects(uris, transform=body_of)
    other: Any = S3IterableDataset(None, lambda client: [S3BucketKeyData("b", f"k{i % 2}") for i in range(5)])
    for dataset, key in ((one, str), (other, lambda reader: reader.key)):
        whole = list(map(key, dataset))
        for stop in range(len(whole) + 1):
            begun = first(map(key, dataset), stop)
            dataset.load_state_dict(dataset.state_dict())
            assert begun + list(map(key, dataset)) == whole


@pytest.mark.parametrize(("key", "error"), [(5, TypeError), ("\udcff", UnicodeEncodeError)])
def test_what_is_wrong_with_a_key_is_said_where_it_is_taken(key: Any, error: type[Exception]) -> None:
    dataset = S3IterableDataset(None, lambda client: [S3BucketKeyData("b", key)])
    with pytest.raises(error):
        next(iter(dataset))


def test_an_item_that_failed_was_not_yielded(uri: str) -> None:
    failing = {"train/2"}

    def transform(reader: S3Reader) -> str:
        if (key := body_of(reader)) in failing:
            raise OSError(key)
        return key

    dataset = S3IterableDataset.from_prefix(uri, transform=transform)
    iterator = iter(dataset)
    assert first(iterator, 2) == KEYS[:2]
    with pytest.raises(OSError, match="train/2"):
        next(iterator)
    state = dataset.state_dict()
    assert next(iterator) == KEYS[3]
    after = dataset.state_dict()
    failing.clear()
    for told, rest in ((state, KEYS[2:]), (after, KEYS[4:])):
        dataset.load_state_dict(told)
        assert list(dataset) == rest


def test_a_bucket_that_changed(uri: str, folder: Path) -> None:
    plain, shuffled = dataset_of(uri), dataset_of(uri, shuffle=True)
    assert first(iter(plain), 4) == KEYS[:4]
    first(iter(shuffled), 4)
    for gone in ("train/1", "train/3", "train/5"):
        (folder / gone).unlink()
    plain.load_state_dict(plain.state_dict())
    rest = plain.remaining([plain.state_dict()])
    assert list(plain) == list(rest) == ["train/4", "train/6"]
    shuffled.load_state_dict(shuffled.state_dict())
    with pytest.raises(ValueError, match="not those of the state"):
        list(shuffled)


def test_states_that_are_of_something_else(uri: str) -> None:
    dataset, shuffled = dataset_of(uri), dataset_of(uri, shuffle=True, seed=1)
    state = dataset.state_dict()
    with pytest.raises(ValueError, match="the seed None, not 1"):
        shuffled.load_state_dict(state)
    with pytest.raises(ValueError, match="the seed None, not 1"):
        shuffled.remaining([state])
    with pytest.raises(ValueError, match="no state of an S3IterableDataset"):
        dataset.load_state_dict({"epoch": 1})
    dataset.load_state_dict(state | {"shards": 2})
    with pytest.raises(ValueError, match="of shard 0 of 2, and this is 0 of 1"):
        iter(dataset)


class Told(IterableDataset[str]):
    """The items of another, and what ends them: of a worker that fails, PyTorch would wait for the end for seconds."""

    def __init__(self, dataset: S3IterableDataset) -> None:
        self._dataset = dataset

    def __iter__(self) -> Iterator[str]:
        try:
            yield from self._dataset
        except ValueError as error:
            yield str(error)


def test_a_state_for_workers_is_not_loaded_beside_the_loader(uri: str) -> None:
    """Their copies would go on there in every epoch."""
    dataset = dataset_of(uri)
    first(iter(dataset), 2)
    dataset.load_state_dict(dataset.state_dict())
    (told,) = DataLoader(Told(dataset), None, num_workers=1, multiprocessing_context="fork")
    assert told.startswith("the state was loaded before the worker was started")
    assert list(dataset) == KEYS[2:]


def loader_of(dataset: Any, workers: int, *, stay: bool = False, start: str = "fork", **options: Any) -> Any:
    context = {"multiprocessing_context": start, "persistent_workers": stay} if workers else {}
    return StatefulDataLoader(dataset, 2, num_workers=workers, collate_fn=list, **context, **options)


def resumed(dataset: Any, state: Any, workers: int, **options: Any) -> Any:
    loader = loader_of(dataset, workers, **options)
    loader.load_state_dict(state)
    return loader


def batches_and_states(loader: Any) -> tuple[list[list[str]], list[Any]]:
    """Those of one epoch: before each batch, and after the last, the state that leads there."""
    batches, states = [], [pickle.loads(pickle.dumps(loader.state_dict()))]
    for batch in loader:
        batches.append(batch)
        states.append(pickle.loads(pickle.dumps(loader.state_dict())))
    return batches, states


@pytest.mark.parametrize(("workers", "stay"), [(0, False), (1, False), (2, False), (2, True)])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_stateful_loader_goes_on_at_every_batch(workers: int, stay: bool, shuffle: bool, uri: str) -> None:
    dataset = dataset_of(uri, enable_sharding=True, shuffle=shuffle)
    whole, states = batches_and_states(loader_of(dataset, workers, stay=stay))
    assert sorted(keys_of(whole)) == KEYS
    for done, state in enumerate(states):
        loader = resumed(dataset, state, workers, stay=stay)
        rest, later = batches_and_states(loader)
        assert rest == whole[done:]
        assert list(loader) == whole
        if done == 1:  # twice in one epoch
            assert [list(resumed(dataset, each, workers, stay=stay)) for each in later] == [
                whole[n:] for n in range(1, len(states))
            ]


def test_spawned_workers_that_stay_go_on_and_learn_of_the_next_epoch(uri: str) -> None:
    dataset = dataset_of(uri, shuffle=True)
    dataset.set_epoch(1)
    whole, states = batches_and_states(loader_of(dataset, 1))
    loader = resumed(dataset, states[2], 1, stay=True, start="spawn")
    assert list(loader) == whole[2:]
    dataset.set_epoch(2)
    assert keys_of(loader) == list(dataset) != keys_of(whole)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_another_number_of_workers_twice_in_one_epoch(workers: int, shuffle: bool, uri: str) -> None:
    dataset = dataset_of(uri, enable_sharding=True, shuffle=shuffle)
    whole, states = batches_and_states(loader_of(dataset, 2))
    for done, state in enumerate(states):
        rest = dataset.remaining(state)
        middle, later = batches_and_states(loader_of(rest, workers))
        assert sorted(keys_of(whole[:done] + middle)) == KEYS
        if done == 2:
            for more, again in enumerate(later):
                last = keys_of(DataLoader(dataset.remaining([again]), 2, collate_fn=list))
                assert sorted(keys_of(whole[:done] + middle[:more]) + last) == KEYS
                assert list(resumed(dataset, again, workers)) == middle[more:]


def test_what_is_left_is_of_its_epoch(uri: str) -> None:
    dataset = dataset_of(uri, shuffle=True)
    dataset.set_epoch(1)
    whole = list(dataset)
    begun = first(iter(dataset), 4)
    rest = dataset.remaining([dataset.state_dict()])
    dataset.set_epoch(2)
    for _ in range(2):
        rest.set_epoch(5)
        assert begun + list(rest) == whole
    assert sorted(dataset) == KEYS
    assert list(dataset) != whole


def test_a_loader_whose_state_is_older_than_its_last_batch(uri: str) -> None:
    dataset = dataset_of(uri)
    loader = loader_of(dataset, 1, snapshot_every_n_steps=2)
    next(iter(loader))
    with pytest.raises(ValueError, match="snapshot_every_n_steps=1"):
        dataset.remaining(loader.state_dict())


def test_the_order_is_that_of_the_distributed_sampler(uri: str) -> None:
    dataset, sampler = dataset_of(uri, shuffle=True, seed=7), DistributedSampler(KEYS, 1, 0, shuffle=True, seed=7)  # type: ignore[var-annotated, arg-type]
    orders = []
    for epoch in (0, 1, 12):
        dataset.set_epoch(epoch)
        sampler.set_epoch(epoch)
        orders.append(list(dataset))
        assert orders[-1] == [KEYS[i] for i in sampler]
        assert orders[-1] == list(dataset_of(uri, shuffle=True, seed=7 + epoch))
    assert len({*map(tuple, orders)}) == 3


def test_workers_that_stay_learn_of_the_epoch(uri: str) -> None:
    dataset = dataset_of(uri, shuffle=True)
    loader = DataLoader(dataset, None, num_workers=1, persistent_workers=True, multiprocessing_context="fork")
    for epoch in range(3):
        dataset.set_epoch(epoch)
        assert list(loader) == list(dataset_of(uri, shuffle=True, seed=epoch))


def test_a_pickle_of_a_shuffled_data_set_stands_alone(uri: str) -> None:
    dataset = dataset_of(uri, shuffle=True)
    dataset.set_epoch(1)
    copy = pickle.loads(pickle.dumps(dataset))
    dataset.set_epoch(2)
    assert list(copy) == list(dataset_of(uri, shuffle=True, seed=1))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_of_a_map_data_set_the_loader_keeps_all_there_is(workers: int, shuffle: bool, uri: str) -> None:
    """Its sampler has the position, so the data set needs no state."""
    dataset = S3MapDataset.from_prefix(uri, transform=body_of)
    loader = loader_of(dataset, workers, shuffle=shuffle, generator=torch.Generator().manual_seed(3))
    whole, states = batches_and_states(loader)
    assert sorted(keys_of(whole)) == KEYS
    for done, state in enumerate(states):
        assert list(resumed(dataset, state, workers, shuffle=shuffle)) == whole[done:]
