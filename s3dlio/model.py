"""The values that go in and out of a store. All frozen; sizes and offsets are bytes, ends are exclusive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from itertools import compress, repeat
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, overload

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

T = TypeVar("T")


class _Metadata(dict[str, str]):
    """A user's own names and values: a dict that does not change, so that values that have it can be hashed."""

    __slots__ = ()

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return _Metadata, (dict(self),)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("metadata and tags cannot be changed")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse


MAX_TAGS = 10
"""Source: "Categorizing your objects using tags" in the Amazon S3 User Guide; "Put Blob" of Azure says the same."""

NO_METADATA: Mapping[str, str] = _Metadata()


def _freeze(value: ObjectMeta | PutOptions, name: str = "metadata") -> None:
    given = getattr(value, name)
    if type(given) is not _Metadata:
        object.__setattr__(value, name, _Metadata(given))


@dataclass(frozen=True, slots=True)
class RestoreStatus:
    """An archived object's restored copy: still being made, or there until `expiry` (aware, UTC)."""

    in_progress: bool
    expiry: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredChecksum:
    """What the store itself says of all bytes of an object.

    `algorithm` is one that :class:`s3dlio.alignment.Checksum` computes, `value` the whole number it has there.
    """

    algorithm: str
    value: int


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """One object as a listing, HEAD or GET describes it. `last_modified` is aware, UTC.

    `restore` is known of archived objects that were asked back, on S3; `checksum` where the store keeps one of the
    whole object and tells it.
    """

    key: str
    size: int
    etag: str | None = None
    last_modified: datetime | None = None
    version: str | None = None
    storage_class: str | None = None
    content_type: str | None = None
    metadata: Mapping[str, str] = NO_METADATA
    restore: RestoreStatus | None = None
    checksum: StoredChecksum | None = None

    def __post_init__(self) -> None:
        _freeze(self)


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
    """What a read delivered: bytes `start` to `end` of the version that `meta` describes.

    A sink is told of `excess`: so many bytes more the server is about to send, as it took no notice of the range's end.
    `verified` says that the store has compared the bytes with a checksum that it was told of them; `computed` is a
    checksum that was made of them as they came.
    """

    meta: ObjectMeta
    start: int
    end: int
    excess: int = 0
    verified: bool = False
    computed: StoredChecksum | None = None


Sink = Callable[[GetResult], memoryview]
"""Called once per read, when the answer's head is in, with what will follow; returns the writable view, of exactly
`end - start` bytes, that the body is received into. It may be longer by up to `excess`: then the read ends later."""


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
    `tags`, of which there can be ten, are names and values that rules for access and for lifetime go by, in S3 and
    Azure; elsewhere a write with any is an `UnsupportedError`. Errors: `ValueError` for more than ten.
    """

    content_type: str | None = None
    metadata: Mapping[str, str] = NO_METADATA
    if_match: str | None = None
    if_none_match: bool = False
    storage_class: str | None = None
    tags: Mapping[str, str] = NO_METADATA

    def __post_init__(self) -> None:
        _freeze(self)
        _freeze(self, "tags")
        if len(self.tags) > MAX_TAGS:
            raise ValueError(f"an object can have {MAX_TAGS} tags, not {len(self.tags)}")

    @property
    def conditional(self) -> bool:
        """Whether the write depends on what is there: then it is not repeated when its outcome is unknown."""
        return self.if_none_match or self.if_match is not None


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
class PartCopy:
    """A copy in parts in progress: what `upload` is to become is version `etag` of `source`, an object in `bucket`.

    It has `size` bytes.
    """

    upload: Upload
    bucket: str
    source: str
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class Part:
    """One uploaded part of `size` bytes. Numbers begin at 1. `checksum` is that by which the server has compared it."""

    number: int
    etag: str
    size: int
    checksum: StoredChecksum | None = None


class Decoded(Sequence[T]):
    """A column that is still as it came: `decode` reads a value of `texts` when it is looked at."""

    __slots__ = ("_decode", "_texts")

    def __init__(self, texts: Sequence[Any], decode: Callable[[Any], T]) -> None:
        self._texts = texts
        self._decode = decode

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, i: int) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> Decoded[T]: ...
    def __getitem__(self, i: int | slice) -> T | Decoded[T]:
        return Decoded(self._texts[i], self._decode) if isinstance(i, slice) else self._decode(self._texts[i])

    def __iter__(self) -> Iterator[T]:
        return map(self._decode, self._texts)


def iso_time(text: str | None) -> datetime | None:
    """A time as services write it (ISO 8601), aware, UTC, which it is in where it does not say; `None` for others."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


FIELDS = {field.name: field.default for field in fields(ObjectMeta)}
"""What is told of objects, by the names of :class:`ObjectMeta`, and what stands where it is not."""


class ObjectColumns(Sequence[ObjectMeta]):
    """Objects as columns: an :class:`ObjectMeta` is made when it is looked at. Equal to a tuple of the same objects.

    `columns` are of one length, by the names of the fields; `key` and `size` (bytes) are among them.
    """

    __slots__ = ("columns",)

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self.columns = columns

    @classmethod
    def of(cls, objects: Sequence[ObjectMeta]) -> ObjectColumns:
        """`objects`, which may be columns already, as columns."""
        if isinstance(objects, ObjectColumns):
            return objects
        return cls({name: [getattr(meta, name) for meta in objects] for name in FIELDS})

    def where(self, keep: Callable[[str], bool]) -> ObjectColumns:
        """Those whose keys `keep` is true of."""
        kept = [keep(key) for key in self.columns["key"]]
        if all(kept):
            return self
        return ObjectColumns({name: [*compress(column, kept)] for name, column in self.columns.items()})

    def __len__(self) -> int:
        return len(self.columns["key"])

    @overload
    def __getitem__(self, i: int) -> ObjectMeta: ...
    @overload
    def __getitem__(self, i: slice) -> Self: ...
    def __getitem__(self, i: int | slice) -> ObjectMeta | Self:
        picked: dict[str, Any] = {name: column[i] for name, column in self.columns.items()}
        return type(self)(picked) if isinstance(i, slice) else ObjectMeta(**picked)

    def __iter__(self) -> Iterator[ObjectMeta]:
        columns: Iterable[Iterable[Any]] = (self.columns.get(name, repeat(FIELDS[name])) for name in FIELDS)
        return map(ObjectMeta, *columns)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectColumns | tuple) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of a listing, in the store's order; `token` asks for the next page, `None` at the end."""

    objects: Sequence[ObjectMeta]
    prefixes: tuple[str, ...] = ()
    token: str | None = None


def flat(data: ReadableBuffer) -> memoryview:
    """The bytes of `data`, where they lie: `bytes`, an array, a mapped file, any contiguous buffer of any item type.

    Errors: `TypeError` for what is none, which says what to give instead.
    """
    try:
        view = memoryview(data)
    except (TypeError, ValueError):
        wanted = "bytes or another buffer is wanted: text as text.encode(), a tensor as tensor.numpy()"
        raise TypeError(f"{wanted}, not {type(data).__name__}") from None
    if not view.c_contiguous:
        raise TypeError("a contiguous buffer is wanted: of a slice of an array, a copy")
    if view.format == "B" and view.ndim == 1:
        return view
    from pickle import PickleBuffer  # which, unlike `cast`, takes every item type, and no items

    return PickleBuffer(view).raw()
