"""Azure Blob Storage. Source: its REST API reference, one page per operation.

An upload in parts is a set of uncommitted blocks, whose ids we make ourselves: the upload's id, which no other upload
has, and the part's number. So beginning an upload takes no request. Neither does dropping one: there is no way to
remove an uncommitted block, and no need, as nobody sees it and the service drops it after a week, or when any other
write of that name is completed. That is also why of two uploads of one name under way together only the one that is
completed first succeeds: the other finds its blocks gone and fails with `UploadNotFoundError`.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import trio

from ...alignment.checksum import crc64nvme
from ...auth.azure import AzureAccount, azure_account, azure_signer, sas_expiry
from ...config import Config, MiB
from ...errors import (
    BucketNotFoundError,
    ConnectionFailedError,
    ErrorContext,
    NotFoundError,
    ObjectChangedError,
    PermissionDeniedError,
    ProtocolError,
    RangeError,
    RequestError,
    StallError,
    UnsupportedError,
    UploadNotFoundError,
    shown,
)
from ...model import (
    BoundedRange,
    GetOptions,
    GetRange,
    GetResult,
    ListOptions,
    ListPage,
    ObjectColumns,
    ObjectMeta,
    Part,
    PutOptions,
    PutResult,
    Sink,
    StoredChecksum,
    SuffixRange,
    Upload,
    resolve,
)
from ...transport.connection import Answer
from ...transport.download import Download
from ...transport.endpoint import by_proxy
from ...transport.http1 import quote_path
from ...transport.upstream import Fault, Request
from ..headers import HeaderNames
from ..http import HttpStore, naming, open_service
from ..integrity import read_checksum
from ..store import ObjectStore
from ..xml import parse_error, text_of
from .route import ACCOUNT_IN_URI, check_name, check_secrecy, is_azure, parse_address, route
from .xml import block_list, parse_list_page

API_VERSION = "2021-12-02"
"""The `x-ms-version` of all requests. All that is used here is older, so that emulators and appliances know it too."""

_CRC64 = "x-ms-content-crc64"
_ASK_FOR_CRC64 = {"x-ms-range-get-content-crc64": "true"}
"""Of Azure alone: Azurite refuses it."""

_MOST_CHECKED = 4 * MiB
_NAMES = HeaderNames("x-ms-meta-", "x-ms-version-id", "x-ms-access-tier", "x-ms-blob-content-type", "x-ms-tags")
_DIGESTS: Mapping[str, Callable[[memoryview], str]] = {
    _CRC64: lambda data: base64.b64encode(crc64nvme(data).to_bytes(8, "little")).decode(),
    "content-md5": lambda data: base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode(),
}
_CREATED = (201,)
_ACCEPTED = (202,)
_FIRST_LOOK = 0.05
_LONGEST_WAIT = 2.0
"""Seconds between two looks at a copy that is being made."""


class AzureStore(HttpStore):
    """One container. Does no I/O before the first request.

    `bucket` names it as a URI does: `container`, `account/container`, or `container@account.dfs.core.windows.net`.
    `config` has the settings: see :class:`s3dlio.Config`. `account` is, by default, what the environment says of one:
    see :mod:`s3dlio.auth.azure`. The service takes metadata only under names that are C# identifiers. Errors:
    `InvalidUriError`, `ConfigError`.
    """

    _names = _NAMES
    _get = "GetBlob"
    _head = "GetBlobProperties"
    _digests = _DIGESTS

    def __init__(self, bucket: str, config: Config, account: AzureAccount | None = None) -> None:
        account = account or azure_account(config)
        self._spelled = bucket
        routes = [
            route(parse_address(bucket), replace(account, endpoint=url or None))
            for url in (account.endpoint or "").split(",")
        ]
        self._route = routes[0]
        account = replace(account, name=self._route.account)
        endpoints = [by_proxy(each.endpoint, config.proxy) for each in routes]
        for endpoint in endpoints:
            check_secrecy(endpoint, account)
        confidential = all(endpoint.tls for endpoint in endpoints)
        signer = azure_signer(account, tls=confidential, anonymous=config.anonymous, proxy=config.proxy)
        service = open_service(endpoints, config, signer, read_fault, {"x-ms-version": API_VERSION})
        super().__init__(self._route.container, config, service)
        self._expires = sas_expiry(account.sas) if account.sas and not account.key else None
        self._uploads: set[str] = set()

    @property
    def uri(self) -> str:
        return f"{'abfss' if '@' in self._spelled else 'az'}://{self._spelled}"

    @property
    def batches(self) -> bool:
        return super().batches and self._reads != "require"

    async def get(self, key: str, *, known: ObjectMeta | None = None, if_match: str | None = None) -> bytes:
        if self._reads == "require":  # only answers to ranges tell any: `fetch` asks for one
            return await ObjectStore.get(self, key, if_match=if_match)
        return await super().get(key, if_match=if_match)

    async def fetch(self, key: str, sink: Sink, options: GetOptions = GetOptions()) -> GetResult:
        if options.byte_range is None and self._reads == "require":
            meta = await self._head_of(key, options.if_match)
            if 0 < meta.size <= _MOST_CHECKED:
                options = replace(options, byte_range=BoundedRange(0, meta.size), if_match=meta.etag)
        if isinstance(options.byte_range, SuffixRange):  # the service has none
            meta = await self._head_of(key, options.if_match)
            if not meta.size:
                raise RangeError("an empty blob has no range", self._context("GetBlob", key))
            known = BoundedRange(*resolve(options.byte_range, meta.size))
            options = replace(options, byte_range=known, if_match=meta.etag)
        return await super().fetch(key, sink, options)

    def _get_request(self, key: str, options: GetOptions = GetOptions()) -> Request:
        request = super()._get_request(key, options)
        if self._reads != "off" and is_azure(self._route.endpoint) and may_tell_crc64(options.byte_range):
            return request._replace(headers={**request.headers, **_ASK_FOR_CRC64})
        return request

    def _range_checksum(self, headers: Mapping[str, str]) -> StoredChecksum | None:
        return read_checksum("CRC64NVME", headers.get(_CRC64, ""), "little")

    async def put(self, key: str, data: bytes | memoryview, options: PutOptions = PutOptions()) -> PutResult:
        headers = {"x-ms-blob-type": "BlockBlob", **_NAMES.of_write(options), **await self._sum(data)}
        request = self._request("PutBlob", "PUT", key, headers=headers, body=(data,), success=_CREATED)
        return await self._write(request, options, _NAMES.written)

    async def list_page(self, prefix: str = "", options: ListOptions = ListOptions()) -> ListPage:
        asked = {
            "restype": "container",
            "comp": "list",
            "maxresults": str(options.limit),
            "prefix": prefix,
            "delimiter": options.delimiter,
            "marker": options.token or "",
        }
        query = [(name, value) for name, value in asked.items() if value]
        page = await self._page(self._request("ListBlobs", "GET", query=query), parse_list_page, options.token)
        return await self._pass_over(page, options.start_after) if options.start_after else page

    async def _pass_over(self, page: ListPage, start_after: str) -> ListPage:
        """The page without what comes up to `start_after`, which the service cannot be told: it may become empty."""
        objects = ObjectColumns.of(page.objects).where(lambda key: key > start_after)
        prefixes = [name for name in page.prefixes if await self._goes_on(name, start_after)]
        return replace(page, objects=objects, prefixes=tuple(prefixes))

    async def _goes_on(self, prefix: str, start_after: str) -> bool:
        """Whether any key with `prefix` comes after `start_after`."""
        if not start_after.startswith(prefix):
            return prefix > start_after
        options: ListOptions | None = ListOptions(start_after=start_after)
        while options is not None:
            page = await self.list_page(prefix, options)
            if page.objects:
                return True
            options = options.after(page)
        return False

    async def delete(self, key: str) -> None:
        try:
            await self._send(self._request("DeleteBlob", "DELETE", key, success=_ACCEPTED))
        except NotFoundError as error:
            if error.code != "BlobNotFound":
                raise

    async def copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PutResult:
        """Copy a blob inside the account, from `source_bucket` if it is given.

        Where the service takes its time, wait. Cancelled, the copy goes on alone.
        """
        place = f"{self._route.path_of(self._container_of(source_bucket))}/{quote_path(check_name(source))}"
        headers = {"x-ms-copy-source": self._route.url(place)}
        request = self._request("CopyBlob", "PUT", target, headers=headers, success=_ACCEPTED)
        made, copy_id = await self._ask(request, _copy)
        return made if copy_id is None else await self._copied(target, copy_id)

    async def _copied(self, target: str, copy_id: str) -> PutResult:
        """Wait for the end of a copy, as long as it moves."""
        wait, progress, moved_at = _FIRST_LOOK, "", trio.current_time()
        while True:
            await trio.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
            answer = await self._send(self._request(self._head, "HEAD", target))
            headers, context = answer.headers, self._context("CopyBlob", target)
            if headers.get("x-ms-copy-id") != copy_id:
                raise ObjectChangedError("another write replaced the copy that was being made", context)
            status = headers.get("x-ms-copy-status", "")
            if status == "success":
                with naming(context):
                    return _NAMES.written(answer)
            if status != "pending":
                why = headers.get("x-ms-copy-status-description", "no reason given")
                raise RequestError(f"the copy ended as {status!r}: {why}", context)
            if headers.get("x-ms-copy-progress", "") != progress:
                progress, moved_at = headers["x-ms-copy-progress"], trio.current_time()
            elif trio.current_time() - moved_at > self.config.stall_timeout:
                raise StallError(f"the copy has not moved for {self.config.stall_timeout:g} seconds", context)

    async def create_upload(self, key: str, options: PutOptions = PutOptions()) -> Upload:
        await trio.lowlevel.checkpoint()
        check_name(key)
        _NAMES.of_write(options)
        upload = Upload(key, uuid.uuid4().hex, options)
        self._uploads.add(upload.id)
        return upload

    async def upload_part(self, upload: Upload, number: int, data: bytes | memoryview) -> Part:
        """Send part `number`, a block. The service has no empty ones: an empty part is only taken note of."""
        block, size = self._block("PutBlock", upload, number), memoryview(data).nbytes
        if size:
            query = [("comp", "block"), ("blockid", block)]
            headers = await self._sum(data)
            request = self._request(
                "PutBlock", "PUT", upload.key, query=query, headers=headers, body=(data,), success=_CREATED
            )
            await self._check_sent(request, await self._send(request))
        else:
            await trio.lowlevel.checkpoint()
        return Part(number, block, size)

    async def _sum(self, data: bytes | memoryview) -> dict[str, str]:
        """The header by which the service compares what it receives, where that is required."""
        if self._writes != "require":
            return {}
        return {_CRC64: await self._digest(_DIGESTS[_CRC64], memoryview(data).cast("B"))}

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
        request = self._request(
            "PutBlockList",
            "PUT",
            upload.key,
            query=[("comp", "blocklist")],
            headers={"content-type": "application/xml", **_NAMES.of_write(upload.options)},
            body=(block_list(part.etag for part in parts if part.size),),
            success=_CREATED,
        )
        made = await self._write(request, upload.options, _NAMES.written)
        self._uploads.discard(upload.id)
        return made

    async def abort_upload(self, upload: Upload) -> None:
        """Forget the upload. Its blocks stay at the service, unseen: see the module's introduction."""
        await trio.lowlevel.checkpoint()
        self._uploads.discard(upload.id)

    def _path(self, key: str | None) -> str:
        return self._route.path if key is None else f"{self._route.path}/{quote_path(check_name(key))}"

    async def _send(self, request: Request, download: Download | None = None) -> Answer:
        try:
            return await super()._send(request, download)
        except PermissionDeniedError as error:
            if self._expires is None or self._expires > datetime.now(UTC):
                raise
            message = f"{error.message} The SAS token expired at {self._expires:%Y-%m-%dT%H:%M:%SZ}."
            raise PermissionDeniedError(message, error.context) from error
        except (ConnectionFailedError, BucketNotFoundError) as error:
            if not self._route.account_in_uri:
                raise
            raise type(error)(f"{error.message} ({ACCOUNT_IN_URI})", error.context) from error.__cause__

    def _container_of(self, bucket: str | None) -> str | None:
        """The name of another container of this account, in whatever spelling a URI has it."""
        if bucket is None:
            return None
        place = parse_address(bucket)
        if place.account not in (None, self._route.account):
            context = ErrorContext(operation="CopyBlob", bucket=bucket)
            raise UnsupportedError(f"copies are made inside account {self._route.account!r} only", context)
        return place.container


