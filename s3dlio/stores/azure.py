"""Azure Blob Storage. Source: its REST API reference, one page per operation.

An upload in parts is a set of uncommitted blocks, whose ids we make ourselves: the upload's id, which no other upload
has, and the part's number. So beginning an upload takes no request. Neither does dropping one: there is no way to
remove an uncommitted block, and no need, as nobody sees it and the service drops it after a week, or when any other
write of that name is completed. That is also why of two uploads of one name under way together only the one that is
completed first succeeds: the other finds its blocks gone and fails with `UploadNotFoundError`.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice

import trio

from ..auth.azure_credentials import AzureAccount, azure_account, azure_signer, sas_expiry
from ..auth.sigv4 import quote_path, quote_query
from ..config import Config
from ..errors import (
    AlreadyExistsError,
    ErrorContext,
    InvalidKeyError,
    NotFoundError,
    ObjectChangedError,
    PermissionDeniedError,
    PreconditionFailedError,
    ProtocolError,
    RangeError,
    RequestError,
    StallError,
    StoreError,
    UnsupportedError,
    UploadNotFoundError,
)
from ..model import (
    BoundedRange,
    GetRange,
    GetResult,
    ListPage,
    ObjectMeta,
    Part,
    PutOptions,
    PutResult,
    Sink,
    SuffixRange,
    Upload,
    resolve,
)
from ..transport.client import Answer
from ..transport.dial import open_pool
from ..transport.download import Download
from ..transport.http1 import http_date, quote_etag
from ..transport.retry import RetryPolicy
from ..transport.service import Fault, Request, Service
from . import azure_xml
from .azure_route import check_name, parse_place, route
from .s3_xml import parse, text_of
from .store import DEFAULT_PUT, ObjectStore

API_VERSION = "2021-12-02"
"""The `x-ms-version` of all requests. All that is used here is older, so that emulators and appliances know it too."""

_META = "x-ms-meta-"
_DELETES_AT_ONCE = 32
_FIRST_LOOK = 0.05
_LONGEST_WAIT = 2.0
"""Seconds between two looks at a copy that is being made."""


class AzureStore(ObjectStore):
    """One container. Does no I/O before the first request; see :class:`s3dlio.config.Config` for the settings.

    `bucket` names it as a URI does: see :mod:`.azure_route`. Credentials come from the environment: see
    :mod:`s3dlio.auth.azure_credentials`. The service takes metadata only under names that are C# identifiers.
    """

    def __init__(self, bucket: str, config: Config, account: AzureAccount | None = None) -> None:
        account = account or azure_account(config)
        self.bucket = bucket
        self.config = config
        self._route = route(parse_place(bucket), account)
        account = replace(account, name=self._route.account)
        tls, anonymous = self._route.endpoint.tls, config.anonymous
        self._expires = sas_expiry(account.sas) if account.sas and not account.key else None
        self._service = Service(
            self._route.endpoint,
            open_pool(self._route.endpoint, config),
            azure_signer(account, tls=tls, anonymous=anonymous),
            read_fault,
            RetryPolicy(max_attempts=config.max_attempts),
            user_agent=config.user_agent,
        )
        self._uploads: set[str] = set()

    @property
    def uri(self) -> str:
        return f"{'abfss' if '@' in self.bucket else 'az'}://{self.bucket}"

    async def fetch(
        self,
        key: str,
        sink: Sink,
        *,
        byte_range: GetRange | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> GetResult:
        if isinstance(byte_range, SuffixRange):  # the service has none
            meta = await self._head_of(key, if_match)
            if not meta.size:
                raise RangeError("an empty blob has no range", self._context("GetBlob", key))
            byte_range, if_match = BoundedRange(*resolve(byte_range, meta.size)), meta.etag
        headers = {"if-none-match": quote_etag(if_none_match)} if if_none_match else {}
        download = Download(key, sink, lambda answer, size: object_meta(key, answer, size), byte_range, if_match)
        await self._send("GetBlob", "GET", key, headers=headers, download=download)
        if download.result is None:
            raise ProtocolError("the answer to a GET was not the blob", self._context("GetBlob", key))
        return download.result

    async def head(self, key: str) -> ObjectMeta:
        headers = await self._properties(key)
        size = headers.get("content-length", "")
        if not (size.isascii() and size.isdecimal()):
            raise ProtocolError("the answer to a HEAD has no length", self._context("GetBlobProperties", key))
        return object_meta(key, headers, int(size))

    async def _properties(self, key: str) -> Mapping[str, str]:
        return (await self._send("GetBlobProperties", "HEAD", key)).headers

    async def put(self, key: str, data: bytes | memoryview, options: PutOptions = DEFAULT_PUT) -> PutResult:
        headers = {"x-ms-blob-type": "BlockBlob"} | put_headers(options)
        answer = await self._conditional("PutBlob", key, options, headers=headers, data=data)
        return _put_result(answer.headers)

    async def list_page(
        self,
        prefix: str = "",
        *,
        delimiter: str = "",
        start_after: str = "",
        token: str | None = None,
        limit: int = 1000,
    ) -> ListPage:
        asked = {
            "restype": "container",
            "comp": "list",
            "maxresults": str(limit),
            "prefix": prefix,
            "delimiter": delimiter,
            "marker": token or "",
        }
        answer = await self._send("ListBlobs", "GET", query=[(name, value) for name, value in asked.items() if value])
        page = azure_xml.parse_list_page(answer.body)
        return await self._pass_over(page, start_after) if start_after else page

    async def _pass_over(self, page: ListPage, start_after: str) -> ListPage:
        """The page without what comes up to `start_after`, which the service cannot be told: it may become empty."""
        objects = tuple(meta for meta in page.objects if meta.key > start_after)
        prefixes = [name for name in page.prefixes if await self._goes_on(name, start_after)]
        return ListPage(objects, tuple(prefixes), page.token)

    async def _goes_on(self, prefix: str, start_after: str) -> bool:
        """Whether any key with `prefix` comes after `start_after`."""
        if not start_after.startswith(prefix):
            return prefix > start_after
        token: str | None = None
        while True:
            page = await self.list_page(prefix, start_after=start_after, token=token)
            if page.objects or page.token is None:
                return bool(page.objects)
            token = page.token

    async def delete(self, key: str) -> None:
        try:
            await self._send("DeleteBlob", "DELETE", key)
        except NotFoundError as error:
            if error.code != "BlobNotFound":
                raise

    async def delete_many(self, keys: Iterable[str]) -> None:
        rest = iter(keys)
        failures: list[StoreError] = []
        while batch := list(islice(rest, _DELETES_AT_ONCE)):
            failures += await self._delete_batch(batch)
        if failures:
            failures[0].add_note(f"{len(failures)} blobs in all could not be removed")
            raise failures[0]

    async def _delete_batch(self, keys: Sequence[str]) -> list[StoreError]:
        failures: dict[int, StoreError] = {}

        async def work(number: int, key: str) -> None:
            try:
                await self.delete(key)
            except StoreError as error:
                failures[number] = error

        async with trio.open_nursery() as nursery:
            for number, key in enumerate(keys):
                nursery.start_soon(work, number, key)
        return [failures[number] for number in sorted(failures)]

    async def copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PutResult:
        """Copy a blob inside the account; where the service takes its time, wait. Cancelled, it goes on alone."""
        headers = {"x-ms-copy-source": self._route.url(self._path(source, self._container_of(source_bucket)))}
        answer = await self._send("CopyBlob", "PUT", target, headers=headers)
        if answer.headers.get("x-ms-copy-status", "success") == "success":
            return _put_result(answer.headers)
        return await self._copied(target, answer.headers.get("x-ms-copy-id", ""))

    async def _copied(self, target: str, copy_id: str) -> PutResult:
        """Wait for the end of a copy, as long as it moves."""
        wait, progress, moved_at = _FIRST_LOOK, "", trio.current_time()
        while True:
            await trio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
            headers = await self._properties(target)
            context = self._context("CopyBlob", target)
            if headers.get("x-ms-copy-id") != copy_id:
                raise ObjectChangedError("another write replaced the copy that was being made", context)
            status = headers.get("x-ms-copy-status", "")
            if status == "success":
                return _put_result(headers)
            if status != "pending":
                why = headers.get("x-ms-copy-status-description", "no reason given")
                raise RequestError(f"the copy ended as {status!r}: {why}", context)
            if headers.get("x-ms-copy-progress", "") != progress:
                progress, moved_at = headers["x-ms-copy-progress"], trio.current_time()
            elif trio.current_time() - moved_at > self.config.stall_timeout:
                raise StallError(f"the copy has not moved for {self.config.stall_timeout:g} seconds", context)

    async def create_upload(self, key: str, options: PutOptions = DEFAULT_PUT) -> Upload:
        await trio.lowlevel.checkpoint()
        check_name(key)
        put_headers(options)
        upload = Upload(key, uuid.uuid4().hex, options)
        self._uploads.add(upload.id)
        return upload

    async def upload_part(self, upload: Upload, number: int, data: bytes | memoryview) -> Part:
        """Send a block. The service has no empty ones: an empty part is only taken note of."""
        block, size = self._block("PutBlock", upload, number), memoryview(data).nbytes
        if size:
            await self._send("PutBlock", "PUT", upload.key, query=[("comp", "block"), ("blockid", block)], data=data)
        else:
            await trio.lowlevel.checkpoint()
        return Part(number, block, size)

    def _block(self, operation: str, upload: Upload, number: int) -> str:
        if upload.id not in self._uploads:
            message = "no such upload: it was completed, aborted, or begun by another store"
            raise UploadNotFoundError(message, self._context(operation, upload.key))
        return block_id(upload.id, number)

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> PutResult:
        numbers = [part.number for part in parts]
        blocks = [self._block("PutBlockList", upload, number) for number in numbers]
        if not parts or numbers != sorted(set(numbers)) or blocks != [part.etag for part in parts]:
            context = self._context("PutBlockList", upload.key)
            raise RequestError("the parts are not those that were uploaded, in order", context)
        answer = await self._conditional(
            "PutBlockList",
            upload.key,
            upload.options,
            query=[("comp", "blocklist")],
            headers={"content-type": "application/xml"} | put_headers(upload.options),
            data=azure_xml.block_list(part.etag for part in parts if part.size),
        )
        self._uploads.discard(upload.id)
        return _put_result(answer.headers)

    async def abort_upload(self, upload: Upload) -> None:
        """Forget the upload. Its blocks stay at the service, unseen: see the module's introduction."""
        await trio.lowlevel.checkpoint()
        self._uploads.discard(upload.id)

    async def aclose(self) -> None:
        self._service.close()
        await trio.lowlevel.checkpoint()

    async def _conditional(
        self,
        operation: str,
        key: str,
        options: PutOptions,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str],
        data: bytes | memoryview,
    ) -> Answer:
        """A write that may be conditional; such a one is not repeated when its outcome is unknown."""
        try:
            return await self._send(
                operation, "PUT", key, query=query, headers=headers, data=data, idempotent=not options.conditional
            )
        except PreconditionFailedError as error:
            if options.if_none_match:
                raise AlreadyExistsError("a blob of this name exists", error.context) from error
            raise

    async def _send(
        self,
        operation: str,
        method: str,
        key: str | None = None,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        data: bytes | memoryview = b"",
        download: Download | None = None,
        idempotent: bool = True,
    ) -> Answer:
        body = memoryview(data).cast("B")
        request = Request(
            operation=operation,
            method=method,
            path=self._route.prefix if key is None else self._path(key),
            query=quote_query(query),
            headers={"x-ms-version": API_VERSION, **(headers or {})},
            body=(body,) if len(body) else (),
            bucket=self._route.container,
            key=key,
            idempotent=idempotent,
        )
        try:
            return await self._service.send(request, download)
        except PermissionDeniedError as error:
            if self._expires is None or self._expires > datetime.now(UTC):
                raise
            message = f"{error.message} The SAS token expired at {self._expires:%Y-%m-%dT%H:%M:%SZ}."
            raise PermissionDeniedError(message, error.context) from error

    def _container_of(self, bucket: str | None) -> str | None:
        """The name of another container of this account, in whatever spelling a URI has it."""
        if bucket is None:
            return None
        place = parse_place(bucket)
        if place.account not in (None, self._route.account):
            context = ErrorContext(operation="CopyBlob", bucket=bucket)
            raise UnsupportedError(f"copies are made inside account {self._route.account!r} only", context)
        return place.container

    def _path(self, key: str, container: str | None = None) -> str:
        return f"{self._route.prefix_of(container)}/{quote_path(check_name(key))}"

    def _context(self, operation: str, key: str) -> ErrorContext:
        endpoint = str(self._route.endpoint)
        return ErrorContext(operation=operation, bucket=self._route.container, key=key, endpoint=endpoint)


