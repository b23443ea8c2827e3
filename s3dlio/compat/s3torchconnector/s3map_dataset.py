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
    get_objects_from_manifest,
    get_objects_from_prefix,
    get_objects_from_uris,
    identity,
    manifest_at,
)
from .columns import in_columns
from .ranks import found_by_one_rank
from .source import StoredObject, in_one_batch
from .uri import AnyPath


class S3MapDataset(Dataset[Any]):
    """Objects to index. They are listed once, on the first `len` or index; the list is kept, also in a pickle.

    Mostly it is made by :meth:`from_prefix`, :meth:`from_manifest` or :meth:`from_objects`; else `get_dataset_objects`,
    called with an `S3Client` on first use, gives records with `bucket`, `key` and `object_info` (or `None`).

    `region` is that of the bucket, `endpoint` the URL of its service; where they are `None`, the environment names
    them. `transform` makes an item of an `S3Reader`; by default the reader is the item. `s3client_config` is an
    `S3ClientConfig`: part size, attempts, credentials.
    `reader_constructor` makes the readers, see `S3ReaderConstructor`; it is called with the keywords `bucket`, `key`,
    `get_object_info` and `get_stream`.

    Errors come from `len` and indexing: `S3Exception`, `IndexError`, and what `transform` raises.
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
        self._found: Sequence[S3BucketKeyData] | None = None

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
        """All objects whose keys begin with the key of `s3_uri`, in the order of the listing.

        `s3_uri` is a bucket and a prefix, as in `s3://bucket/train/`; a prefix is plain text, and no slash is added to
        it. `region` and `endpoint` (a URL) come from the environment where they are `None`. `transform` makes an item
        of an `S3Reader`, by default the reader is the item. `s3client_config` tunes the client, `reader_constructor`
        says how objects are read (by default sequentially: see `S3ReaderConstructor`).
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
        """The objects that `object_uris` name, in their order. Whether they exist is found out when they are read.

        `object_uris` is one URI or several. `region` and `endpoint` (a URL) come from the environment where they are
        `None`. `transform` makes an item of an `S3Reader`, by default the reader is the item. `s3client_config` tunes
        the client, `reader_constructor` says how objects are read (by default sequentially: see `S3ReaderConstructor`).
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

    @classmethod
    def from_manifest(
        cls,
        manifest: AnyPath,
        *,
        region: str | None = None,
        endpoint: str | None = None,
        transform: Transform = identity,
        s3client_config: S3ClientConfig | None = None,
        reader_constructor: ReaderConstructor | None = None,
    ) -> Self:
        """All objects that a manifest tells of (:mod:`s3dlio.manifest`), in its order; nothing is listed.

        `manifest` is its URI, or a file's `pathlib.Path`. It is opened now, in the same memory for all workers. Readers
        are held to the sizes and etags in it: an object that was replaced since is an `S3Exception`, whose cause is an
        :class:`s3dlio.ObjectChangedError`. `region` and `endpoint` are those of the manifest, too; the
        others are as in :meth:`from_prefix`: `transform`, `s3client_config`, `reader_constructor`.
        Errors: `S3Exception` where the manifest cannot be read, or is none; `ValueError` for its URI.
        """
        client = S3Client(region, endpoint=endpoint, s3client_config=s3client_config)
        return cls(
            region,
            partial(get_objects_from_manifest, manifest_at(manifest, client)),
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

    def share_listing(self) -> None:
        """Have rank 0 list the objects, and the others take its word. All ranks call this.

        It is a broadcast in the default process group, for the main process of each rank; its workers get the listing
        from there. Errors: where rank 0 fails, its own error there, and `S3Exception` at all others.
        """
        self._found = found_by_one_rank(self._objects.records)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> Any:
        return self._objects.item(self._stored(i))

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The items of one batch; `DataLoader` calls this. Once a body is read, all of them are fetched together."""
        if type(self).__getitem__ is not S3MapDataset.__getitem__:  # a subclass makes items of its own
            return [self[i] for i in indices]
        return [self._objects.item(stored) for stored in in_one_batch(map(self._stored, indices))]

    @property
    def _records(self) -> Sequence[S3BucketKeyData]:
        if self._found is None:
            self._found = in_columns(self._objects.records())
        return self._found

    def _stored(self, i: int) -> StoredObject:
        if not hasattr(i, "__index__") and not isinstance(i, slice):
            raise TypeError(f"list indices must be integers or slices, not {type(i).__name__}")
        return self._objects.stored(self._records[operator.index(i)])
