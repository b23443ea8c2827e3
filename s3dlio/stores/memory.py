"""A store in this process's memory: the plain model the others are tested against, and a stand-in for users' tests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count

import trio

from ..errors import (
    AlreadyExistsError,
    ErrorContext,
    NotFoundError,
    NotModifiedError,
    ObjectChangedError,
    PreconditionFailedError,
    RangeError,
    RequestError,
    UploadNotFoundError,
)
from ..model import GetRange, GetResult, ListPage, ObjectMeta, Part, PutOptions, PutResult, Sink, Upload, resolve
from .store import DEFAULT_PUT, ObjectStore, check_key, refuse_bucket


@dataclass(slots=True)
class _Pending:
    upload: Upload
    parts: dict[int, tuple[Part, bytes]] = field(default_factory=dict)


class MemoryStore(ObjectStore):
    """`memory://name`: a bucket that lives as long as this object. Keys are listed in the order of their UTF-8."""

    def __init__(self, name: str = "memory") -> None:
        self._name = name
        self._objects: dict[str, tuple[ObjectMeta, bytes]] = {}
        self._uploads: dict[str, _Pending] = {}
        self._ids = count(1)

    @property
    def uri(self) -> str:
        return f"memory://{self._name}"

    async def fetch(
        self,
        key: str,
        sink: Sink,
        *,
        byte_range: GetRange | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> GetResult:
        await trio.lowlevel.checkpoint()
        meta, data = self._find("GetObject", key)
        if if_match is not None and meta.etag != if_match:
            raise ObjectChangedError("the object was replaced", self._context("GetObject", key))
        if if_none_match is not None and meta.etag == if_none_match:
            raise NotModifiedError("the object is the same", self._context("GetObject", key))
        start, end = resolve(byte_range, meta.size)
        if byte_range is not None and start >= meta.size:
            raise RangeError(f"the range begins at or past the end, {meta.size}", self._context("GetObject", key))
        result = GetResult(meta, start, end)
        sink(result)[:] = data[start:end]
        return result

    async def head(self, key: str) -> ObjectMeta:
        await trio.lowlevel.checkpoint()
        return self._find("HeadObject", key)[0]

    async def put(self, key: str, data: bytes | memoryview, options: PutOptions = DEFAULT_PUT) -> PutResult:
        await trio.lowlevel.checkpoint()
        return self._store("PutObject", key, bytes(data), options)

    async def list_page(
        self,
        prefix: str = "",
        *,
        delimiter: str = "",
        start_after: str = "",
        token: str | None = None,
        limit: int = 1000,
    ) -> ListPage:
        await trio.lowlevel.checkpoint()
        after = "" if token else start_after
        names = sorted(key for key in self._objects if key.startswith(prefix) and key > after)
        entries = dict.fromkeys(_entry(name, prefix, delimiter) for name in names)
        rest = [entry for entry in entries if entry > (token or "")]
        chosen = rest[:limit]
        objects = tuple(self._objects[name][0] for name in chosen if not _is_prefix(name, prefix, delimiter))
        prefixes = tuple(name for name in chosen if _is_prefix(name, prefix, delimiter))
        return ListPage(objects, prefixes, chosen[-1] if chosen and len(rest) > limit else None)

    async def delete(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self._objects.pop(check_key(key), None)

    async def copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PutResult:
        await trio.lowlevel.checkpoint()
        refuse_bucket(source_bucket, self._context("CopyObject", target))
        meta, data = self._find("CopyObject", source)
        return self._store("CopyObject", target, data, PutOptions(meta.content_type, meta.metadata))

    async def create_upload(self, key: str, options: PutOptions = DEFAULT_PUT) -> Upload:
        await trio.lowlevel.checkpoint()
        upload = Upload(check_key(key), str(next(self._ids)), options)
        self._uploads[upload.id] = _Pending(upload)
        return upload

    async def upload_part(self, upload: Upload, number: int, data: bytes | memoryview) -> Part:
        await trio.lowlevel.checkpoint()
        content = bytes(data)
        part = Part(number, _etag(content), len(content))
        self._pending("UploadPart", upload).parts[number] = (part, content)
        return part

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> PutResult:
        await trio.lowlevel.checkpoint()
        pending = self._pending("CompleteMultipartUpload", upload)
        wrong = not parts or any(pending.parts.get(part.number, (None,))[0] != part for part in parts)
        if wrong or [part.number for part in parts] != sorted({part.number for part in parts}):
            context = self._context("CompleteMultipartUpload", upload.key)
            raise RequestError("the parts are not those that were uploaded, in order", context)
        content = b"".join(pending.parts[part.number][1] for part in parts)
        result = self._store("CompleteMultipartUpload", upload.key, content, upload.options)
        del self._uploads[upload.id]
        return result

    async def abort_upload(self, upload: Upload) -> None:
        await trio.lowlevel.checkpoint()
        self._uploads.pop(upload.id, None)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    def _find(self, operation: str, key: str) -> tuple[ObjectMeta, bytes]:
        found = self._objects.get(check_key(key))
        if found is None:
            raise NotFoundError("no such object", self._context(operation, key))
        return found

    def _pending(self, operation: str, upload: Upload) -> _Pending:
        pending = self._uploads.get(upload.id)
        if pending is None:
            raise UploadNotFoundError("no such upload", self._context(operation, upload.key))
        return pending

    def _store(self, operation: str, key: str, data: bytes, options: PutOptions) -> PutResult:
        old = self._objects.get(check_key(key))
        if options.if_none_match and old is not None:
            raise AlreadyExistsError("an object of this key exists", self._context(operation, key))
        if options.if_match is not None and (old is None or old[0].etag != options.if_match):
            raise PreconditionFailedError("the object is not the expected one", self._context(operation, key))
        meta = ObjectMeta(
            key,
            len(data),
            etag=_etag(data),
            last_modified=datetime.now(UTC).replace(microsecond=0),
            content_type=options.content_type,
            storage_class=options.storage_class,
            metadata=dict(options.metadata),
        )
        self._objects[key] = (meta, data)
        return PutResult(meta.etag)

    def _context(self, operation: str, key: str) -> ErrorContext:
        return ErrorContext(operation=operation, bucket=self._name, key=key, attempts=1)


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _entry(name: str, prefix: str, delimiter: str) -> str:
    """What a listing shows for a key: the key, or its common prefix."""
    end = name.find(delimiter, len(prefix)) if delimiter else -1
    return name if end < 0 else name[: end + len(delimiter)]


def _is_prefix(entry: str, prefix: str, delimiter: str) -> bool:
    return bool(delimiter) and entry.endswith(delimiter) and len(entry) > len(prefix)
