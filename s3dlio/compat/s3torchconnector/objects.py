"""What is known of objects without their bodies: entries of a listing, the answer to a HEAD."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, Self

from ... import model
from ...model import ObjectMeta


class HasSize(Protocol):
    """Anything that tells an object's size in bytes. Listings here give an `ObjectInfo`."""

    @property
    def size(self) -> int:
        """Bytes."""


class RestoreStatus(NamedTuple):
    """An archived object's restored copy: still being made, or there until `expiry`, in seconds since 1970."""

    in_progress: bool
    expiry: int | None


class HeadObjectResult:
    """One object as a HEAD describes it. Two that tell the same are equal."""

    __slots__ = ("meta",)

    def __init__(
        self,
        etag: str,
        size: int,
        last_modified: int,
        storage_class: str | None = None,
        restore_status: RestoreStatus | None = None,
        *,
        key: str = "",
    ) -> None:
        self.meta = ObjectMeta(
            key=key,
            size=size,
            etag=etag or None,
            last_modified=datetime.fromtimestamp(last_modified, UTC),
            storage_class=storage_class,
            restore=_restore_in(restore_status),
        )

    @classmethod
    def of(cls, meta: ObjectMeta) -> Self:
        """A store's answer, in the original's terms."""
        made = cls.__new__(cls)
        made.meta = meta
        return made

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
        return _seconds(self.meta.last_modified) or 0

    @property
    def storage_class(self) -> str | None:
        """The service's own word; `None` where it gives none."""
        return self.meta.storage_class

    @property
    def restore_status(self) -> RestoreStatus | None:
        """Of an archived object that was asked back."""
        restore = self.meta.restore
        return RestoreStatus(restore.in_progress, _seconds(restore.expiry)) if restore else None

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.meta == self.meta

    def __hash__(self) -> int:
        return hash((self.meta.key, self.meta.etag, self.meta.size))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).of, (self.meta,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.meta!r})"


class ObjectInfo(HeadObjectResult):
    """One object as a listing describes it."""

    __slots__ = ()

    def __init__(
        self,
        key: str,
        etag: str,
        size: int,
        last_modified: int,
        storage_class: str | None = None,
        restore_status: RestoreStatus | None = None,
    ) -> None:
        super().__init__(etag, size, last_modified, storage_class, restore_status, key=key)

    @property
    def key(self) -> str:
        """Name in the bucket."""
        return self.meta.key


class HeldObjectInfo(ObjectInfo):
    """One object as a manifest describes it: another one, where it is read, is an error."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class ListObjectResult:
    """One page of a listing, in the server's order."""

    object_info: list[ObjectInfo]
    common_prefixes: list[str]


def known_meta(key: str, info: HasSize | None) -> ObjectMeta | None:
    """What `info` tells of an object, in our own terms. It may be anybody's: only `size` must be there."""
    if info is None:
        return None
    if isinstance(info, HeadObjectResult):
        return info.meta
    return ObjectMeta(key=key, size=info.size)


def _seconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment else None


def _restore_in(status: RestoreStatus | None) -> model.RestoreStatus | None:
    if status is None:
        return None
    expiry = datetime.fromtimestamp(status.expiry, UTC) if status.expiry is not None else None
    return model.RestoreStatus(status.in_progress, expiry)
