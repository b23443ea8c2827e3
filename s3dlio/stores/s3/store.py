"""Amazon S3 and servers that speak its REST API. Source: "Amazon S3 API Reference", one page per operation."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import islice

import trio

from ...alignment.checksum import Checksum
from ...auth.aws import aws_credentials, aws_profile
from ...auth.express import ExpressSigner, Sessions
from ...auth.signer import Signer
from ...auth.sigv4 import EMPTY_SHA256, PAYLOAD_HASH, Credentials, CredentialsProvider, SigV4Signer
from ...config import Checksums, Config
from ...errors import (
    BucketNotFoundError,
    ConfigError,
    ConnectionFailedError,
    NotFoundError,
    ObjectChangedError,
    PermissionDeniedError,
    PreconditionFailedError,
    ProtocolError,
    RequestError,
    StoreError,
    UploadNotFoundError,
    WrongRegionError,
)
from ...model import (
    BoundedRange,
    ListOptions,
    ListPage,
    ObjectMeta,
    Part,
    PartCopy,
    PutOptions,
    PutResult,
    StoredChecksum,
    Upload,
)
from ...transport.connection import Answer
from ...transport.download import Download
from ...transport.http1 import http_date, parse_size, quote_path
from ...transport.service import Service
from ...transport.upstream import Fault, Request, seconds
from ..headers import HeaderNames, conditions
from ..http import HttpStore, each, open_service, read_removed, settled
from ..store import MAX_KEY, check_key, refuse_tags
from ..xml import parse_error, text_of
from . import checksums, copying, presigning
from .directory import check_listing, folder_of, parse_session, picked, zone_of
from .encryption import check_secrecy, encryption_headers
from .restored import restore_status
from .route import DEFAULT_REGION, Route, alike, check_bucket, regional_endpoint, route
from .settings import compared, variant_of, with_profile
from .uploads import ALGORITHM, BEGIN, compared_by, is_made_of, whole_compared
from .xml import (
    can_hold,
    complete_body,
    delete_body,
    delete_failures,
    parse_checksum,
    parse_list_page,
    parse_tags,
    parse_upload_id,
    parse_written,
)

_DELETE_BATCH = 1000
_XML = {"content-type": "application/xml"}
_NAMES = HeaderNames("x-amz-meta-", "x-amz-version-id", "x-amz-storage-class", "content-type", "x-amz-tagging")
_ELSEWHERE = frozenset({301, 302, 307, 400, 403})
"""The statuses by which a request learns that its bucket is in another region."""

_ASK_FOR_RESTORED = {"x-amz-optional-object-attributes": "RestoreStatus"}
"""Of AWS alone: other servers may refuse what they do not know."""


def _digest(algorithm: str, data: memoryview) -> str:
    return Checksum(algorithm, data).base64


_DIGESTS: Mapping[str, Callable[[memoryview], str]] = {
    f"x-amz-checksum-{name.lower()}": partial(_digest, name) for name in ("CRC64NVME", "CRC32C", "CRC32")
}
_NO_HEADERS: Mapping[str, str] = {}
_GOOGLE = "storage.googleapis.com"


class S3Store(HttpStore):
    """One bucket. Does no I/O before the first request.

    `bucket` is its name; `config` has the settings: see :class:`s3dlio.Config`. `credentials` gives what to sign with,
    by default the chain that boto3 uses. A bucket in another region than the configured one is found by the server's
    answer, once, and remembered. Errors: `InvalidUriError` for what is no bucket's name.
    """

    _names = _NAMES
    _get = "GetObject"
    _head = "HeadObject"
    _digests = _DIGESTS

    def __init__(self, bucket: str, config: Config, credentials: CredentialsProvider | None = None) -> None:
        super().__init__(check_bucket(bucket), config)
        self._given = self._credentials = credentials
        self._found = config
        self._route: Route | None = None
        self._answered = self._is_there = False
        self._own_headers: Mapping[str, Mapping[str, str]] = {}
        """By the names of operations."""
        self._others: dict[str, S3Store] = {}
        """By their names, the buckets that were copied from."""
        self._begun: dict[str, datetime | None] = {}
        """The uploads that nobody has ended, and when they were begun, by the server's clock."""

    @property
    def lists_from_keys(self) -> bool:
        return zone_of(self.bucket) is None  # directory buckets list in no order

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}"

    async def look_up_checksum(self, key: str) -> ObjectMeta | None:
        """Of AWS alone, unless a checksum is required: elsewhere it would be a request for what few servers have."""
        try:
            await self._reach()
            if not self._takes_checksums(self._reads):
                return None
            answer = await self._send(self._request(self._head, "HEAD", key, headers=checksums.ASK))
        except StoreError:
            return None
        size = parse_size(answer.headers.get("content-length", ""))
        return None if size is None else self._describe(key, answer.headers, size)

    async def put(self, key: str, data: bytes | memoryview, options: PutOptions = PutOptions()) -> PutResult:
        headers = self._of_write(options) | compared_by(await self._sum(data))
        request = self._request("PutObject", "PUT", key, headers=headers, body=(data,))
        return await self._write(request, options, _NAMES.written)

    async def list_page(self, prefix: str = "", options: ListOptions = ListOptions()) -> ListPage:
        express = zone_of(self.bucket) is not None
        if express:
            check_listing(options, self._context("ListObjectsV2"))
        asked = {
            "list-type": "2",
            "encoding-type": "url",
            "max-keys": str(options.limit),
            "prefix": folder_of(prefix) if express else prefix,
            "delimiter": options.delimiter,
            "start-after": "" if options.token or express else options.start_after,
            "continuation-token": options.token or "",
        }
        query = [(name, value) for name, value in asked.items() if value]
        headers = _ASK_FOR_RESTORED if await self._at_amazon() else {}
        request = self._request("ListObjectsV2", "GET", query=query, headers=headers)
        page = await self._page(request, parse_list_page, options.token)
        return picked(page, prefix, options.start_after) if express else page

    async def delete(self, key: str) -> None:
        try:
            await self._ask(self._request("DeleteObject", "DELETE", key, success=(204,)), read_removed)
        except NotFoundError as error:  # Google's answer; Amazon's is a success
            if error.code != "NoSuchKey":
                raise

    async def delete_each(self, keys: Iterable[str]) -> Sequence[StoreError]:
        rest = iter(keys)
        failures: list[StoreError] = []
        while batch := list(islice(rest, _DELETE_BATCH)):
            failures += await self._delete_batch([key for key in batch if _fits_batch(key)])
            failures += await each(self.delete, [key for key in batch if not _fits_batch(key)])
        return failures

    async def _delete_batch(self, keys: Sequence[str]) -> list[StoreError]:
        """Remove them in one request; one by one where the server has no such request, as Google's has not."""
        if not keys:
            return []
        service = await self._reach()
        if service.endpoint.host.endswith(_GOOGLE):
            return await each(self.delete, keys)
        try:
            return await self._delete_together(keys)
        except StoreError as error:
            if error.status not in (405, 501) and error.code != "NotImplemented":
                raise
        return await each(self.delete, keys)

    async def _delete_together(self, keys: Sequence[str]) -> list[StoreError]:
        body = delete_body(keys)
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        headers = {**_XML, "content-md5": digest}
        request = self._request("DeleteObjects", "POST", query=[("delete", "")], headers=headers, body=(body,))
        where = self._context("DeleteObjects")
        return await self._ask(request, lambda answer: list(delete_failures(answer.body, where)))

    async def copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PutResult:
        bucket = self.bucket if source_bucket is None else check_bucket(source_bucket)
        request = self._request("CopyObject", "PUT", target, headers=copying.of_source(bucket, source))
        return await self._ask(request, _copied)

    async def begin_copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PartCopy | None:
        bucket = self.bucket if source_bucket is None else check_bucket(source_bucket)
        there = self._beside(bucket)
        try:
            answer = await there._send(there._request(self._head, "HEAD", source))
        except (NotFoundError, PermissionDeniedError, RequestError):  # CopyObject's own refusal tells more
            return None
        found = copying.large_source(answer.headers, copying.MAX_COPY)
        if found is None:
            return None
        tags = await there._tags(source) if found.tagged else ()
        headers = copying.carried(answer.headers) | copying.tagging(tags)
        upload = await self._begin(target, headers, PutOptions())
        return PartCopy(upload, bucket, source, found.etag, found.size)

    async def copy_part(self, copy: PartCopy, number: int, byte_range: BoundedRange) -> Part:
        query = [("partNumber", str(number)), ("uploadId", copy.upload.id)]
        headers = copying.of_source(copy.bucket, copy.source) | copying.of_piece(copy.etag, byte_range)
        request = self._request("UploadPartCopy", "PUT", copy.upload.key, query=query, headers=headers)
        try:
            etag, checksum = await self._ask(request, _copied_part)
        except PreconditionFailedError as error:
            raise ObjectChangedError("the source was replaced while it was copied", error.context) from None
        return Part(number, etag, byte_range.end - byte_range.start, checksum)

    def _beside(self, bucket: str) -> S3Store:
        """The store of another bucket, which belongs to this one; or this one."""
        if bucket == self.bucket:
            return self
        other = self._others.setdefault(bucket, S3Store(bucket, self.config, self._given))
        other.observer = self.observer
        return other

    async def _tags(self, key: str) -> list[tuple[str, str]]:
        request = self._request("GetObjectTagging", "GET", key, query=[("tagging", "")])
        return await self._ask(request, lambda answer: parse_tags(answer.body))

    async def create_upload(self, key: str, options: PutOptions = PutOptions()) -> Upload:
        headers = self._of_write(replace(options, if_match=None, if_none_match=False))
        await self._reach()
        return await self._begin(key, headers | (BEGIN if self._takes_checksums(self._writes) else {}), options)

    def _of_write(self, options: PutOptions) -> dict[str, str]:
        if zone_of(self.bucket):
            refuse_tags(options, self._context("PutObject"))
        return _NAMES.of_write(options)

    async def _begin(self, key: str, headers: Mapping[str, str], options: PutOptions) -> Upload:
        request = self._request("CreateMultipartUpload", "POST", key, query=[("uploads", "")], headers=headers)

        async def begin() -> Upload:
            upload_id, begun = await self._ask(request, _new_upload)
            self._begun[upload_id] = begun
            return Upload(key, upload_id, options)

        return await settled(begin, self.abort_upload)

    async def upload_part(self, upload: Upload, number: int, data: bytes | memoryview) -> Part:
        query = [("partNumber", str(number)), ("uploadId", upload.id)]
        value = await self._sum(data)
        request = self._request("UploadPart", "PUT", upload.key, query=query, headers=compared_by(value), body=(data,))
        request = request._replace(expect=False)  # who has just begun the upload will hardly be refused its parts
        answer = await self._ask(request, _taken)
        await self._check_sent(request, answer)
        checksum = None if value is None else StoredChecksum(ALGORITHM, value)
        return Part(number, answer.headers["etag"], memoryview(data).nbytes, checksum)

    async def presign(self, key: str, *, method: str = "GET", seconds: int = 3600) -> str:
        await self._reach()
        return await presigning.presign(self._route, self._credentials, self._path(key), method, seconds)

    async def _at_amazon(self) -> bool:
        await self._reach()
        return self._route is not None and self._route.aws

    def _takes_checksums(self, wanted: Checksums) -> bool:
        """Whether the server is told of them, or asked: Amazon's if they are wanted, others if they are required."""
        assert self._route is not None
        return wanted == "require" or (wanted == "when_there" and self._route.aws)

    async def _sum(self, data: bytes | memoryview) -> int | None:
        """The checksum to send with `data`, where the server compares it."""
        await self._reach()
        if not self._takes_checksums(self._writes):
            return None
        return (await self._digest(partial(Checksum, ALGORITHM), memoryview(data).cast("B"))).value

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> PutResult:
        request = self._request(
            "CompleteMultipartUpload",
            "POST",
            upload.key,
            query=[("uploadId", upload.id)],
            headers=_XML | conditions(upload.options) | await trio.to_thread.run_sync(whole_compared, parts),
            body=(complete_body(parts),),
        )
        try:
            made = await self._write(request, upload.options, _completed)
        except UploadNotFoundError as error:
            made = await self._completed_earlier(upload, parts, error)
        self._begun.pop(upload.id, None)
        return made

    async def _completed_earlier(self, upload: Upload, parts: Sequence[Part], error: StoreError) -> PutResult:
        """An upload that nobody has ended is gone: an attempt whose answer was lost may have completed it.

        The object tells. Errors: `error` where it does not.
        """
        if upload.id not in self._begun:
            raise error
        try:
            answer = await self._send(self._request(self._head, "HEAD", upload.key))
        except StoreError as unseen:
            raise error from unseen
        if not is_made_of(parts, self._begun[upload.id], answer.headers):
            raise error
        return _NAMES.written(answer)

    async def abort_upload(self, upload: Upload) -> None:
        query = [("uploadId", upload.id)]
        self._begun.pop(upload.id, None)
        try:
            request = self._request("AbortMultipartUpload", "DELETE", upload.key, query=query, success=(204,))
            await self._ask(request, read_removed)
        except UploadNotFoundError:
            return

    async def aclose(self) -> None:
        for other in self._others.values():
            await other.aclose()
        await super().aclose()

    async def _check_bucket(self) -> None:
        """The answer to a HEAD of an object has no body to tell what is not there. Who may not ask is told no more."""
        if self._is_there:
            return
        try:
            await self._send(self._request("HeadBucket", "HEAD"))
        except NotFoundError as error:
            raise BucketNotFoundError("no such bucket", error.context) from None
        except StoreError as error:
            self._is_there = isinstance(error, PermissionDeniedError)
        else:
            self._is_there = True

    def _describe(self, key: str, headers: Mapping[str, str], size: int) -> ObjectMeta:
        meta = super()._describe(key, headers, size)
        restore = restore_status(headers.get("x-amz-restore"))
        return meta if restore is None else replace(meta, restore=restore)

    def _checksum(self, headers: Mapping[str, str]) -> StoredChecksum | None:
        return checksums.of_object(headers)

    def _range_checksum(self, headers: Mapping[str, str]) -> StoredChecksum | None:
        return checksums.of_range(headers)

    def _path(self, key: str | None) -> str:
        """Below :attr:`Route.path`, which is known when the profile has been read."""
        return f"/{quote_path(check_key(key))}" if key is not None else "/"

    def _addressed(self, request: Request, hashed: str = EMPTY_SHA256) -> Request:
        assert self._route is not None
        own = self._own_headers.get(request.operation, _NO_HEADERS)
        headers = {**request.headers, **own, PAYLOAD_HASH: hashed}
        return request._replace(path=self._route.path + request.path, headers=headers)

    async def _send(self, request: Request, download: Download | None = None) -> Answer:
        service = await self._reach()
        assert self._route is not None
        place = self._route
        request = self._addressed(request, await checksums.payload_hash(request.body, tls=place.endpoint.tls))
        try:
            answer = await self._follow(service, place, request, download)
        except (PermissionDeniedError, ConnectionFailedError):
            self._doubt(service)
            raise
        self._answered = True
        return answer

    async def _follow(self, service: Service, place: Route, request: Request, download: Download | None) -> Answer:
        try:
            return await service.send(request, download)
        except WrongRegionError as error:
            service = self._move(error, place)
        return await service.send(request, download)

    def _doubt(self, service: Service) -> None:
        """Nothing has worked so far: what the profile says is read anew next time, as it may have been corrected."""
        if self._service is service and not self._answered:
            self._service = None
            service.retire()

    async def _open(self) -> Service:
        """Read the profile, which may touch files, and connect the parts. No request is sent."""
        settings = await trio.to_thread.run_sync(aws_profile, self.config)
        self._found = with_profile(self.config, settings)
        self._reads, self._writes = compared(self.config, settings)
        asking = {self._get: checksums.ASK} if self._reads != "off" else {}
        encryption = await trio.to_thread.run_sync(encryption_headers, self.config)
        self._own_headers = {**asking, **{name: {**asking.get(name, {}), **own} for name, own in encryption.items()}}
        self._credentials = self._given or aws_credentials(self._found)
        return self._take(self._routes_in(self._found.region or DEFAULT_REGION, self._found.endpoint))

    def _routes_in(self, region: str, endpoint: str | None) -> list[Route]:
        style, variant = self._found.addressing, variant_of(self._found)
        return [route(self.bucket, region, url or None, style, variant) for url in (endpoint or "").split(",")]

    def _take(self, places: Sequence[Route]) -> Service:
        assert self._credentials is not None
        self._route = place = alike(places)
        endpoints = [each.endpoint for each in places]
        check_secrecy(self.config, endpoints)
        signer: Signer = SigV4Signer(self._credentials, place.region)
        if place.express:
            signer = ExpressSigner(self._credentials, Sessions(self._create_session), place.region)
        headers = {"x-amz-request-payer": "requester"} if self._found.requester_pays else None
        return open_service(endpoints, self._found, signer, partial(read_fault, signed_for=place.region), headers)

    async def _create_session(self) -> Credentials:
        request = self._request("CreateSession", "GET", query=[("session", "")])
        try:
            return await self._ask(request, lambda answer: parse_session(answer.body))
        except StoreError as error:
            raise type(error)(f"no session for this directory bucket: {error.message}", error.context) from None

    def _move(self, error: WrongRegionError, place: Route) -> Service:
        """Follow the bucket to the region the server named, once for all requests that were under way."""
        if self._service is not None and self._route is not place:
            return self._service
        if error.region == place.region:
            raise error
        old = self._service
        try:
            endpoint = regional_endpoint(self._found.endpoint, error.region)
            self._service = self._take(self._routes_in(error.region, endpoint))
        except ConfigError:
            refused = error.status == 403 and not place.aws
            raise PermissionDeniedError(error.message, error.context) if refused else error from None
        if old is not None:
            old.retire()
        return self._service


