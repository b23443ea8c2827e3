"""Datasets of objects: one to iterate, one to index.

Both are lists of (bucket, key) that are found on first use; an item is `transform(reader)`. Bodies travel in company
(:mod:`.source`): iteration reads ahead, and a batch that a `DataLoader` asks for is fetched together. Neither is to be
seen except by the clock: the order, the shards, the laziness and the errors are those of one request after the other.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Self

import torch.distributed
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from .client import ReaderConstructor, S3Client, reader_of
from .config import S3ClientConfig
from .objects import ObjectInfo, S3BucketKeyData
from .reader import S3Reader
from .source import Pass, StoredObject, in_one_batch
from .uri import split_uri

Transform = Callable[[S3Reader], Any]
GetDatasetObjects = Callable[[S3Client], Iterable[S3BucketKeyData]]


def identity(reader: S3Reader) -> S3Reader:
    """The reader itself: what an item is where no transform is given."""
    return reader


class _Objects:
    """Where the objects of a dataset are, and how an item is made of one."""

    def __init__(
        self,
        client: S3Client,
        find: GetDatasetObjects,
        transform: Transform,
        reader_constructor: ReaderConstructor | None,
    ) -> None:
        self.client = client
        self._find = find
        self._transform = transform
        self._reader_constructor = reader_constructor

    def records(self) -> Iterable[S3BucketKeyData]:
        return self._find(self.client)

    def stored(self, record: S3BucketKeyData) -> StoredObject:
        scheme = getattr(record, "scheme", "s3")
        return self.client.stored_object(record.bucket, record.key, record.object_info, scheme)

    def item(self, stored: StoredObject) -> Any:
        return self._transform(reader_of(stored, self._reader_constructor))


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
        self._objects = _Objects(client, get_dataset_objects, transform, reader_constructor)
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
            partial(_under_prefix, s3_uri),
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
            partial(_named, object_uris),
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


class S3MapDataset(Dataset[Any]):
    """Objects to index. They are listed once, on the first `len` or index; the list is kept, also in a pickle.

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
        reader_constructor: ReaderConstructor | None = None,
    ) -> None:
        client = S3Client(region, endpoint=endpoint, s3client_config=s3client_config)
        self._objects = _Objects(client, get_dataset_objects, transform, reader_constructor)
        self._found: list[S3BucketKeyData] | None = None

    @classmethod
    def from_prefix(
        cls,
        s3_uri: str,
        *,
        region: str | None = None,
        endpoint: str | None = None,
        transform: Transform = identity,
        s3client_config: S3ClientConfig | None = None,
        reader_constructor: ReaderConstructor | None = None,
    ) -> Self:
        """All objects whose keys begin with the key of `s3_uri`.

        Errors: `ValueError` for the URI and `S3Exception` for the listing, both on first use.
        """
        return cls(
            region,
            partial(_under_prefix, s3_uri),
            endpoint=endpoint,
            transform=transform,
            s3client_config=s3client_config,
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
        reader_constructor: ReaderConstructor | None = None,
    ) -> Self:
        """The objects that the URIs name, in their order. Whether they exist is found out when they are read.

        Errors: `ValueError` for a URI, on first use.
        """
        return cls(
            region,
            partial(_named, object_uris),
            endpoint=endpoint,
            transform=transform,
            s3client_config=s3client_config,
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

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> Any:
        return self._objects.item(self._stored(i))

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The items of one batch; `DataLoader` calls this. Once a body is read, all of them are fetched together."""
        if type(self).__getitem__ is not S3MapDataset.__getitem__:
            return [self[i] for i in indices]
        return [self._objects.item(stored) for stored in in_one_batch(map(self._stored, indices))]

    @property
    def _records(self) -> list[S3BucketKeyData]:
        if self._found is None:
            self._found = list(self._objects.records())
        return self._found

    def _stored(self, i: int) -> StoredObject:
        return self._objects.stored(self._records[operator.index(i)])


def _under_prefix(s3_uri: str, client: S3Client) -> Iterator[S3BucketKeyData]:
    uri = split_uri(s3_uri)
    pages = client.pages(uri.bucket, uri.key, scheme=uri.scheme)
    return (
        S3BucketKeyData(uri.bucket, meta.key, ObjectInfo(meta), uri.scheme) for page in pages for meta in page.objects
    )


def _named(object_uris: str | Iterable[str], client: S3Client) -> list[S3BucketKeyData]:
    uris = [object_uris] if isinstance(object_uris, str) else object_uris
    return [S3BucketKeyData(uri.bucket, uri.key, scheme=uri.scheme) for uri in map(split_uri, uris)]


def _rank_and_world_size() -> tuple[int, int]:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
