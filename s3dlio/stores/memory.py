"""A store in this process's memory: the plain model the others are tested against, and a stand-in for users' tests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count

import trio

from ..errors import AlreadyExistsError, ErrorContext, NotFoundError, PreconditionFailedError, UploadNotFoundError
from ..model import GetOptions, GetResult, ListOptions, ListPage, ObjectMeta, Part, PutOptions, PutResult, Sink, Upload
from .store import ObjectStore, check_key, check_parts, part_of, refuse_bucket, refuse_tags

_Parts = dict[int, tuple[Part, bytes]]


class MemoryStore(ObjectStore):
    """`memory://name`: a bucket that lives as long as this object; stores of one `name` share nothing.

    Bodies are copied in and out, an etag is the MD5 of the bytes, keys are listed in the order of their UTF-8.
    """

    def __init__(self, name: str = "memory") -> None:
        self._name = name
        self._objects: dict[str, tuple[ObjectMeta, bytes]] = {}
        self._uploads: dict[str, _Parts] = {}
        self._ids = count(1)

    @property
    def uri(self) -> str:
        return f"memory://{self._name}"

    async def fetch(self, key: str, sink: Sink, options: GetOptions = GetOptions()) -> GetResult:
        await trio.lowlevel.checkpoint()
        meta, data = self._find("GetObject", key)
        result = part_of(meta, options, self._context("GetObject", key))
        sink(result)[:] = data[result.start : result.end]
        return result

    async def head(self, key: str) -> ObjectMeta:
        await trio.lowlevel.checkpoint()
        return self._find("HeadObject", key)[0]

    async def put(self, key: str, data: bytes | memoryview, options: PutOptions = PutOptions()) -> PutResult:
        await trio.lowlevel.checkpoint()
        refuse_tags(options, self._context("PutObject", key))
        return self._store("PutObject", key, bytes(data), options)

    async def list_page(self, prefix: str = "", options: ListOptions = ListOptions()) -> ListPage:
        await trio.lowlevel.checkpoint()
        after = "" if options.token else options.start_after
        keys = sorted(key for key in self._objects if key.startswith(prefix) and key > after)
        entries = dict(_entry(key, prefix, options.delimiter) for key in keys)
        rest = [entry for entry in entries if entry > (options.token or "")]
        chosen = rest[: options.limit]
        objects = tuple(self._objects[entry][0] for entry in chosen if not entries[entry])
        prefixes = tuple(entry for entry in chosen if entries[entry])
        return ListPage(objects, prefixes, chosen[-1] if chosen and len(rest) > options.limit else None)

    async def delete(self, key: str) -> None:
        await trio.lowlevel.checkpoint()
        self._objects.pop(check_key(key), None)

    async def copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PutResult:
        await trio.lowlevel.checkpoint()
        refuse_bucket(source_bucket, self._context("CopyObject", target))
        meta, data = self._find("CopyObject", source)
        return self._store("CopyObject", target, data, PutOptions(meta.content_type, meta.metadata))

    async def create_upload(self, key: str, options: PutOptions = PutOptions()) -> Upload:
        await trio.lowlevel.checkpoint()
        refuse_tags(options, self._context("CreateMultipartUpload", key))
        upload = Upload(check_key(key), str(next(self._ids)), options)
        self._uploads[upload.id] = {}
        return upload

    async def upload_part(self, upload: Upload, number: int, data: bytes | memoryview) -> Part:
        await trio.lowlevel.checkpoint()
        content = bytes(data)
        part = Part(number, _etag(content), len(content))
        self._parts("UploadPart", upload)[number] = (part, content)
        return part

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> PutResult:
        await trio.lowlevel.checkpoint()
        uploaded = self._parts("CompleteMultipartUpload", upload)
        known = {number: part for number, (part, _) in uploaded.items()}
        check_parts(parts, known, self._context("CompleteMultipartUpload", upload.key))
        content = b"".join(uploaded[part.number][1] for part in parts)
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

    def _parts(self, operation: str, upload: Upload) -> _Parts:
        parts = self._uploads.get(upload.id)
        if parts is None:
            raise UploadNotFoundError("no such upload", self._context(operation, upload.key))
        return parts

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


def _entry(key: str, prefix: str, delimiter: str) -> tuple[str, bool]:
    """What a listing shows for a key: the key, or a common prefix; and whether it is one."""
    end = key.find(delimiter, len(prefix)) if delimiter else -1
    return (key, False) if end < 0 else (key[: end + len(delimiter)], True)
