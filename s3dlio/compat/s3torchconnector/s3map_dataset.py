"""A dataset of objects to index. A batch that a `DataLoader` asks for is fetched together (:mod:`.source`)."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Self

from torch.utils.data import Dataset

from ._s3bucket_key_data import S3BucketKeyData
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
from .source import StoredObject, in_one_batch


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
        self._objects = DatasetObjects(client, get_dataset_objects, transform, reader_constructor)
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
            partial(get_objects_from_prefix, s3_uri),
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
            partial(get_objects_from_uris, object_uris),
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