def block_id(upload: str, number: int) -> str:
    """The id of a block, of the same length for every part, as the service demands. `upload` is a UUID in hex."""
    return base64.b64encode(bytes.fromhex(upload) + number.to_bytes(4, "big")).decode()


def put_headers(options: PutOptions) -> dict[str, str]:
    """The headers of a write. Errors: `InvalidKeyError` where metadata is not printable ASCII."""
    headers = {f"{_META}{name.lower()}": value for name, value in options.metadata.items()}
    if options.content_type:
        headers["x-ms-blob-content-type"] = options.content_type
    if options.storage_class:
        headers["x-ms-access-tier"] = options.storage_class
    for name, value in headers.items():
        if not (name + value).isascii() or not (name + value).isprintable():
            raise InvalidKeyError(f"the value of {name!r} must be printable ASCII, as HTTP headers are")
    if options.if_none_match:
        headers["if-none-match"] = "*"
    elif options.if_match is not None:
        headers["if-match"] = quote_etag(options.if_match)
    return headers


def read_fault(status: int, headers: Mapping[str, str], body: bytes) -> Fault | None:
    """An error answer: code and request id from the headers, which a HEAD has too, the message from the XML.

    Only the message's first line, which is not about this request; the rest, and `AuthenticationErrorDetail`, may
    repeat a signature.
    """
    if status < 300:
        return None
    try:
        root = parse(body) if body else None
    except ProtocolError:
        root = None
    said = (text_of(root, "Message") or "").partition("\n")[0].strip() if root is not None else ""
    code = headers.get("x-ms-error-code") or (text_of(root, "Code") if root is not None else None)
    return Fault(code, said or None, headers.get("x-ms-request-id"))


def object_meta(key: str, headers: Mapping[str, str], size: int) -> ObjectMeta:
    """A blob's metadata from the headers of a GET or HEAD."""
    return ObjectMeta(
        key=key,
        size=size,
        etag=_etag(headers),
        last_modified=http_date(headers.get("last-modified", "")),
        version=headers.get("x-ms-version-id"),
        storage_class=headers.get("x-ms-access-tier"),
        content_type=headers.get("content-type"),
        metadata={name.removeprefix(_META): value for name, value in headers.items() if name.startswith(_META)},
    )


def _put_result(headers: Mapping[str, str]) -> PutResult:
    return PutResult(_etag(headers), headers.get("x-ms-version-id"))


def _etag(headers: Mapping[str, str]) -> str | None:
    """The etag as listings, heads and answers to writes would all spell it."""
    etag = headers.get("etag")
    return quote_etag(etag) if etag else None