def may_tell_crc64(byte_range: GetRange | None) -> bool:
    """Whether the service computes a checksum of such a range; another one that asks for it is refused."""
    return isinstance(byte_range, BoundedRange) and byte_range.end - byte_range.start <= _MOST_CHECKED


def block_id(upload: str, number: int) -> str:
    """The id of a block, of the same length for every part, as the service demands. `upload` is a UUID in hex."""
    return base64.b64encode(bytes.fromhex(upload) + number.to_bytes(4, "big")).decode()


def _copy(answer: Answer) -> tuple[PutResult, str | None]:
    """The version that a copy made or makes, and the id of one that goes on. Errors: `ProtocolError`."""
    made, status = _NAMES.written(answer), answer.headers.get("x-ms-copy-status")
    if status not in ("success", "pending"):
        raise ProtocolError(f"a copy was begun without a state that makes sense: {shown(status or '')!r}")
    return made, answer.headers.get("x-ms-copy-id", "") if status == "pending" else None


def read_fault(status: int, headers: Mapping[str, str], body: bytes) -> Fault | None:
    """An error answer: code and request id from the headers, which a HEAD has too, the message from the XML.

    Only the message's first line, which is not about this request; the rest, and `AuthenticationErrorDetail`, may
    repeat a signature.
    """
    if status < 300:
        return None
    root = parse_error(body)
    return Fault(
        code=headers.get("x-ms-error-code") or text_of(root, "Code"),
        message=(text_of(root, "Message") or "").partition("\n")[0].strip() or None,
        request_id=headers.get("x-ms-request-id"),
    )
