"""Amazon S3 and servers that speak its REST API. Source: "Amazon S3 API Reference", one page per operation."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import cast

import trio

from ...auth.aws import ProfileSettings, aws_credentials, aws_profile
from ...auth.sigv4 import EMPTY_SHA256, PAYLOAD_HASH, UNSIGNED_PAYLOAD, CredentialsProvider, SigV4Signer
from ...config import Addressing, Config
from ...errors import ConfigError, ProtocolError, StoreError, UploadNotFoundError, WrongRegionError
from ...model import (
    DEFAULT_LIST,
    DEFAULT_PUT,
    ListOptions,
    ListPage,
    ObjectMeta,
    Part,
    PutOptions,
    PutResult,
    RestoreStatus,
    Upload,
)
from ...transport.connection import Answer
from ...transport.download import Download
from ...transport.http1 import http_date, quote_path
from ...transport.service import Fault, Request, Service, seconds
from ..http import HASH_IN_THREAD_FROM, HeaderNames, HttpStore, conditions, each, open_service, raise_first
from ..store import MAX_KEY, check_key
from ..xml import parse, parse_error, text_of
from .route import DEFAULT_REGION, Route, check_bucket, check_region, regional_endpoint, route
from .xml import can_hold, complete_body, delete_body, delete_failures, parse_etag, parse_list_page

_DELETE_BATCH = 1000
_XML = {"content-type": "application/xml"}
_NAMES = HeaderNames("x-amz-meta-", "x-amz-version-id", "x-amz-storage-class", "content-type")
_ELSEWHERE = frozenset({301, 302, 307, 400, 403})
"""The statuses by which a request learns that its bucket is in another region."""

_EXPIRY = re.compile('expiry-date="([^"]*)"')


class S3Store(HttpStore):
    """One bucket. Does no I/O before the first request.

    `bucket` is its name; `config` has the settings: see :class:`s3dlio.Config`. `credentials` gives what to sign with,
    by default the chain that boto3 uses. A bucket in another region than the configured one is found by the server's
    answer, once, and remembered. Errors: `InvalidUriError` for what is no bucket's name.
    """

    _names = _NAMES
    _get = "GetObject"
    _head = "HeadObject"

    def __init__(self, bucket: str, config: Config, credentials: CredentialsProvider | None = None) -> None:
        super().__init__(check_bucket(bucket), config)
        self._credentials = credentials
        self._route: Route | None = None

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}"

    async def put(self, key: str, data: bytes | memoryview, options: PutOptions = DEFAULT_PUT) -> PutResult:
        request = self._request("PutObject", "PUT", key, headers=_NAMES.of_write(options), body=(data,))
        return _NAMES.written((await self._write(request, options)).headers)

    async def list_page(self, prefix: str = "", options: ListOptions = DEFAULT_LIST) -> ListPage:
        asked = {
            "list-type": "2",
            "encoding-type": "url",
            "max-keys": str(options.limit),
            "prefix": prefix,
            "delimiter": options.delimiter,
            "start-after": "" if options.token else options.start_after,
            "continuation-token": options.token or "",
        }
        query = [(name, value) for name, value in asked.items() if value]
        headers = {"x-amz-optional-object-attributes": "RestoreStatus"}
        answer = await self._send(self._request("ListObjectsV2", "GET", query=query, headers=headers))
        with self._reading("ListObjectsV2"):
            return parse_list_page(answer.body)

    async def delete(self, key: str) -> None:
        await self._send(self._request("DeleteObject", "DELETE", key))

    async def delete_many(self, keys: Iterable[str]) -> None:
        rest = iter(keys)
        failures: list[StoreError] = []
        while batch := list(islice(rest, _DELETE_BATCH)):
            failures += await self._delete_batch([key for key in batch if _fits_batch(key)])
            failures += await each(self.delete, [key for key in batch if not _fits_batch(key)])
        raise_first(failures)

    async def _delete_batch(self, keys: Sequence[str]) -> list[StoreError]:
        if not keys:
            return []
        body = delete_body(keys)
        digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
        headers = {**_XML, "content-md5": digest}
        request = self._request("DeleteObjects", "POST", query=[("delete", "")], headers=headers, body=(body,))
        answer = await self._send(request)
        with self._reading("DeleteObjects"):
            return list(delete_failures(answer.body, self._context("DeleteObjects")))

    async def copy(self, source: str, target: str, *, source_bucket: str | None = None) -> PutResult:
        bucket = self.bucket if source_bucket is None else check_bucket(source_bucket)
        headers = {"x-amz-copy-source": f"/{bucket}/{quote_path(check_key(source))}"}
        answer = await self._send(self._request("CopyObject", "PUT", target, headers=headers, fault_in_success=True))
        with self._reading("CopyObject", target):
            return _written(answer)

    async def create_upload(self, key: str, options: PutOptions = DEFAULT_PUT) -> Upload:
        headers = _NAMES.of_write(replace(options, if_match=None, if_none_match=False))
        request = self._request("CreateMultipartUpload", "POST", key, query=[("uploads", "")], headers=headers)
        answer = await self._send(request)
        with self._reading("CreateMultipartUpload", key):
            upload = text_of(parse(answer.body), "UploadId")
            if upload is None:
                raise ProtocolError("the new upload has no id")
        return Upload(key, upload, options)

    async def upload_part(self, upload: Upload, number: int, data: bytes | memoryview) -> Part:
        query = [("partNumber", str(number)), ("uploadId", upload.id)]
        answer = await self._send(self._request("UploadPart", "PUT", upload.key, query=query, body=(data,)))
        etag = answer.headers.get("etag")
        if not etag:
            raise ProtocolError(f"part {number} was taken without an etag", self._context("UploadPart", upload.key))
        return Part(number, etag, memoryview(data).nbytes)

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> PutResult:
        request = self._request(
            "CompleteMultipartUpload",
            "POST",
            upload.key,
            query=[("uploadId", upload.id)],
            headers=_XML | conditions(upload.options),
            body=(complete_body(parts),),
            fault_in_success=True,
        )
        try:
            answer = await self._write(request, upload.options)
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
        query = [("uploadId", upload.id)]
        try:
            await self._send(self._request("AbortMultipartUpload", "DELETE", upload.key, query=query))
        except UploadNotFoundError:
            return

    def _describe(self, key: str, headers: Mapping[str, str], size: int) -> ObjectMeta:
        meta = super()._describe(key, headers, size)
        restore = restore_status(headers.get("x-amz-restore"))
        return meta if restore is None else replace(meta, restore=restore)

    def _path(self, key: str | None) -> str:
        """Below :attr:`Route.path`, which is known when the profile has been read."""
        return f"/{quote_path(check_key(key))}" if key is not None else "/"

    async def _send(self, request: Request, download: Download | None = None) -> Answer:
        service = await self._reach()
        assert self._route is not None
        place = self._route
        hashed = await payload_hash(request.body, tls=place.endpoint.tls)
        headers = {**request.headers, PAYLOAD_HASH: hashed}
        request = request._replace(path=place.path + request.path, headers=headers)
        try:
            return await service.send(request, download)
        except WrongRegionError as error:
            service = self._move(error, place)
        return await service.send(request, download)

    async def _open(self) -> Service:
        """Read the profile, which may touch files, and connect the parts. No request is sent."""
        settings = await trio.to_thread.run_sync(aws_profile, self.config)
        self.config = config = with_profile(self.config, settings)
        if self._credentials is None:
            self._credentials = aws_credentials(config)
        region = check_region(config.region or DEFAULT_REGION)
        return self._take(route(self.bucket, region, config.endpoint, config.addressing))

    def _take(self, place: Route) -> Service:
        assert self._credentials is not None
        self._route = place
        signer = SigV4Signer(self._credentials, place.region)
        return open_service(place.endpoint, self.config, signer, partial(read_fault, signed_for=place.region))

    def _move(self, error: WrongRegionError, place: Route) -> Service:
        """Follow the bucket to the region the server named, once for all requests that were under way."""
        assert self._service is not None
        if self._route is not place:
            return self._service
        if error.region == place.region:
            raise error
        old = self._service
        try:
            endpoint = regional_endpoint(self.config.endpoint, error.region)
            self._service = self._take(route(self.bucket, error.region, endpoint, self.config.addressing))
        except ConfigError:
            raise error from None
        old.pool.retire()
        return self._service


def _fits_batch(key: str) -> bool:
    """Whether DeleteObjects can spell this key, and no server would refuse the whole batch for it."""
    return bool(key) and can_hold(key) and len(key.encode()) <= MAX_KEY


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


async def payload_hash(body: Sequence[memoryview], *, tls: bool) -> str:
    """What SigV4 signs for the body: its SHA-256 where nothing else protects it, nothing under TLS."""
    if not body:
        return EMPTY_SHA256
    if tls:
        return UNSIGNED_PAYLOAD
    digest = hashlib.sha256()
    for piece in body:
        await trio.to_thread.run_sync(digest.update, piece) if len(piece) >= HASH_IN_THREAD_FROM else digest.update(
            piece
        )
    return digest.hexdigest()


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


def _written(answer: Answer) -> PutResult:
    """What CopyObject and CompleteMultipartUpload say of the new object, in their body."""
    return PutResult(parse_etag(parse(answer.body)), answer.headers.get("x-amz-version-id"))
