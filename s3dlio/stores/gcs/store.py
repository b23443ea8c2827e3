"""Google Cloud Storage, by its JSON API. Source: "Cloud Storage JSON API", one page per method of `objects`.

Theory of operation. Reads are held to a generation (see :mod:`.messages`), so a replaced object is never mixed with its
successor. A whole object, and all that is written, is checked against the CRC32C that GCS keeps.

Large writes are resumable: see :mod:`.resumable`. GCS has no multipart uploads of the kind that
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import trio

from ...alignment.checksum import crc32c
from ...auth.bearer import BearerSigner, TokenProvider
from ...auth.google import google_credentials
from ...config import Config, MiB
from ...errors import (
    BucketNotFoundError,
    ConfigError,
    NotFoundError,
    NotModifiedError,
    ProtocolError,
    StoreError,
    UploadNotFoundError,
    shown,
)
from ...model import (
    GetOptions,
    GetResult,
    ListOptions,
    ListPage,
    ObjectMeta,
    Part,
    PutOptions,
    PutResult,
    Sink,
    StoredChecksum,
    Upload,
)
from ...transport.connection import Answer
from ...transport.download import Download
from ...transport.endpoint import Endpoint, by_proxy
from ...transport.upstream import Request
from ..http import HttpStore, Query, creating, each, open_service, read_removed
from ..store import check_key, refuse_tags
from . import messages
from .resumable import ResumableUploads

_log = logging.getLogger("s3dlio.stores")

_ReadMade = Callable[[Answer], PutResult]

RESUMABLE_FROM = 8 * MiB
"""Above this a write is resumable: one request more, and no byte sent twice. Source: "Resumable uploads"."""


class GCSStore(HttpStore):
    """`gs://bucket`. Does no I/O before the first request.

    `bucket` is its name; `config` has the settings: see :class:`s3dlio.Config`. `credentials` gives tokens, by default
    Google's application default ones. `config.gcs_endpoint` may name another server, an emulator as a rule: unless it
    is one of Google's, it gets no token but that of `credentials`. Errors: `InvalidUriError`, `ConfigError`.
    """

    _get = _head = "objects.get"
    _pin = messages.GENERATION

    def __init__(self, bucket: str, config: Config, credentials: TokenProvider | None = None) -> None:
        endpoints = [messages.endpoint_of(url) for url in (config.gcs_endpoint or "").split(",")]
        if config.anonymous:
            credentials = None
        elif credentials is None and all(map(messages.is_google, endpoints)):
            credentials = google_credentials(config.proxy)
        if credentials is not None:
            for endpoint in endpoints:
                _check_secrecy(by_proxy(endpoint, config.proxy))
        service = open_service(endpoints, config, BearerSigner(credentials), messages.read_fault)
        super().__init__(messages.check_bucket(bucket), config, service)
        self._resumable = ResumableUploads(service)
        self._uploads: set[str] = set()

    @property
    def put_limit(self) -> int:
        """All that an object can hold: parts need the rights to read, list and delete, a resumable upload none."""
        return 5 << 40

    @property
    def lists_from_keys(self) -> bool:
        return True

    @property
    def uri(self) -> str:
        return f"gs://{self.bucket}"

    # Reading

    async def fetch(self, key: str, sink: Sink, options: GetOptions = GetOptions()) -> GetResult:
        known = messages.generation_of(options.if_none_match or "")
        return await super().fetch(key, _changed_since(known, sink) if known else sink, options)

    def _get_request(self, key: str, options: GetOptions = GetOptions()) -> Request:
        unless = messages.generation_of(options.if_none_match or "")
        query = [("alt", "media")] + ([("ifGenerationNotMatch", unless)] if unless else [])
        headers = {"accept-encoding": "gzip"}  # or a stored gzip would be inflated by the server
        return self._request("objects.get", "GET", key, query=query, headers=headers)

    async def head(self, key: str) -> ObjectMeta:
        answer = await self._send(self._request("objects.get", "GET", key))
        with self._reading("objects.get", key):
            return messages.object_meta(messages.read_json(answer.body))

    async def list_page(self, prefix: str = "", options: ListOptions = ListOptions()) -> ListPage:
        request = self._request("objects.list", "GET", query=messages.list_query(prefix, options))
        read = partial(messages.read_page, prefix=prefix, start_after=options.start_after)
        return await self._page(request, read, options.token)

    def _describe(self, key: str, headers: Mapping[str, str], size: int) -> ObjectMeta:
        return messages.media_meta(key, headers, size)

    def _checksum(self, headers: Mapping[str, str]) -> StoredChecksum | None:
        return messages.hash_header(headers)

    # Writing

    async def put(self, key: str, data: bytes | memoryview, options: PutOptions = PutOptions()) -> PutResult:
        made, _ = await self._insert(key, data, options)
        return made

    async def _insert(self, key: str, data: bytes | memoryview, options: PutOptions) -> tuple[PutResult, int | None]:
        """Write an object; its version and, unless checksums are off, its CRC32C."""
        context = self._context("objects.insert", check_key(key))
        refuse_tags(options, context)
        conditions = messages.conditions(options, context)
        view = memoryview(data).cast("B")
        checksum = await self._digest(crc32c, view) if self._writes != "off" else None
        wanted = messages.resource(key, options, checksum)
        read = partial(_made, key=key, size=len(view), crc32c=checksum)
        with creating(options):
            insert = self._insert_resumable if len(view) > RESUMABLE_FROM else self._insert_at_once
            return await insert(key, view, wanted, conditions, read), checksum

    async def _insert_at_once(
        self, key: str, view: memoryview, wanted: Mapping[str, Any], conditions: Query, read: _ReadMade
    ) -> PutResult:
        kind, body = messages.multipart(wanted, view, secrets.token_hex(16))
        query = [("uploadType", "multipart"), *conditions]
        request = self._insert_request(key, query, {"content-type": kind}, body)
        return await self._ask(request._replace(idempotent=not conditions), read)

    async def _insert_resumable(
        self, key: str, view: memoryview, wanted: Mapping[str, Any], conditions: Query, read: _ReadMade
    ) -> PutResult:
        headers = {"content-type": "application/json", "x-upload-content-length": str(len(view))}
        query, body = [("uploadType", "resumable"), *conditions], json.dumps(wanted).encode()
        request = self._insert_request(key, query, headers, (body,))
        with _missing_bucket(request):
            return await self._resumable.send(request, view, read)

    def _insert_request(
        self, key: str, query: Query, headers: Mapping[str, str], body: Sequence[bytes | memoryview]
    ) -> Request:
        path = messages.upload_path(self.bucket)
        return self._request("objects.insert", "POST", key, path=path, query=query, headers=headers, body=body)

    async def copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PutResult:
        bucket = self.bucket if source_bucket is None else messages.check_bucket(source_bucket)
        path = messages.rewrite_path(bucket, check_key(source), self.bucket, check_key(target))
        known, query = None, list[tuple[str, str]]()
        while True:
            request = self._request("objects.rewrite", "POST", source, path=path, query=query)
            made = await self._ask(request, lambda answer: messages.read_rewrite(answer.body, target))
            if isinstance(made, PutResult):
                return made
            if known is not None and made.copied <= known.copied:
                message = f"the copy goes on, by the token {shown(made.token, 100)!r}, but copies nothing"
                raise ProtocolError(message, self._context("objects.rewrite", source))
            known, query = made, [("rewriteToken", made.token)]

    # Deleting

    async def delete(self, key: str) -> None:
        try:
            await self._ask(self._request("objects.delete", "DELETE", key, success=(200, 204)), read_removed)
        except BucketNotFoundError:
            raise
        except NotFoundError:
            return

    # Multipart uploads

    async def create_upload(self, key: str, options: PutOptions = PutOptions()) -> Upload:
        await trio.lowlevel.checkpoint()
        refuse_tags(options, self._context("objects.insert", check_key(key)))
        messages.resource(key, options, None)
        upload = Upload(key, secrets.token_hex(16), options)
        self._uploads.add(upload.id)
        return upload

    async def upload_part(self, upload: Upload, number: int, data: bytes | memoryview) -> Part:
        self._check_open(upload)
        made, checksum = await self._insert(messages.part_name(upload.id, number), data, PutOptions())
        return Part(number, messages.part_etag(made.etag or "", checksum), memoryview(data).nbytes)

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> PutResult:
        self._check_open(upload)
        where = self._context("objects.compose", upload.key)
        conditions = messages.conditions(upload.options, where)
        pieces = messages.pieces(upload.id, parts, where)
        level = 0
        while len(pieces) > messages.MOST_PIECES:
            level += 1
            pieces = await self._join(upload, level, pieces)
        wanted = messages.resource(upload.key, upload.options, None)
        with creating(upload.options):
            made = await self._compose(upload.key, pieces, wanted, conditions)
        await self._clean_up(upload)
        return PutResult(made.generation, made.generation)

    async def _join(self, upload: Upload, level: int, pieces: Sequence[messages.Piece]) -> list[messages.Piece]:
        """One round: 32 pieces each become one."""
        groups = messages.groups(pieces)
        joined: dict[int, messages.Piece] = {}

        async def join(number: int) -> None:
            joined[number] = await self._compose(messages.joint_name(upload.id, level, number), groups[number])

        if failures := await each(join, range(len(groups))):
            raise failures[0]
        return [joined[number] for number in range(len(groups))]

    async def _compose(
        self,
        target: str,
        pieces: Sequence[messages.Piece],
        wanted: Mapping[str, Any] | None = None,
        conditions: Query = (),
    ) -> messages.Piece:
        """Make `target` of the pieces. Errors: `UploadNotFoundError` where one is gone; `IntegrityError`."""
        request = self._request(
            "objects.compose",
            "POST",
            target,
            path=messages.compose_path(self.bucket, target),
            query=conditions,
            headers={"content-type": "application/json"},
            body=(messages.compose_body(pieces, wanted or {}),),
        )
        checksum, size = messages.joined_crc32c(pieces), sum(piece.size for piece in pieces)
        read = partial(_made, key=target, size=size, crc32c=checksum)
        try:
            made = await self._ask(request._replace(idempotent=not conditions), read)
        except BucketNotFoundError:
            raise
        except NotFoundError as error:
            raise UploadNotFoundError("a part of the upload is not there", error.context) from None
        return messages.Piece(target, made.etag or "", checksum, size)

    async def abort_upload(self, upload: Upload) -> None:
        self._uploads.discard(upload.id)
        pages = self.list(messages.part_prefix(upload.id))
        await self.delete_many([meta.key async for page in pages for meta in page.objects])

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

    def _path(self, key: str | None) -> str:
        return messages.objects_path(self.bucket) if key is None else messages.object_path(self.bucket, check_key(key))

    async def _send(self, request: Request, download: Download | None = None) -> Answer:
        with _missing_bucket(request):
            return await super()._send(request, download)


def _made(answer: Answer, key: str, size: int, crc32c: int | None) -> PutResult:
    return messages.read_made(answer.body, key, size, crc32c)


@contextmanager
def _missing_bucket(request: Request) -> Iterator[None]:
    """An answer that something is not there is a `BucketNotFoundError` also where it can be nothing else."""
    try:
        yield
    except UploadNotFoundError:
        raise
    except NotFoundError as error:
        object_asked = request.key is not None and request.operation != "objects.insert"
        if object_asked and not messages.names_bucket(error.message):
            raise
        raise BucketNotFoundError(f"no such bucket: {error.message}", error.context) from None


def _changed_since(known: str, sink: Sink) -> Sink:
    """A sink that wants none of the generation that is known already."""

    def changed(coming: GetResult) -> memoryview:
        if coming.meta.etag == known:
            raise NotModifiedError("the object is still of this generation")
        return sink(coming)

    return changed


def _check_secrecy(endpoint: Endpoint) -> None:
    """A token is sent under TLS, or to this host, alone (RFC 6750 section 5.3). Errors: `ConfigError`."""
    if not endpoint.confidential:
        raise ConfigError(f"a token is not sent in clear to another host: {endpoint}")
