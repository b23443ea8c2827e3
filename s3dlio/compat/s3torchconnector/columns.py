"""What a map dataset keeps of a listing: columns, not objects.

A bucket has many keys, and a dataset goes to every worker as a pickle. There a column of numbers is one buffer, one
that says the same of all objects is one value, and records are made when they are looked at. So are they on the way
here: a page of a listing is columns already, and becomes a part of the whole. Those of a manifest stay in its file.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from inspect import GEN_CREATED, getgeneratorstate
from itertools import accumulate
from typing import Any, Protocol, overload

from ...errors import StoreError
from ...model import FIELDS, ListPage, ObjectColumns, ObjectMeta
from ._s3bucket_key_data import S3BucketKeyData, SchemeKeyData, record_of
from .errors import s3_exception, translated
from .objects import HeldObjectInfo, ObjectInfo

_START = datetime.fromtimestamp(0, UTC)
_TICK = timedelta(microseconds=1)


class _Column(Protocol):
    """The values of one kind, by the number of the record."""

    def __getitem__(self, i: int, /) -> Any: ...


class _Same:
    def __init__(self, value: object) -> None:
        self._value = value

    def __getitem__(self, i: int) -> object:
        return self._value


class _Moments:
    def __init__(self, moments: Iterable[datetime]) -> None:
        self._ticks = array("q", ((moment - _START) // _TICK for moment in moments))

    def __getitem__(self, i: int) -> datetime:
        return _START + self._ticks[i] * _TICK


def _column(values: Sequence[Any]) -> _Column:
    if all(value == values[0] for value in values):
        return _Same(values[0])
    kinds = set(map(type, values))
    if kinds == {int} and max(map(abs, values)) < 1 << 63:
        return array("q", values)
    if kinds == {datetime} and all(value.tzinfo is UTC for value in values):
        return _Moments(values)
    return list(values)


@dataclass(frozen=True, slots=True)
class _Part:
    """Some records, one after the other; at least one. Without `told` nothing is known of the objects.

    What is told is of a `kind`: from a listing, or from a manifest.
    """

    keys: Sequence[str]
    buckets: _Column
    schemes: _Column
    told: Mapping[str, _Column] | None
    kind: type[ObjectInfo] = ObjectInfo

    def record(self, i: int) -> S3BucketKeyData:
        try:
            key, info = self.keys[i], None
            if self.told is not None:
                info = self.kind.of(ObjectMeta(key, **{name: column[i] for name, column in self.told.items()}))
        except StoreError as error:
            raise s3_exception(error) from error
        return record_of(self.schemes[i], self.buckets[i], key, info)


def _told(objects: Sequence[ObjectMeta]) -> dict[str, _Column]:
    """What a listing tells of the objects beside their keys."""
    columns = ((name, [*column]) for name, column in ObjectColumns.of(objects).columns.items() if name != "key")
    return {name: _column(values) for name, values in columns if any(value != FIELDS[name] for value in values)}


def _as_it_is(objects: ObjectColumns) -> dict[str, _Column]:
    return {name: column for name, column in objects.columns.items() if name != "key"}


def _part_of(records: Sequence[S3BucketKeyData]) -> _Part:
    infos = [record.object_info for record in records]
    metas = [info.meta for info in infos if isinstance(info, ObjectInfo)]
    return _Part(
        [record.key for record in records],
        _column([record.bucket for record in records]),
        _column([getattr(record, "scheme", "s3") for record in records]),
        _told(metas) if metas else None,
    )


class Columns(Sequence[S3BucketKeyData]):
    """The records of a listing, or of URIs; each looks as it did."""

    def __init__(self, parts: Iterable[_Part]) -> None:
        self._parts = list(parts)
        self._ends = [*accumulate(len(part.keys) for part in self._parts)]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, i: int) -> S3BucketKeyData: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[S3BucketKeyData]: ...
    def __getitem__(self, i: int | slice) -> S3BucketKeyData | Sequence[S3BucketKeyData]:
        if isinstance(i, slice):
            return [self[number] for number in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError("list index out of range")
        i %= len(self)
        number = bisect_right(self._ends, i)
        return self._parts[number].record(i - self._ends[number])  # from the part's end


class Listing(Iterator[S3BucketKeyData]):
    """The records of what a store lists in `bucket`, in the order of its `pages`, each asked for when it is needed.

    Pages of `HeldObjectInfo` are those of a manifest, whose columns are kept as they are.
    """

    def __init__(
        self, scheme: str, bucket: str, pages: Iterator[ListPage], kind: type[ObjectInfo] = ObjectInfo
    ) -> None:
        self._scheme = scheme
        self._bucket = bucket
        self._pages = pages
        self._kind = kind
        self._records = self._each()

    def _each(self) -> Generator[S3BucketKeyData]:
        with translated():
            for page in self._pages:
                for meta in page.objects:
                    yield record_of(self._scheme, self._bucket, meta.key, self._kind.of(meta))

    def __iter__(self) -> Iterator[S3BucketKeyData]:  # noqa: PYI034 - the generator itself is quicker
        return self._records

    def __next__(self) -> S3BucketKeyData:
        return next(self._records)

    @property
    def is_untouched(self) -> bool:
        """Whether no record was taken yet."""
        return getgeneratorstate(self._records) == GEN_CREATED

    def in_columns(self) -> Columns:
        """All records, none of which was taken yet; none is made."""
        told = _as_it_is if self._kind is HeldObjectInfo else _told
        bucket, scheme = _Same(self._bucket), _Same(self._scheme)
        pages = (ObjectColumns.of(page.objects) for page in self._pages if page.objects)
        return Columns(_Part(page.columns["key"], bucket, scheme, told(page), self._kind) for page in pages)


def in_columns(records: Iterable[S3BucketKeyData]) -> Sequence[S3BucketKeyData]:
    """`records` as columns, where they are of our own making; those of a program's own stay as they are."""
    if isinstance(records, Columns):
        return records
    if isinstance(records, Listing) and records.is_untouched:
        return records.in_columns()
    found = list(records)
    known = {S3BucketKeyData, SchemeKeyData}.issuperset(map(type, found))
    kinds = {type(record.object_info) for record in found} if known else set()
    return Columns([_part_of(found)]) if kinds in ({ObjectInfo}, {type(None)}) else found
