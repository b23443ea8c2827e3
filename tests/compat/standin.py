"""A store in memory in place of a `BlockingStore`: it counts requests, and can change an object under its reader."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from s3dlio.blocking.store import BlockingStore
from s3dlio.compat.s3torchconnector.objects import ObjectInfo
from s3dlio.compat.s3torchconnector.s3reader import RangedS3Reader, SequentialS3Reader
from s3dlio.compat.s3torchconnector.source import StoredObject
from s3dlio.config import Config
from s3dlio.errors import ErrorContext, IntegrityError, NotFoundError, ObjectChangedError, RangeError, StoreError
from s3dlio.model import GetResult, ObjectMeta


@dataclass
class StandIn:
    """Objects by key; `requests` lists (method, start, end, etag asked for). A replaced object has another etag."""

    config: Config = field(default_factory=Config)
    objects: dict[str, bytes] = field(default_factory=dict)
    root: str = "s3://bucket"
    requests: list[tuple[str, int | None, int | None, str | None]] = field(default_factory=list)
    failure: StoreError | None = None

    def get(self, key: str, *, known: ObjectMeta | None = None, if_match: str | None = None) -> bytes:
        self._log("get", key)
        return self.objects[key]

    def read_range(self, key: str, start: int, end: int, *, if_match: str | None = None) -> tuple[bytes, GetResult]:
        meta = self._log("range", key, start, end, if_match)
        if start >= meta.size > 0:
            raise RangeError("past the end", ErrorContext(key=key))
        data = self.objects[key][start:end]
        return data, GetResult(meta, start, start + len(data))

    def get_into(self, key: str, view: memoryview, *, start: int = 0, if_match: str | None = None) -> GetResult:
        meta = self._log("into", key, start, start + len(view), if_match)
        data = self.objects[key][start : start + len(view)]
        if len(data) < len(view):
            raise IntegrityError(f"only {len(data)} bytes there", ErrorContext(key=key))
        view[:] = data
        return GetResult(meta, start, start + len(view))

    def head(self, key: str) -> ObjectMeta:
        return self._log("head", key)

    def _log(
        self, method: str, key: str, start: int | None = None, end: int | None = None, etag: str | None = None
    ) -> ObjectMeta:
        self.requests.append((method, start, end, etag))
        if self.failure is not None:
            raise self.failure
        if key not in self.objects:
            raise NotFoundError("no such object", ErrorContext(operation=method, key=key))
        meta = self.meta(key)
        if etag is not None and etag != meta.etag:
            raise ObjectChangedError("the object was replaced", ErrorContext(operation=method, key=key))
        return meta

    def meta(self, key: str) -> ObjectMeta:
        return ObjectMeta(key=key, size=len(self.objects[key]), etag=f'"{hash(self.objects[key])}"')

    @property
    def methods(self) -> list[str]:
        return [method for method, *_ in self.requests]


KEY = "object"


def stored(data: bytes, *, part_size: int, listed: bool) -> tuple[StandIn, StoredObject]:
    """A stand-in with one object. `listed` says whether its size is known beforehand."""
    store = StandIn(Config(part_size=part_size), {KEY: data})
    info = ObjectInfo.of(store.meta(KEY)) if listed else None
    return store, StoredObject(cast("BlockingStore", store), "bucket", KEY, info)


def reader_of(data: bytes, *, part_size: int = 1 << 20, listed: bool = True) -> tuple[StandIn, SequentialS3Reader]:
    """A stand-in and the reader of its one object."""
    store, source = stored(data, part_size=part_size, listed=listed)
    return store, SequentialS3Reader("bucket", KEY, source.info, source.stream)


def ranged_reader_of(
    data: bytes, *, buffer_size: int | None, part_size: int = 1 << 20, listed: bool = True
) -> tuple[StandIn, RangedS3Reader]:
    """A stand-in and the range-based reader of its one object."""
    store, source = stored(data, part_size=part_size, listed=listed)
    return store, RangedS3Reader("bucket", KEY, source.info, source.stream, buffer_size)


def refuse(*_: object, **__: object) -> Any:
    """In place of a function that must not be called."""
    raise AssertionError("nothing may be asked for here")
