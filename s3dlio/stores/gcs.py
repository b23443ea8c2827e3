"""Google Cloud Storage, by its JSON API. Source: "Cloud Storage JSON API", one page per method of `objects`.

Theory of operation. Reads are held to a generation (see :mod:`.gcs_json`), so a replaced object is never mixed with its
successor. A whole object, and all that is written, is checked against the CRC32C that GCS keeps.

Large writes are resumable: see :mod:`.gcs_resumable`. GCS has no multipart uploads of the kind that
:class:`.store.ObjectStore` describes; here their parts are objects below `.s3dlio-uploads/`, which listings hide,
composed into the target by 32 at a time and then removed. Invariant: nothing is at the target before the last request,
which also carries the conditions. An upload belongs to the store that began it. What a process that was killed leaves
behind, a lifecycle rule on that prefix removes.

Cancellation: at any await. :meth:`GCSStore.abort_upload` removes what parts there are.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any, TypeVar

import trio

from ..alignment.checksum import crc32c, kernel_for
from ..auth.bearer import BearerSigner, TokenProvider
from ..auth.google import google_credentials
from ..auth.sigv4 import quote_query
from ..config import Config, MiB
from ..errors import (
    AlreadyExistsError,
    BucketNotFoundError,
    ConfigError,
    ErrorContext,
    IntegrityError,
    NotFoundError,
    NotModifiedError,
    PreconditionFailedError,
    ProtocolError,
    StoreError,
    UploadNotFoundError,
)
from ..model import GetRange, GetResult, ListPage, ObjectMeta, Part, PutOptions, PutResult, Sink, Upload
from ..transport.client import Answer
from ..transport.dial import open_pool
from ..transport.download import Download
from ..transport.endpoints import Endpoint
from ..transport.retry import RetryPolicy
from ..transport.service import Request, Service
from . import gcs_json
from .gcs_resumable import ResumableUploads
from .store import DEFAULT_PUT, ObjectStore, check_key

_log = logging.getLogger("s3dlio.stores")
T = TypeVar("T")

RESUMABLE_FROM = 8 * MiB
"""Above this a write is resumable: one request more, and no byte sent twice. Source: "Resumable uploads"."""

_HASH_IN_THREAD_FROM = 1 * MiB
_IN_FLIGHT = 32


class GCSStore(ObjectStore):
    """`gs://bucket`. Does no I/O before the first request; see :class:`s3dlio.config.Config` for the settings.

    Credentials are `credentials`, or else Google's application default ones. `config.gcs_endpoint` may name another
    server, an emulator as a rule: unless it is one of Google's, it gets no token but that of `credentials`. Errors:
    `InvalidUriError`, `ConfigError`.
    """

    def __init__(self, bucket: str, config: Config, credentials: TokenProvider | None = None) -> None:
        self.bucket = gcs_json.check_bucket(bucket)
        self.config = config
        self._endpoint = endpoint = gcs_json.endpoint_of(config.gcs_endpoint)
        if config.anonymous:
            credentials = None
        elif credentials is None and gcs_json.is_google(endpoint):
            credentials = google_credentials()
        if credentials is not None:
            _check_secrecy(endpoint)
        pool, signer = open_pool(endpoint, config), BearerSigner(credentials)
        self._service, single = (
            Service(endpoint, pool, signer, gcs_json.read_fault, policy, user_agent=config.user_agent)
            for policy in (RetryPolicy(max_attempts=config.max_attempts), RetryPolicy(max_attempts=1))
        )
        self._resumable = ResumableUploads(self._service, single)
        self._checksums = _Checksums()
        self._uploads: set[str] = set()

    @property
    def uri(self) -> str:
        return f"gs://{self.bucket}"

    # Reading

    async def fetch(
        self,
        key: str,
        sink: Sink,
        *,
        byte_range: GetRange | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> GetResult:
        unless = gcs_json.generation_of(if_none_match) if if_none_match else None
        place = _Place(sink, unless)
        download = Download(
            key,
            place,
            lambda headers, size: gcs_json.media_meta(key, headers, size),
            byte_range,
            if_match,
            gcs_json.GENERATION,
        )
        answer = await self._send(
            "objects.get",
            "GET",
            gcs_json.object_path(self.bucket, check_key(key)),
            key=key,
            query=[("alt", "media")] + ([("ifGenerationNotMatch", unless)] if unless else []),
            headers={"accept-encoding": "gzip"},  # or a stored gzip would be inflated by the server
            download=download,
        )
        if download.result is None:
            raise ProtocolError("the answer to a GET was not the object", self._context("objects.get", key))
        await self._check_read(download.result, place.view, answer)
        return download.result

    async def _check_read(self, result: GetResult, view: memoryview, answer: Answer) -> None:
        """Compare a whole object with its checksum."""
        expected = gcs_json.hash_header(answer.headers)
        if expected is None or (result.start, result.end) != (0, result.meta.size):
            return
        if await self._checksums.crc32c(view) != expected:
            context = self._context("objects.get", result.meta.key)
            raise IntegrityError("the bytes received do not have the object's CRC32C", context)

    async def head(self, key: str) -> ObjectMeta:
        answer = await self._send("objects.get", "GET", gcs_json.object_path(self.bucket, check_key(key)), key=key)
        with gcs_json.naming(self._context("objects.get", key)):
            return gcs_json.object_meta(gcs_json.read_json(answer.body))

    async def list_page(
        self,
        prefix: str = "",
        *,
        delimiter: str = "",
        start_after: str = "",
        token: str | None = None,
        limit: int = 1000,
    ) -> ListPage:
        query = gcs_json.list_query(prefix, delimiter, start_after, token, limit)
        answer = await self._send("objects.list", "GET", gcs_json.objects_path(self.bucket), query=query)
        with gcs_json.naming(self._context("objects.list", None)):
            return gcs_json.read_page(answer.body, prefix, start_after)

    # Writing

    async def put(self, key: str, data: bytes | memoryview, options: PutOptions = DEFAULT_PUT) -> PutResult:
        made, _ = await self._insert(key, data, options)
        return made

    async def _insert(self, key: str, data: bytes | memoryview, options: PutOptions) -> tuple[PutResult, int]:
        """Write an object; its version and its CRC32C."""
        context = self._context("objects.insert", check_key(key))
        conditions = gcs_json.conditions(options, context)
        view = memoryview(data).cast("B")
        checksum = await self._checksums.crc32c(view)
        wanted = gcs_json.resource(key, options, checksum)
        async with self._conditional(options):
            insert = self._insert_resumable if len(view) > RESUMABLE_FROM else self._insert_at_once
            answer = await insert(key, view, wanted, conditions)
        return self._written(answer, checksum, context), checksum

    async def _insert_at_once(
        self, key: str, view: memoryview, wanted: Mapping[str, Any], conditions: gcs_json.Query
    ) -> Answer:
        kind, body = gcs_json.multipart(wanted, view, secrets.token_hex(16))
        return await self._send(
            "objects.insert",
            "POST",
            gcs_json.upload_path(self.bucket),
            key=key,
            query=[("uploadType", "multipart"), *conditions],
            headers={"content-type": kind},
            body=body,
            idempotent=not conditions,
        )

    async def _insert_resumable(
        self, key: str, view: memoryview, wanted: Mapping[str, Any], conditions: gcs_json.Query
    ) -> Answer:
        return await self._send(
            "objects.insert",
            "POST",
            gcs_json.upload_path(self.bucket),
            key=key,
            query=[("uploadType", "resumable"), *conditions],
            headers={"content-type": "application/json", "x-upload-content-length": str(len(view))},
            body=(memoryview(json.dumps(wanted).encode()),),
            upload=view,
        )

    def _written(self, answer: Answer, checksum: int, where: ErrorContext) -> PutResult:
        """The version that was made, if it is what was sent. Errors: `IntegrityError`, `ProtocolError`."""
        with gcs_json.naming(where):
            made = gcs_json.read_json(answer.body)
            result = gcs_json.put_result(made)
        if gcs_json.read_crc32c(str(made.get("crc32c", ""))) not in (checksum, None):
            raise IntegrityError("the object that was made does not have the CRC32C of what was sent", where)
        return result

    async def copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PutResult:
        bucket = self.bucket if source_bucket is None else gcs_json.check_bucket(source_bucket)
        path = gcs_json.rewrite_path(bucket, check_key(source), self.bucket, check_key(target))
        token: str | None = None
        while True:
            query = [("rewriteToken", token)] if token else []
            answer = await self._send("objects.rewrite", "POST", path, key=source, query=query)
            with gcs_json.naming(self._context("objects.rewrite", source)):
                made, token = gcs_json.read_rewrite(answer.body)
            if made is not None:
                return made

    # Deleting

    async def delete(self, key: str) -> None:
        try:
            await self._send("objects.delete", "DELETE", gcs_json.object_path(self.bucket, check_key(key)), key=key)
        except BucketNotFoundError:
            raise
        except NotFoundError:
            return

    async def delete_many(self, keys: Iterable[str]) -> None:
        failures = await _each(self.delete, keys)
        if failures:
            failures[0].add_note(f"{len(failures)} objects in all could not be removed")
            raise failures[0]

    # Multipart uploads

    async def create_upload(self, key: str, options: PutOptions = DEFAULT_PUT) -> Upload:
        await trio.lowlevel.checkpoint()
        gcs_json.resource(check_key(key), options, None)
        upload = Upload(key, secrets.token_hex(16), options)
        self._uploads.add(upload.id)
        return upload

    async def upload_part(self, upload: Upload, number: int, data: bytes | memoryview) -> Part:
        self._check_open(upload)
        made, checksum = await self._insert(gcs_json.part_name(upload.id, number), data, DEFAULT_PUT)
        return Part(number, gcs_json.part_etag(made.etag or "", checksum), memoryview(data).nbytes)

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> PutResult:
        self._check_open(upload)
        where = self._context("objects.compose", upload.key)
        conditions = gcs_json.conditions(upload.options, where)
        pieces = gcs_json.pieces(upload.id, parts, where)
        level = 0
        while len(pieces) > gcs_json.MOST_PIECES:
            level += 1
            pieces = await self._join(upload, level, pieces)
        wanted = gcs_json.resource(upload.key, upload.options, None)
        async with self._conditional(upload.options):
            made = await self._compose(upload.key, pieces, wanted, conditions)
        await self._clean_up(upload)
        return PutResult(made.generation, made.generation)

    async def _join(self, upload: Upload, level: int, pieces: Sequence[gcs_json.Piece]) -> list[gcs_json.Piece]:
        """One round: 32 pieces each become one."""
        groups = gcs_json.groups(pieces)
        joined: dict[int, gcs_json.Piece] = {}

        async def join(number: int) -> None:
            joined[number] = await self._compose(gcs_json.joint_name(upload.id, level, number), groups[number])

        failures = await _each(join, range(len(groups)))
        if failures:
            raise failures[0]
        return [joined[number] for number in range(len(groups))]

    async def _compose(
        self,
        target: str,
        pieces: Sequence[gcs_json.Piece],
        wanted: Mapping[str, Any] | None = None,
        conditions: gcs_json.Query = (),
    ) -> gcs_json.Piece:
        """Make `target` of the pieces. Errors: `UploadNotFoundError` where one is gone; `IntegrityError`."""
        try:
            answer = await self._send(
                "objects.compose",
                "POST",
                gcs_json.compose_path(self.bucket, target),
                key=target,
                query=conditions,
                headers={"content-type": "application/json"},
                body=(memoryview(gcs_json.compose_body(pieces, wanted or {})),),
                idempotent=not conditions,
            )
        except BucketNotFoundError:
            raise
        except NotFoundError as error:
            raise UploadNotFoundError("a part of the upload is not there", error.context) from None
        checksum = gcs_json.joined_crc32c(pieces)
        made = self._written(answer, checksum, self._context("objects.compose", target))
        return gcs_json.Piece(target, made.etag or "", checksum, sum(piece.size for piece in pieces))

    async def abort_upload(self, upload: Upload) -> None:
        self._uploads.discard(upload.id)
        async for page in self.list(gcs_json.part_prefix(upload.id)):
            await self.delete_many(meta.key for meta in page.objects)

    async def _clean_up(self, upload: Upload) -> None:
        """Remove the parts of a finished upload. The object is there, so that this fails is no failure."""
        try:
            await self.abort_upload(upload)
        except StoreError as error:
            _log.warning("parts of a finished upload could not be removed: %s", error)

    def _check_open(self, upload: Upload) -> None:
        if upload.id not in self._uploads:
            message = "no such upload: it was completed, aborted, or not begun by this store"
            raise UploadNotFoundError(message, self._context("objects.insert", upload.key))

    # Requests

    async def aclose(self) -> None:
        self._service.close()
        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def _conditional(self, options: PutOptions) -> AsyncIterator[None]:
        """A write whose condition may fail: where nothing was to be there, something is."""
        try:
            yield
        except PreconditionFailedError as error:
            if options.if_none_match:
                raise AlreadyExistsError("an object of this key exists", error.context) from error
            raise

    async def _send(
        self,
        operation: str,
        method: str,
        path: str,
        *,
        key: str | None = None,
        query: gcs_json.Query = (),
        headers: Mapping[str, str] | None = None,
        body: Sequence[memoryview] = (),
        download: Download | None = None,
        upload: memoryview | None = None,
        idempotent: bool = True,
    ) -> Answer:
        """A request about an object, or about all where there is no `key`; it begins a resumable `upload`, if given.

        Errors: `BucketNotFoundError` also where it can be nothing else that is not there.
        """
        request = Request(
            operation,
            method,
            self._endpoint.prefix + path,
            quote_query(query) if query else "",
            headers or {},
            body,
            bucket=self.bucket,
            key=key,
            idempotent=idempotent,
        )
        try:
            if upload is not None:
                return await self._resumable.send(request, upload)
            return await self._service.send(request, download)
        except UploadNotFoundError:
            raise
        except NotFoundError as error:
            if key is not None and operation != "objects.insert" and not gcs_json.names_bucket(error.message):
                raise
            raise BucketNotFoundError(f"no such bucket: {error.message}", error.context) from None

    def _context(self, operation: str, key: str | None) -> ErrorContext:
        return ErrorContext(operation=operation, bucket=self.bucket, key=key, endpoint=str(self._endpoint))


class _Place:
    """A sink that remembers where the body goes, and wants none of the generation that is known already."""

    def __init__(self, sink: Sink, known: str | None) -> None:
        self.view = memoryview(b"")
        self._sink = sink
        self._known = known

    def __call__(self, coming: GetResult) -> memoryview:
        if self._known is not None and coming.meta.etag == self._known:
            raise NotModifiedError("the object is still of this generation")
        self.view = self._sink(coming)
        return self.view


class _Checksums:
    """CRC32C in a thread where it takes long, which the first one of a process does: it compiles the kernel."""

    def __init__(self) -> None:
        self._first = trio.Lock()

    async def crc32c(self, data: memoryview) -> int:
        """The CRC32C of `data`, which must not change meanwhile."""
        if not len(data):
            return 0
        if not kernel_for.cache_info().currsize:
            async with self._first:
                return await trio.to_thread.run_sync(crc32c, data)
        if len(data) < _HASH_IN_THREAD_FROM:
            return crc32c(data)
        return await trio.to_thread.run_sync(crc32c, data)


async def _each(do: Callable[[T], Awaitable[None]], items: Iterable[T]) -> list[StoreError]:
    """Do it for all items, some at a time; what failed."""
    failures: list[StoreError] = []
    limiter = trio.CapacityLimiter(_IN_FLIGHT)

    async def one(item: T, token: object) -> None:
        try:
            await do(item)
        except StoreError as error:
            failures.append(error)
        finally:
            limiter.release_on_behalf_of(token)

    async with trio.open_nursery() as nursery:
        for item in items:
            await limiter.acquire_on_behalf_of(token := object())
            nursery.start_soon(one, item, token)
    return failures


def _check_secrecy(endpoint: Endpoint) -> None:
    """A token is sent under TLS, or to this host, alone (RFC 6750 section 5.3). Errors: `ConfigError`."""
    if not endpoint.tls and endpoint.address != "localhost" and not _is_loopback(endpoint.host):
        raise ConfigError(f"a token is not sent in clear to another host: {endpoint}")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
