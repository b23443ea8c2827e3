"""Amazon S3 and servers that speak its REST API. Source: "Amazon S3 API Reference", one page per operation."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import cast

import trio

from ..auth.credentials import CredentialsProvider, ProfileSettings, aws_credentials, aws_profile
from ..auth.signer import SigV4Signer
from ..auth.sigv4 import EMPTY_SHA256, UNSIGNED_PAYLOAD, quote_path, quote_query
from ..config import Addressing, Config
from ..errors import (
    AlreadyExistsError,
    ConfigError,
    ErrorContext,
    InvalidKeyError,
    PreconditionFailedError,
    ProtocolError,
    StoreError,
    UploadNotFoundError,
    WrongRegionError,
)
from ..model import (
    GetRange,
    GetResult,
    ListPage,
    ObjectMeta,
    Part,
    PutOptions,
    PutResult,
    RestoreStatus,
    Sink,
    Upload,
)
from ..transport.client import Answer
from ..transport.dial import open_pool
from ..transport.download import Download
from ..transport.http1 import http_date, quote_etag
from ..transport.retry import RetryPolicy
from ..transport.service import Fault, Request, Service
from . import s3_xml
from .s3_route import DEFAULT_REGION, Route, check_bucket, check_region, regional_endpoint, route
from .store import DEFAULT_PUT, MAX_KEY, ObjectStore, check_key

_DELETE_BATCH = 1000
_HASH_IN_THREAD_FROM = 256 << 10
_META = "x-amz-meta-"
_EXPIRY = re.compile('expiry-date="([^"]*)"')


class S3Store(ObjectStore):
    """One bucket. Does no I/O before the first request; see :class:`s3dlio.config.Config` for the settings.

    Credentials come from the chain that boto3 uses. A bucket in another region than the configured one is found by the
    server's answer, once, and remembered.
    """

    def __init__(self, bucket: str, config: Config, credentials: CredentialsProvider | None = None) -> None:
        self.bucket = check_bucket(bucket)
        self.config = config
        self._credentials = credentials
        self._route: Route | None = None
        self._service: Service | None = None
        self._opening = trio.Lock()

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}"

    async def fetch(
        self,
        key: str,
        sink: Sink,
        *,
        byte_range: GetRange | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> GetResult:
        headers = {"if-none-match": quote_etag(if_none_match)} if if_none_match else {}
        download = Download(key, sink, lambda answer, size: object_meta(key, answer, size), byte_range, if_match)
        await self._send("GetObject", "GET", key, headers=headers, download=download)
        if download.result is None:
            raise ProtocolError("the answer to a GET was not the object", self._context("GetObject", key))
        return download.result

    async def head(self, key: str) -> ObjectMeta:
        answer = await self._send("HeadObject", "HEAD", key)
        size = s3_xml.parse_size(answer.headers.get("content-length"))
        if size is None:
            raise ProtocolError("the answer to a HEAD has no length", self._context("HeadObject", key))
        return object_meta(key, answer.headers, size)

    async def put(self, key: str, data: bytes | memoryview, options: PutOptions = DEFAULT_PUT) -> PutResult:
        answer = await self._conditional("PutObject", "PUT", key, options, data=data, headers=put_headers(options))
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
            "list-type": "2",
            "encoding-type": "url",
            "max-keys": str(limit),
            "prefix": prefix,
            "delimiter": delimiter,
            "start-after": "" if token else start_after,
            "continuation-token": token or "",
        }
        query = [(name, value) for name, value in asked.items() if value]
        headers = {"x-amz-optional-object-attributes": "RestoreStatus"}
        answer = await self._send("ListObjectsV2", "GET", query=query, headers=headers)
        with self._reading("ListObjectsV2"):
            return s3_xml.parse_list_page(answer.body)

    async def delete(self, key: str) -> None:
        await self._send("DeleteObject", "DELETE", key)

    async def delete_many(self, keys: Iterable[str]) -> None:
        rest = iter(keys)
        failures: list[StoreError] = []
        while batch := list(islice(rest, _DELETE_BATCH)):
            failures += await self._delete_batch([key for key in batch if _fits_batch(key)])
            failures += await self._delete_singly([key for key in batch if not _fits_batch(key)])
        if failures:
            failures[0].add_note(f"{len(failures)} objects in all could not be removed")
            raise failures[0]

    async def _delete_singly(self, keys: Sequence[str]) -> list[StoreError]:
        failures: list[StoreError] = []
        for key in keys:
            try:
                await self.delete(key)
            except StoreError as error:
                failures.append(error)
        return failures

    async def _delete_batch(self, keys: Sequence[str]) -> list[StoreError]:
        if not keys:
            return []
        body = s3_xml.delete_body(keys)
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        headers = {"content-type": "application/xml", "content-md5": digest}
        answer = await self._send("DeleteObjects", "POST", query=[("delete", "")], headers=headers, data=body)
        with self._reading("DeleteObjects"):
            return list(s3_xml.delete_failures(answer.body, self._context("DeleteObjects", None)))

    async def copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PutResult:
        bucket = self.bucket if source_bucket is None else check_bucket(source_bucket)
        headers = {"x-amz-copy-source": f"/{bucket}/{quote_path(check_key(source))}"}
        answer = await self._send("CopyObject", "PUT", target, headers=headers, fault_in_success=True)
        with self._reading("CopyObject", target):
            return _written(answer)

    async def create_upload(self, key: str, options: PutOptions = DEFAULT_PUT) -> Upload:
        headers = put_headers(replace(options, if_match=None, if_none_match=False))
        answer = await self._send("CreateMultipartUpload", "POST", key, query=[("uploads", "")], headers=headers)
        with self._reading("CreateMultipartUpload", key):
            upload = s3_xml.text_of(s3_xml.parse(answer.body), "UploadId")
            if upload is None:
                raise ProtocolError("the new upload has no id")
        return Upload(key, upload, options)

    async def upload_part(self, upload: Upload, number: int, data: bytes | memoryview) -> Part:
        query = [("partNumber", str(number)), ("uploadId", upload.id)]
        answer = await self._send("UploadPart", "PUT", upload.key, query=query, data=data)
        etag = answer.headers.get("etag")
        if not etag:
            raise ProtocolError(f"part {number} was taken without an etag", self._context("UploadPart", upload.key))
        return Part(number, etag, memoryview(data).nbytes)

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> PutResult:
        try:
            answer = await self._conditional(
                "CompleteMultipartUpload",
                "POST",
                upload.key,
                upload.options,
                query=[("uploadId", upload.id)],
                headers={"content-type": "application/xml"} | _conditions(upload.options),
                data=s3_xml.complete_body(parts),
                fault_in_success=True,
            )
        except UploadNotFoundError as error:
            if (error.attempts or 0) < 2:
                raise
            return await self._completed_earlier(upload, parts, error)
        with self._reading("CompleteMultipartUpload", upload.key):
            return _written(answer)

    async def _completed_earlier(self, upload: Upload, parts: Sequence[Part], error: StoreError) -> PutResult:
        """The answer to the first attempt was lost: the object tells whether that attempt succeeded."""
        meta = await self.head(upload.key)
        if meta.size != sum(part.size for part in parts) or meta.etag != composite_etag(parts):
            raise error
        return PutResult(meta.etag, meta.version)

    async def abort_upload(self, upload: Upload) -> None:
        try:
            await self._send("AbortMultipartUpload", "DELETE", upload.key, query=[("uploadId", upload.id)])
        except UploadNotFoundError:
            return

    async def aclose(self) -> None:
        if self._service is not None:
            self._service.close()
        await trio.lowlevel.checkpoint()

    async def _conditional(
        self,
        operation: str,
        method: str,
        key: str,
        options: PutOptions,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str],
        data: bytes | memoryview,
        fault_in_success: bool = False,
    ) -> Answer:
        """A write that may be conditional; such a one is not repeated when its outcome is unknown."""
        try:
            return await self._send(
                operation,
                method,
                key,
                query=query,
                headers=headers,
                data=data,
                fault_in_success=fault_in_success,
                idempotent=not options.conditional,
            )
        except PreconditionFailedError as error:
            if options.if_none_match:
                raise AlreadyExistsError("an object of this key exists", error.context) from error
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
        fault_in_success: bool = False,
        idempotent: bool = True,
    ) -> Answer:
        service, way = await self._reach()
        quoted = "" if key is None else quote_path(check_key(key))
        body = memoryview(data).cast("B")
        request = Request(
            operation=operation,
            method=method,
            path=f"{way.prefix}/{quoted}",
            query=quote_query(query) if query else "",
            headers=headers or {},
            body=(body,) if len(body) else (),
            payload_hash=await payload_hash(body, tls=way.endpoint.tls),
            bucket=self.bucket,
            key=key,
            idempotent=idempotent,
            fault_in_success=fault_in_success,
        )
        try:
            return await service.send(request, download)
        except WrongRegionError as error:
            service = self._move(error, way)
        return await service.send(request, download)

    async def _reach(self) -> tuple[Service, Route]:
        if self._service is None or self._route is None:
            async with self._opening:
                if self._service is None or self._route is None:
                    await self._open()
        assert self._service is not None
        assert self._route is not None
        return self._service, self._route

    async def _open(self) -> None:
        """Read the profile, which may touch files, and connect the parts. No request is sent."""
        settings = await trio.to_thread.run_sync(aws_profile, self.config)
        self.config = config = with_profile(self.config, settings)
        if self._credentials is None:
            self._credentials = aws_credentials(config)
        region = check_region(config.region or DEFAULT_REGION)
        self._take(route(self.bucket, region, config.endpoint, config.addressing))

    def _take(self, way: Route) -> Service:
        assert self._credentials is not None
        self._route = way
        self._service = Service(
            way.endpoint,
            open_pool(way.endpoint, self.config),
            SigV4Signer(self._credentials, way.region),
            partial(read_fault, signed_for=way.region),
            RetryPolicy(max_attempts=self.config.max_attempts),
            user_agent=self.config.user_agent,
        )
        return self._service

    def _move(self, error: WrongRegionError, way: Route) -> Service:
        """Follow the bucket to the region the server named, once for all requests that were under way."""
        assert self._service is not None
        if self._route is not way:
            return self._service
        if error.region == way.region:
            raise error
        old = self._service
        try:
            endpoint = regional_endpoint(self.config.endpoint, error.region)
            service = self._take(route(self.bucket, error.region, endpoint, self.config.addressing))
        except ConfigError:
            raise error from None
        old.pool.retire()
        return service

    @contextmanager
    def _reading(self, operation: str, key: str | None = None) -> Iterator[None]:
        """An answer that makes no sense is an error of this operation."""
        try:
            yield
        except ProtocolError as error:
            raise ProtocolError(error.message, self._context(operation, key)) from None

    def _context(self, operation: str, key: str | None) -> ErrorContext:
        endpoint = str(self._route.endpoint) if self._route else None
        return ErrorContext(operation=operation, bucket=self.bucket, key=key, endpoint=endpoint)


def _fits_batch(key: str) -> bool:
    """Whether DeleteObjects can spell this key, and no server would refuse the whole batch for it."""
    return bool(key) and s3_xml.can_hold(key) and len(key.encode()) <= MAX_KEY


def with_profile(config: Config, settings: ProfileSettings) -> Config:
    """The configuration, with what it leaves open taken from the profile. Errors: `ConfigError`."""
    style = settings.addressing_style if config.addressing == "auto" else None
    return replace(
        config,
        region=config.region or settings.region,
        endpoint=config.endpoint or settings.endpoint_url,
        ca_bundle=config.ca_bundle or settings.ca_bundle,
        addressing=cast("Addressing", style or config.addressing),
    )


def put_headers(options: PutOptions) -> dict[str, str]:
    """The headers of a write. Errors: `InvalidKeyError` where metadata is not printable ASCII."""
    headers = {f"{_META}{name.lower()}": value for name, value in options.metadata.items()}
    if options.content_type:
        headers["content-type"] = options.content_type
    if options.storage_class:
        headers["x-amz-storage-class"] = options.storage_class
    for name, value in headers.items():
        if not (name + value).isascii() or not (name + value).isprintable():
            raise InvalidKeyError(f"the value of {name!r} must be printable ASCII, as HTTP headers are")
    return headers | _conditions(options)


def _conditions(options: PutOptions) -> dict[str, str]:
    if options.if_none_match:
        return {"if-none-match": "*"}
    return {"if-match": quote_etag(options.if_match)} if options.if_match is not None else {}


async def payload_hash(body: memoryview, *, tls: bool) -> str:
    """What SigV4 signs for the body: its SHA-256 where nothing else protects it, nothing under TLS."""
    if not len(body):
        return EMPTY_SHA256
    if tls:
        return UNSIGNED_PAYLOAD
    if len(body) < _HASH_IN_THREAD_FROM:
        return hashlib.sha256(body).hexdigest()
    return await trio.to_thread.run_sync(lambda: hashlib.sha256(body).hexdigest())


def read_fault(status: int, headers: Mapping[str, str], body: bytes, *, signed_for: str = "") -> Fault | None:
    """An S3 error answer; a 2xx counts only where its body is an `Error`. Only another region is news."""
    root = None
    if body.lstrip()[:1] == b"<":
        try:
            root = s3_xml.parse(body)
        except ProtocolError:
            root = None
    is_error = root is not None and root.tag == "Error"
    if status < 300 and not is_error:
        return None
    said = root if is_error else None
    region = headers.get("x-amz-bucket-region") or (s3_xml.text_of(said, "Region") if said is not None else None)
    return Fault(
        code=s3_xml.text_of(said, "Code") if said is not None else None,
        message=s3_xml.text_of(said, "Message") if said is not None else None,
        request_id=headers.get("x-amz-request-id") or (said.findtext("RequestId") if said is not None else None),
        region=region if region != signed_for else None,
    )


def object_meta(key: str, headers: Mapping[str, str], size: int) -> ObjectMeta:
    """An object's metadata from the headers of a GET or HEAD."""
    return ObjectMeta(
        key=key,
        size=size,
        etag=headers.get("etag"),
        last_modified=http_date(headers.get("last-modified", "")),
        version=headers.get("x-amz-version-id"),
        storage_class=headers.get("x-amz-storage-class"),
        content_type=headers.get("content-type"),
        metadata={name.removeprefix(_META): value for name, value in headers.items() if name.startswith(_META)},
        restore=restore_status(headers.get("x-amz-restore")),
    )


def restore_status(text: str | None) -> RestoreStatus | None:
    """What `x-amz-restore` says, as in `ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"`."""
    if text is None:
        return None
    expiry = _EXPIRY.search(text)
    return RestoreStatus('ongoing-request="true"' in text, http_date(expiry[1]) if expiry else None)


def composite_etag(parts: Sequence[Part]) -> str | None:
    """The etag S3 gives an object made of parts: the MD5 of their MD5s, and how many. `None` for other etags."""
    try:
        digests = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
    except ValueError:
        return None
    return f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"'


def _put_result(headers: Mapping[str, str]) -> PutResult:
    return PutResult(headers.get("etag"), headers.get("x-amz-version-id"))


def _written(answer: Answer) -> PutResult:
    """What CopyObject and CompleteMultipartUpload say of the new object, in their body."""
    etag = s3_xml.text_of(s3_xml.parse(answer.body), "ETag")
    return PutResult(quote_etag(etag) if etag else None, answer.headers.get("x-amz-version-id"))
