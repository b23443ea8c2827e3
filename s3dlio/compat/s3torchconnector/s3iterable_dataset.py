"""A dataset of objects to iterate.

Bodies are read ahead (:mod:`.source`), which only the clock shows: the order, the shards, the laziness and the errors
are those of one request after the other.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import count, tee
from typing import Any, Self

import torch
from torch.utils.data import IterableDataset, get_worker_info

from ._s3bucket_key_data import S3BucketKeyData
from ._s3client import S3Client, S3ClientConfig
from ._s3client._s3client import ReaderConstructor
from ._s3dataset_common import (
    DatasetObjects,
    GetDatasetObjects,
    Transform,
    get_objects_from_manifest,
    get_objects_from_prefix,
    get_objects_from_uris,
    identity,
    manifest_at,
)
from .columns import Listing, in_columns
from .epochs import Position, positions_in, together
from .ranks import found_by_one_rank, rank_and_world_size
from .source import Iteration, StoredObject
from .uri import AnyPath


class S3IterableDataset(IterableDataset[Any]):
    """Objects to iterate over, any number of times; each time they are listed again.

    Mostly it is made by :meth:`from_prefix`, :meth:`from_manifest` or :meth:`from_objects`; else `get_dataset_objects`,
    called with an `S3Client` when the iteration begins, gives records with `bucket`, `key` and `object_info` (or
    `None`).

    `region` is that of the bucket, `endpoint` the URL of its service; where they are `None`, the environment names
    them. `transform` makes an item of an `S3Reader`; by default the reader is the item. `s3client_config` is an
    `S3ClientConfig`: part size, attempts, credentials.
    With `enable_sharding` every worker of every rank gets its own share: object `i` of the listing belongs to rank
    `i % world_size` and there to worker `i // world_size % num_workers`. Without it, all get everything.
    With `shard_by_bytes`, too, shares are of as many bytes instead: each object is of the worker that has the fewest so
    far, so no two differ by more than the largest object. Sizes are those of the listing; where they are not known, the
    iteration is a `ValueError`.
    `reader_constructor` makes the readers, see `S3ReaderConstructor`; it is called with the keywords `bucket`, `key`,
    `get_object_info` and `get_stream`.
    With `shuffle` the objects come in an order that `seed` and the epoch (:meth:`set_epoch`) decide, the same on all
    ranks before they are shared out: that of `torch.utils.data.DistributedSampler`. All are listed before the first.

    An iteration can be left and gone on with: :meth:`state_dict`, :meth:`load_state_dict`, :meth:`remaining`.

    Errors come from the iteration: `S3Exception`, and what `transform` raises.
    """

    def __init__(
        self,
        region: str | None,
        get_dataset_objects: GetDatasetObjects,
        endpoint: str | None = None,
        transform: Transform = identity,
        s3client_config: S3ClientConfig | None = None,
        enable_sharding: bool = False,
        reader_constructor: ReaderConstructor | None = None,
        *,
        shuffle: bool = False,
        seed: int = 0,
        shard_by_bytes: bool = False,
    ) -> None:
        if shard_by_bytes and not enable_sharding:
            raise ValueError("shard_by_bytes says how enable_sharding divides the objects: set that, too")
        client = S3Client(region, endpoint=endpoint, s3client_config=s3client_config)
        self._objects = DatasetObjects(client, get_dataset_objects, transform, reader_constructor)
        self._enable_sharding = enable_sharding
        self._rank, self._world_size = rank_and_world_size()  # now: a worker process has no process group
        self._outset = Position(seed if shuffle else None, by_bytes=shard_by_bytes)
        # shared with the workers, of which those that stay learn of the next epoch by it
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_() if shuffle else None
        self._now: Position | None = None
        self._loaded: tuple[Position, int] | None = None

    @classmethod
    def from_prefix(
        cls,
        s3_uri: str,
        *,
        region: str | None = None,
        endpoint: str | None = None,
        transform: Transform = identity,
        s3client_config: S3ClientConfig | None = None,
        enable_sharding: bool = False,
        reader_constructor: ReaderConstructor | None = None,
        shuffle: bool = False,
        seed: int = 0,
        shard_by_bytes: bool = False,
    ) -> Self:
        """All objects whose keys begin with the key of `s3_uri`, in the order of the listing.

        `s3_uri` is a bucket and a prefix, as in `s3://bucket/train/`; a prefix is plain text, and no slash is added to
        it. `region` and `endpoint` (a URL) come from the environment where they are `None`. `transform` makes an item
        of an `S3Reader`, by default the reader is the item. `s3client_config` tunes the client, `reader_constructor`
        says how objects are read (by default sequentially: see `S3ReaderConstructor`). With `enable_sharding` workers
        and ranks divide the objects, without it each gets all. `shuffle`, `seed` and `shard_by_bytes` are told of at
        the class.
        Errors: `ValueError` for the URI and `S3Exception` for the listing, both when the dataset is iterated.
        """
        return cls(
            region,
            partial(get_objects_from_prefix, s3_uri),
            endpoint=endpoint,
            transform=transform,
            s3client_config=s3client_config,
            enable_sharding=enable_sharding,
            reader_constructor=reader_constructor,
            shuffle=shuffle,
            seed=seed,
            shard_by_bytes=shard_by_bytes,
        )

    @classmethod
    def from_objects(
        cls,
        object_uris: str | Iterable[str],
        *,
        region: str | None = None,
        endpoint: str | None = None,
        transform: Transform = identity,
        s3client_config: S3ClientConfig | None = None,
        enable_sharding: bool = False,
        reader_constructor: ReaderConstructor | None = None,
        shuffle: bool = False,
        seed: int = 0,
    ) -> Self:
        """The objects that `object_uris` name, in their order. Whether they exist is found out when they are read.

        `object_uris` is one URI or several; a generator is good for one iteration. `region` and `endpoint` (a URL) come
        from the environment where they are `None`. `transform` makes an item of an `S3Reader`, by default the reader is
        the item. `s3client_config` tunes the client, `reader_constructor` says how objects are read (by default
        sequentially: see `S3ReaderConstructor`). With `enable_sharding` workers and ranks divide the objects, without
        it each gets all. `shuffle` and `seed` are told of at the class.
        Errors: `ValueError` for a URI, when the dataset is iterated.
        """
        return cls(
            region,
            partial(get_objects_from_uris, object_uris),
            endpoint=endpoint,
            transform=transform,
            s3client_config=s3client_config,
            enable_sharding=enable_sharding,
            reader_constructor=reader_constructor,
            shuffle=shuffle,
            seed=seed,
        )

    @classmethod
    def from_manifest(
        cls,
        manifest: AnyPath,
        *,
        region: str | None = None,
        endpoint: str | None = None,
        transform: Transform = identity,
        s3client_config: S3ClientConfig | None = None,
        enable_sharding: bool = False,
        reader_constructor: ReaderConstructor | None = None,
        shuffle: bool = False,
        seed: int = 0,
        shard_by_bytes: bool = False,
    ) -> Self:
        """All objects that a manifest tells of (:mod:`s3dlio.manifest`), in its order; nothing is listed.

        `manifest` is its URI, or a file's `pathlib.Path`. It is opened now, in the same memory for all workers. Readers
        are held to the sizes and etags in it: an object that was replaced since is an `S3Exception`, whose cause is an
        :class:`s3dlio.ObjectChangedError`. `region` and `endpoint` are those of the manifest, too; the
        others are as in :meth:`from_prefix`: `transform`, `s3client_config`, `enable_sharding`,
        `reader_constructor`, `shuffle`, `seed`, `shard_by_bytes`.
        Errors: `S3Exception` where the manifest cannot be read, or is none; `ValueError` for its URI.
        """
        client = S3Client(region, endpoint=endpoint, s3client_config=s3client_config)
        return cls(
            region,
            partial(get_objects_from_manifest, manifest_at(manifest, client)),
            endpoint=endpoint,
            transform=transform,
            s3client_config=s3client_config,
            enable_sharding=enable_sharding,
            reader_constructor=reader_constructor,
            shuffle=shuffle,
            seed=seed,
            shard_by_bytes=shard_by_bytes,
        )

    @property
    def region(self) -> str | None:
        """As given."""
        return self._objects.client.region

    @property
    def endpoint(self) -> str | None:
        """As given."""
        return self._objects.client.endpoint

    def set_epoch(self, epoch: int) -> None:
        """Have the iterations that begin from now on, also those of workers, come in the order of `epoch`.

        Without `shuffle` there is one order, and this does nothing.
        """
        if self._epoch is not None:
            self._epoch.fill_(epoch)

    def share_listing(self) -> None:
        """Have rank 0 list the objects, now and for all iterations, and the others take its word. All ranks call this.

        It is a broadcast in the default process group, for the main process of each rank; its workers get the listing
        from there. Errors: where rank 0 fails, its own error there, and `S3Exception` at all others.
        """
        self._objects = self._objects.fixed(found_by_one_rank(self._objects.records))

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration is that was begun last in this process: numbers and texts, which JSON can hold.

        What was read ahead but not yielded counts as not yielded. `torchdata`'s `StatefulDataLoader` calls this in its
        workers, and :meth:`load_state_dict` when it is to go on.
        """
        return (self._loaded[0] if self._loaded else self._now or self._beginning()).state()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Have the next iteration in this process go on where `state_dict` was taken; those after it are whole.

        It is a state of the same shard of as many: for another number of ranks or workers see :meth:`remaining`.
        Where objects of a prefix were added or removed since, what follows the last key is gone on with, without
        `enable_sharding` and `shuffle`; with them, the objects up to there have to be those that were.
        Errors: `ValueError` where it is no such state or is of another order; and, from the iteration, where it is of
        another shard, or of objects that have changed.
        """
        self._loaded = self._checked(Position.of(state_dict)), os.getpid()

    def remaining(self, states: object) -> Self:
        """What is left of an epoch whose shards stopped at `states`: a data set for any number of ranks and workers.

        `states` are those of all shards, each once: :meth:`state_dict` of each, or of the `StatefulDataLoader` of each
        rank, in a list or whatever holds them. What is left is divided anew; it can be left again, and its states go on
        by :meth:`load_state_dict` of either data set. It belongs to its epoch: the next one is this data set's.
        Errors: `ValueError` where a state is missing, is twice, or is of another order; iterations as at
        :meth:`load_state_dict`.
        """
        rest = copy.copy(self)
        rest._outset = self._checked(together(list(positions_in(states))))
        rest._epoch = rest._now = rest._loaded = None
        return rest

    def __iter__(self) -> Iterator[Any]:
        now = self._now = self._start()
        found = self._objects.records()
        records = found if now.seed is None else _shuffled(found, now.seed + now.epoch)
        rest, again = tee(now.rest(records, listed=isinstance(records, Listing)))
        objects = Iteration(self._objects.stored(record) for record, _ in rest)
        return map(partial(self._item, now), objects, count(now.taken + 1), (crc32 for _, crc32 in again))

    def _item(self, now: Position, stored: StoredObject, taken: int, crc32: int) -> Any:
        item = self._objects.item(stored)
        now.taken, now.last, now.crc32 = taken, stored.key, crc32
        return item

    def _checked(self, position: Position) -> Position:
        if position.seed != self._outset.seed:
            raise ValueError(f"the state is of the seed {position.seed}, not {self._outset.seed}: None is unshuffled")
        if position.by_bytes != self._outset.by_bytes:
            raise ValueError("the state is of shards by bytes, or this is: one of them is not (shard_by_bytes)")
        return position

    def _start(self) -> Position:
        """Where an iteration begins. What was loaded is good for one."""
        beginning = self._beginning()
        if self._loaded is None:
            return beginning
        loaded, process = self._loaded
        if process != os.getpid():  # each worker has a copy, and the next ones would go on there once more
            raise ValueError(
                "the state was loaded before the worker was started: let the loader load it, or use remaining"
            )
        if (loaded.shard, loaded.shards) != (beginning.shard, beginning.shards):
            states = f"{loaded.shard} of {loaded.shards}, and this is {beginning.shard} of {beginning.shards}"
            raise ValueError(f"the state is of shard {states}: for another number of shards use remaining")
        self._loaded = None
        return loaded

    def _beginning(self) -> Position:
        epoch = self._outset.epoch if self._epoch is None else int(self._epoch)
        shard, shards = self._share()
        return replace(self._outset, epoch=epoch, shard=shard, shards=shards)

    def _share(self) -> tuple[int, int]:
        """The number of this process's share, and how many there are."""
        if not self._enable_sharding:
            return 0, 1
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        return self._rank + self._world_size * number, self._world_size * workers


def _shuffled(records: Iterable[S3BucketKeyData], seed: int) -> Iterator[S3BucketKeyData]:
    found = in_columns(records)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed)).numpy()
    yield from map(found.__getitem__, map(int, order))
