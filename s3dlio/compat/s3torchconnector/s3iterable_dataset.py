"""A dataset of objects to iterate. Bodies travel in company (:mod:`.source`): iteration reads ahead.

That is not to be seen except by the clock: the order, the shards, the laziness and the errors are those of one request
after the other.
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
from .source import Pass


class S3IterableDataset(IterableDataset[Any]):
    """Objects to iterate over, any number of times; each time they are listed again.

    With `enable_sharding` every worker of every rank gets its own share: object `i` of the listing belongs to rank
    `i % world_size` and there to worker `i // world_size % num_workers`. Without it, all get everything.
    `reader_constructor` is called with the keywords `bucket`, `key`, `get_object_info` and `get_stream`.
    `region` may be `None`: then it comes from the environment.
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
        self._rank, self._world_size = _rank_and_world_size()

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
        """All objects whose keys begin with the key of `s3_uri`.

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
        """The objects that the URIs name, in their order. Whether they exist is found out when they are read.

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
        return map(self._objects.item, Pass(map(self._objects.stored, records)))

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
