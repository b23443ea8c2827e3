"""The values that go in and out of a store. All frozen; sizes and offsets are bytes, ends are exclusive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

_EMPTY: Mapping[str, str] = MappingProxyType({})


def _reduced(value: ObjectMeta | PutOptions) -> tuple[Any, ...]:
    """How to pickle a value with metadata, which may be of a kind that cannot be pickled."""
    state = {item.name: getattr(value, item.name) for item in fields(value)}
    return type(value), tuple((state | {"metadata": dict(value.metadata)}).values())


@dataclass(frozen=True, slots=True)
class RestoreStatus:
    """An archived object's restored copy: still being made, or there until `expiry` (aware, UTC)."""

    in_progress: bool
    expiry: datetime | None = None


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """One object as a listing, HEAD or GET describes it. `last_modified` is aware, UTC.

    `restore` is known of archived objects that were asked back, on S3.
    """

    key: str
    size: int
    etag: str | None = None
    last_modified: datetime | None = None
    version: str | None = None
    storage_class: str | None = None
    content_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    restore: RestoreStatus | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _reduced(self)


@dataclass(frozen=True, slots=True)
class BoundedRange:
    """Bytes `start` (inclusive) to `end` (exclusive)."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"not a range: start {self.start}, end {self.end}")


@dataclass(frozen=True, slots=True)
class OffsetRange:
    """Bytes from `offset` to the object's end."""

    offset: int

    def __post_init__(self) -> None:
        if self.offset < 0:
            raise ValueError(f"not an offset: {self.offset}")


@dataclass(frozen=True, slots=True)
class SuffixRange:
    """The last `length` bytes, or the whole object where it is shorter."""

    length: int

    def __post_init__(self) -> None:
        if self.length <= 0:
            raise ValueError(f"not a suffix length: {self.length}")


GetRange = BoundedRange | OffsetRange | SuffixRange


def resolve(byte_range: GetRange | None, size: int) -> tuple[int, int]:
    """A range's first byte and end in an object of `size` bytes."""
    match byte_range:
        case None:
            return 0, size
        case BoundedRange(start, end):
            return start, min(end, size)
        case OffsetRange(offset):
            return offset, size
        case SuffixRange(length):
            return max(0, size - length), size


@dataclass(frozen=True, slots=True)
class GetResult:
    """What a read delivered: bytes `start` to `end` of the version that `meta` describes."""

    meta: ObjectMeta
    start: int
    end: int


Sink = Callable[[GetResult], memoryview]
"""Called once per read, when the answer's head is in, with what will follow; returns the writable view, of exactly
`end - start` bytes, that the body is received into."""


@dataclass(frozen=True, slots=True)
class GetOptions:
    """What to read: a range, or all; and of which version, by etag.

    With `if_match`, an object that was replaced is an `ObjectChangedError`, also in mid-body. With `if_none_match`, one
    that is still of that etag is a `NotModifiedError`.
    """

    byte_range: GetRange | None = None
    if_match: str | None = None
    if_none_match: str | None = None


@dataclass(frozen=True, slots=True)
class ListOptions:
    """What a page of a listing shows.

    With a `delimiter`, keys that have it after the prefix are shown once for all, as what leads to it. Keys up to
    `start_after` are passed over; `token`, from the page before, continues a listing. At most `limit` entries (1 to
    1000).
    """

    delimiter: str = ""
    start_after: str = ""
    token: str | None = None
    limit: int = 1000

    def after(self, page: ListPage) -> ListOptions | None:
        """The same for the page after `page`; `None` where that is the last."""
        return replace(self, token=page.token) if page.token is not None else None


@dataclass(frozen=True, slots=True)
class PutOptions:
    """How an object is written. `if_none_match` writes only where no object is; `if_match` only over that etag.

    `storage_class` is the service's own word (Azure: access tier); files have no classes and take no notice of it.
    """

    content_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    if_match: str | None = None
    if_none_match: bool = False
    storage_class: str | None = None

    @property
    def conditional(self) -> bool:
        """Whether the write depends on what is there: then it is not repeated when its outcome is unknown."""
        return self.if_none_match or self.if_match is not None

    def __reduce__(self) -> tuple[Any, ...]:
        return _reduced(self)


@dataclass(frozen=True, slots=True)
class PutResult:
    """The version a write made."""

    etag: str | None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload in progress: nothing is visible before it is completed."""

    key: str
    id: str
    options: PutOptions


@dataclass(frozen=True, slots=True)
class Part:
    """One uploaded part. Numbers begin at 1."""

    number: int
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a listing, in the store's order; `token` asks for the next page, `None` at the end."""

    objects: tuple[ObjectMeta, ...]
    prefixes: tuple[str, ...] = ()
    token: str | None = None


DEFAULT_GET = GetOptions()
DEFAULT_LIST = ListOptions()
DEFAULT_PUT = PutOptions()
