"""What is known of objects before they are read: the records of a dataset, and the entries of a listing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ...model import ObjectMeta


class HasSize(Protocol):
    """Anything that tells an object's size in bytes. Listings here give an `ObjectInfo`."""

    @property
    def size(self) -> int:
        """Bytes."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as a listing or a HEAD describes it."""

    meta: ObjectMeta

    @property
    def key(self) -> str:
        """Name in the bucket."""
        return self.meta.key

    @property
    def size(self) -> int:
        """Bytes."""
        return self.meta.size

    @property
    def etag(self) -> str:
        """The version's tag, in its quotes; empty where the server gives none."""
        return self.meta.etag or ""

    @property
    def last_modified(self) -> int:
        """Seconds since 1970, UTC; 0 where the server does not say."""
        return int(self.meta.last_modified.timestamp()) if self.meta.last_modified else 0

    @property
    def storage_class(self) -> str | None:
        """As the server says."""
        return self.meta.storage_class

    @property
    def restore_status(self) -> None:
        """Never known here."""


@dataclass(frozen=True, slots=True)
class ListObjectResult:
    """One page of a listing, in the server's order."""

    object_info: list[ObjectInfo]
    common_prefixes: list[str]


@dataclass(frozen=True, slots=True)
class S3BucketKeyData:
    """One object of a dataset. `object_info`, where known, saves a request for the size."""

    bucket: str
    key: str
    object_info: HasSize | None = None
    scheme: str = "s3"


def known_meta(key: str, info: HasSize | None) -> ObjectMeta | None:
    """What `info` says about an object, in our own terms. It may be anybody's: only `size` must be there."""
    if info is None:
        return None
    if isinstance(info, ObjectInfo):
        return info.meta
    return ObjectMeta(key=key, size=info.size)
