"""A dataset of objects to iterate.

Bodies are read ahead (:mod:`.source`), which only the clock shows: the order, the shards, the laziness and the errors
are those of one request after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Self

import torch.distributed
from torch.utils.data import IterableDataset, get_worker_info

from ._s3client import S3Client, S3ClientConfig
from ._s3client._s3client import ReaderConstructor
from ._s3dataset_common import (
    DatasetObjects,
    GetDatasetObjects,
    Transform,
    get_objects_from_prefix,
    get_objects_from_uris,
    identity,
)
from .source import Iteration


class S3IterableDataset(IterableDataset[Any]):
    """Objects to iterate over, any number of times; each time they are listed again.

    Mostly it is made by :meth:`from_prefix` or :meth:`from_objects`; else `get_dataset_objects`, called with an
    `S3Client` when the iteration begins, gives records with `bucket`, `key` and `object_info` (or `None`).

    `region` is that of the bucket, `endpoint` the URL of its service; where they are `None`, the environment names
    them. `transform` makes an item of an `S3Reader`; by default the reader is the item. `s3client_config` is an
    `S3ClientConfig`: part size, attempts, credentials.
    With `enable_sharding` every worker of every rank gets its own share: object `i` of the listing belongs to rank
    `i % world_size` and there to worker `i // world_size % num_workers`. Without it, all get everything.
    `reader_constructor` makes the readers, see `S3ReaderConstructor`; it is called with the keywords `bucket`, `key`,
    `get_object_info` and `get_stream`.

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
    ) -> None:
        client = S3Client(region, endpoint=endpoint, s3client_config=s3client_config)
        self._objects = DatasetObjects(client, get_dataset_objects, transform, reader_constructor)
        self._enable_sharding = enable_sharding
        self._rank, self._world_size = _rank_and_world_size()  # now: a worker process has no process group

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
    ) -> Self:
        """All objects whose keys begin with the key of `s3_uri`, in the order of the listing.

        `s3_uri` is a bucket and a prefix, as in `s3://bucket/train/`; a prefix is plain text, and no slash is added to
        it. `region` and `endpoint` (a URL) come from the environment where they are `None`. `transform` makes an item
        of an `S3Reader`, by default the reader is the item. `s3client_config` tunes the client, `reader_constructor`
        says how objects are read (by default sequentially: see `S3ReaderConstructor`). With `enable_sharding` workers
        and ranks divide the objects, without it each gets all.
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
    ) -> Self:
        """The objects that `object_uris` name, in their order. Whether they exist is found out when they are read.

        `object_uris` is one URI or several; a generator is good for one iteration. `region` and `endpoint` (a URL) come
        from the environment where they are `None`. `transform` makes an item of an `S3Reader`, by default the reader is
        the item. `s3client_config` tunes the client, `reader_constructor` says how objects are read (by default
        sequentially: see `S3ReaderConstructor`). With `enable_sharding` workers and ranks divide the objects, without
        it each gets all.
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
        )

    @property
    def region(self) -> str | None:
        """As given."""
        return self._objects.client.region

    @property
    def endpoint(self) -> str | None:
        """As given."""
        return self._objects.client.endpoint

    def __iter__(self) -> Iterator[Any]:
        records = islice(self._objects.records(), *self._share())
        return map(self._objects.item, Iteration(map(self._objects.stored, records)))

    def _share(self) -> tuple[int, None, int]:
        """First index and step of this process's share."""
        if not self._enable_sharding:
            return 0, None, 1
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        return self._rank + self._world_size * number, None, self._world_size * workers


def _rank_and_world_size() -> tuple[int, int]:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
