"""What a map dataset keeps of a listing: columns, not objects.

A bucket has many keys, and a dataset goes to every worker as a pickle. There a column of numbers is one buffer, one
that says the same of all objects is one value, and records are made when they are looked at.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, overload

from ...model import ObjectMeta
from ._s3bucket_key_data import S3BucketKeyData, SchemeKeyData, record_of
from .objects import ObjectInfo

_START = datetime.fromtimestamp(0, UTC)
_TICK = timedelta(microseconds=1)
_DEFAULTS = {field.name: field.default for field in fields(ObjectMeta) if field.name != "key"}


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


def _told(metas: Sequence[ObjectMeta]) -> dict[str, _Column]:
    """What a listing tells of the objects beside their keys."""
    columns = ((name, [getattr(meta, name) for meta in metas]) for name in _DEFAULTS)
    return {name: _column(values) for name, values in columns if any(value != _DEFAULTS[name] for value in values)}


class Columns(Sequence[S3BucketKeyData]):
    """The records of a listing, or of URIs; each looks as it did. At least one, all of our own classes."""

    def __init__(self, records: Sequence[S3BucketKeyData]) -> None:
        self._keys = [record.key for record in records]
        self._buckets = _column([record.bucket for record in records])
        self._schemes = _column([getattr(record, "scheme", "s3") for record in records])
        infos = [record.object_info for record in records]
        metas = [info.meta for info in infos if isinstance(info, ObjectInfo)]
        self._metas = _told(metas) if metas else None

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, i: int) -> S3BucketKeyData: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[S3BucketKeyData]: ...
    def __getitem__(self, i: int | slice) -> S3BucketKeyData | Sequence[S3BucketKeyData]:
        if isinstance(i, slice):
            return [self[number] for number in range(*i.indices(len(self)))]
        key, i = self._keys[i], i % len(self)
        info = None
        if self._metas is not None:
            info = ObjectInfo.of(ObjectMeta(key, **{name: column[i] for name, column in self._metas.items()}))
        return record_of(self._schemes[i], self._buckets[i], key, info)


def in_columns(records: Iterable[S3BucketKeyData]) -> Sequence[S3BucketKeyData]:
    """`records` as columns, where they are of our own making; those of a program's own stay as they are."""
    found = list(records)
    known = {S3BucketKeyData, SchemeKeyData}.issuperset(map(type, found))
    kinds = {type(record.object_info) for record in found} if known else set()
    return Columns(found) if kinds in ({ObjectInfo}, {type(None)}) else found
