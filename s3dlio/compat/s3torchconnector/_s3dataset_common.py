"""What the two datasets share: where their objects are, and how an item is made of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

from ...blocking.transfers import uri_of
from ...manifest import Manifest
from ...manifest.mapped import load_from
from ...model import ListPage
from ._s3bucket_key_data import S3BucketKeyData, record_of
from ._s3client import S3Client
from ._s3client._s3client import ReaderConstructor, reader_of
from .columns import Listing
from .errors import translated
from .objects import HeldObjectInfo
from .s3reader import S3Reader
from .source import StoredObject
from .uri import AnyPath, split_uri
from .uri import parse_s3_uri as parse_s3_uri

Transform = Callable[[S3Reader], Any]
GetDatasetObjects = Callable[[S3Client], Iterable[S3BucketKeyData]]


def identity(obj: S3Reader) -> S3Reader:
    """The reader itself: what an item is where no transform is given."""
    return obj


def get_objects_from_prefix(s3_uri: str, client: S3Client) -> Listing:
    """The objects whose keys begin with the key of `s3_uri`, listed page by page."""
    uri = split_uri(s3_uri)
    return Listing(uri.scheme, uri.bucket, client.pages(uri))


def get_objects_from_manifest(manifest: Manifest, client: S3Client) -> Listing:
    """The objects that `manifest` tells of, in its order."""
    place = manifest.header.place
    return Listing(place.scheme, place.bucket, iter([ListPage(manifest.objects)]), HeldObjectInfo)


def manifest_at(place: AnyPath, client: S3Client) -> Manifest:
    """The manifest that is a file, or an object that `client` reaches. Errors: `S3Exception`; `ValueError`."""
    uri = split_uri(uri_of(place))
    with translated():
        return load_from(client.store(uri.bucket, uri.scheme), uri.key)


def get_objects_from_uris(object_uris: str | Iterable[str], client: S3Client) -> list[S3BucketKeyData]:
    """The objects that URIs name, in their order. Whether they exist is not asked."""
    uris = [object_uris] if isinstance(object_uris, str) else object_uris
    return [record_of(uri.scheme, uri.bucket, uri.key) for uri in map(split_uri, uris)]


@dataclass
class DatasetObjects:
    """Where the objects of a dataset are, and how an item is made of one."""

    client: S3Client
    find: GetDatasetObjects
    transform: Transform
    reader_constructor: ReaderConstructor | None

    def records(self) -> Iterable[S3BucketKeyData]:
        """What the dataset consists of, found anew."""
        return self.find(self.client)

    def fixed(self, records: Sequence[S3BucketKeyData]) -> Self:
        """The same, consisting of `records` from now on."""
        return replace(self, find=partial(_as_given, records))

    def stored(self, record: S3BucketKeyData) -> StoredObject:
        """The object behind a record."""
        scheme = getattr(record, "scheme", "s3")  # records of a `get_dataset_objects` of somebody's own have none
        return self.client.stored_object(record.bucket, record.key, record.object_info, scheme)

    def item(self, stored: StoredObject) -> Any:
        """What the dataset gives for an object."""
        return self.transform(reader_of(stored, self.reader_constructor))


def _as_given(records: Sequence[S3BucketKeyData], client: S3Client) -> Sequence[S3BucketKeyData]:
    return records