def _fits_batch(key: str) -> bool:
    """Whether DeleteObjects can spell this key, and no server would refuse the whole batch for it."""
    return bool(key) and can_hold(key) and len(key.encode()) <= MAX_KEY


def read_fault(status: int, headers: Mapping[str, str], body: bytes, *, signed_for: str = "") -> Fault | None:
    """An S3 error answer; a 2xx counts only where its body is an `Error`. Only another region is news."""
    root = parse_error(body)
    if status < 300 and root is None:
        return None
    region = headers.get("x-amz-bucket-region") or text_of(root, "Region")
    moved = region if region != signed_for and status in _ELSEWHERE else None
    return Fault(
        code=text_of(root, "Code"),
        message=text_of(root, "Message"),
        request_id=headers.get("x-amz-request-id") or text_of(root, "RequestId"),
        retry_after=seconds(headers.get("x-amz-retry-after"), 0.001),
        error=partial(WrongRegionError, region=moved) if moved else None,
    )


def _taken(answer: Answer) -> Answer:
    if not answer.headers.get("etag"):
        raise ProtocolError("a part was taken without an etag")
    return answer


def _new_upload(answer: Answer) -> tuple[str, datetime | None]:
    """A new upload's id, and when the server says it is."""
    return parse_upload_id(answer.body), http_date(answer.headers.get("date", ""))


def _copied(answer: Answer) -> PutResult:
    return PutResult(parse_written(answer.body, "CopyObjectResult"), answer.headers.get("x-amz-version-id"))


def _copied_part(answer: Answer) -> tuple[str, StoredChecksum | None]:
    return parse_written(answer.body, "CopyPartResult"), parse_checksum(answer.body, ALGORITHM)


def _completed(answer: Answer) -> PutResult:
    root = "CompleteMultipartUploadResult"
    return PutResult(parse_written(answer.body, root), answer.headers.get("x-amz-version-id"))
