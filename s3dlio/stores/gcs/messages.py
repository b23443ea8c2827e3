"""Google Cloud Storage's JSON API, requests out and answers in: pure.

Source: "Cloud Storage JSON API", the reference page of each method of `objects`; "Resumable uploads" for the exchange
with 308; "Composite objects" for composing.

The etag of an object here is its generation, the number that GCS gives to every version of an object's content: reads,
writes and deletions can all be held to it. (The etag that GCS itself sends changes with every change of metadata, too,
and a request for a range of one version cannot be made with it.)
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from ...alignment import checksum
from ...errors import (
    ErrorContext,
    IntegrityError,
    InvalidKeyError,
    InvalidUriError,
    ObjectChangedError,
    PreconditionFailedError,
    ProtocolError,
    RequestError,
    shown,
)
from ...model import (
    NO_METADATA,
    Decoded,
    ListOptions,
    ListPage,
    ObjectColumns,
    ObjectMeta,
    Part,
    PutOptions,
    PutResult,
    StoredChecksum,
    iso_time,
)
from ...transport.download import Pin
from ...transport.endpoint import Endpoint, parse_endpoint
from ...transport.http1 import SecretText, parse_size
from ...transport.upstream import Fault
from ..headers import HeaderNames
from ..http import Query
from ..integrity import read_checksum

UPLOADS = ".s3dlio-uploads/"
"""Keys under this are parts of uploads in progress. Listings of anything else do not show them."""

MOST_PIECES = 32
"""How many objects one request can compose. Source: "Composite objects"."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_GENERATION = re.compile(r'"?([0-9]{1,19})"?')
_PART_ETAG = re.compile(r"([0-9]{1,19})-([0-9a-f]{8})?")
_PERSISTED = re.compile(r"bytes=0-([0-9]{1,19})")
_MISSING_BUCKET = re.compile(r"bucket does not exist", re.IGNORECASE)
_GOOGLE = Endpoint("https", "storage.googleapis.com", 443)
_NAMES = HeaderNames("x-goog-meta-", "x-goog-generation", "x-goog-storage-class", "content-type")
_LISTED = "items(name,size,generation,updated,storageClass),prefixes,nextPageToken"
_MOST_EXPLANATION = 300


# Where things are


def check_bucket(bucket: str) -> str:
    """A bucket's name that does not change a path. Errors: `InvalidUriError`."""
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise InvalidUriError(f"not a bucket name: {bucket!r}", ErrorContext(bucket=bucket))
    return bucket


def endpoint_of(url: str | None) -> Endpoint:
    """Google's endpoint, or that of `url`, which emulators give without a scheme, too. Errors: `ConfigError`."""
    if not url:
        return _GOOGLE
    return parse_endpoint(url if "://" in url else f"http://{url}")


def is_google(endpoint: Endpoint) -> bool:
    """Whether this is one of Google's own hosts: tokens go there unasked, and nowhere else."""
    return endpoint.tls and (endpoint.host == "googleapis.com" or endpoint.host.endswith(".googleapis.com"))


def objects_path(bucket: str) -> str:
    """The path of a bucket's objects."""
    return f"/storage/v1/b/{bucket}/o"


def object_path(bucket: str, key: str) -> str:
    """The path of one object."""
    return f"{objects_path(bucket)}/{quote(key, safe='')}"


def rewrite_path(source_bucket: str, source: str, bucket: str, target: str) -> str:
    """The path that copies one object to another key, or another bucket."""
    return f"{object_path(source_bucket, source)}/rewriteTo/b/{bucket}/o/{quote(target, safe='')}"


def compose_path(bucket: str, target: str) -> str:
    """The path that makes an object of others."""
    return f"{object_path(bucket, target)}/compose"


def upload_path(bucket: str) -> str:
    """The path that new objects are sent to."""
    return f"/upload/storage/v1/b/{bucket}/o"


# Versions


def generation_of(etag: str) -> str | None:
    """The generation that an etag is; `None` for what cannot be one, and so is no version of any object."""
    match = _GENERATION.fullmatch(etag)
    return match[1] if match else None


def _ask_for_generation(etag: str) -> tuple[Mapping[str, str], str]:
    generation = generation_of(etag)
    if generation is None:
        raise ObjectChangedError(f"no version of the object has the etag {shown(etag, 100)}: it is not a generation")
    return {}, f"generation={generation}"


GENERATION = Pin(_ask_for_generation, 404)
"""Reads are held to a generation by naming it. Where a bucket keeps old versions, a replaced one can still be read."""


def conditions(options: PutOptions, where: ErrorContext) -> Query:
    """The parameters of a conditional write. Errors: `PreconditionFailedError` for an etag that is no generation."""
    if options.if_none_match:
        return [("ifGenerationMatch", "0")]
    if options.if_match is None:
        return []
    generation = generation_of(options.if_match)
    if generation is None:
        raise PreconditionFailedError(f"no version of the object has the etag {options.if_match}", where)
    return [("ifGenerationMatch", generation)]


# Checksums, as base64 of their big-endian bytes


def spell_crc32c(value: int) -> str:
    """A CRC32C as GCS writes it."""
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def hash_header(headers: Mapping[str, str]) -> StoredChecksum | None:
    """The CRC32C of the whole stored object, from an answer's `x-goog-hash`."""
    given = (item.strip().partition("=") for item in headers.get("x-goog-hash", "").split(","))
    return next((read_checksum("CRC32C", value) for name, _, value in given if name == "crc32c"), None)


# Answers


def read_json(body: bytes) -> dict[str, Any]:
    """An answer's object. Errors: `ProtocolError`."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ProtocolError("the answer is not the JSON it should be")
    return content


def read_fault(status: int, headers: Mapping[str, str], body: bytes) -> Fault | None:
    """An error answer: JSON, or plain text where media was asked for. 308 says "go on" to a resumable upload."""
    if status < 300 or status == 308:
        return None
    request_id = headers.get("x-guploader-uploadid")
    try:
        error = read_json(body).get("error")
    except ProtocolError:
        return Fault(message=_plain(headers, body), request_id=request_id)
    if not isinstance(error, dict):
        return Fault(code=_text(error), request_id=request_id)
    details = error.get("errors")
    first = details[0] if isinstance(details, list) and details and isinstance(details[0], dict) else {}
    code = _text(first.get("reason")) or _text(error.get("status"))
    return Fault(code=code, message=_text(error.get("message")), request_id=request_id)


def _plain(headers: Mapping[str, str], body: bytes) -> str | None:
    text = body.decode(errors="replace").strip()
    return text[:_MOST_EXPLANATION] if text and not text.startswith("<") else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def names_bucket(message: str) -> bool:
    """Whether a 404 says that it is the bucket that is not there."""
    return _MISSING_BUCKET.search(message) is not None


def object_meta(resource: Mapping[str, Any]) -> ObjectMeta:
    """An object's metadata from its resource. Errors: `ProtocolError`."""
    return _columns([resource])[0]


def _columns(resources: Sequence[Mapping[str, Any]]) -> ObjectColumns:
    keys = [_text(item.get("name")) for item in resources]
    sizes = [_size(item.get("size")) for item in resources]
    if None in keys or None in sizes:
        raise ProtocolError("an object is answered without a name, or a size that makes sense")
    generations = [_text(item.get("generation")) for item in resources]
    return ObjectColumns(
        {
            "key": keys,
            "size": sizes,
            "etag": generations,
            "last_modified": Decoded([_text(item.get("updated")) for item in resources], iso_time),
            "version": generations,
            "storage_class": [_text(item.get("storageClass")) for item in resources],
            "content_type": [_text(item.get("contentType")) for item in resources],
            "metadata": [_metadata(item.get("metadata")) for item in resources],
        }
    )


def _size(value: object) -> int | None:
    """Google writes sizes as texts, servers that take its place as numbers, too."""
    return parse_size(str(value)) if isinstance(value, str | int) else None


def _metadata(own: object) -> Mapping[str, str]:
    found = own.items() if isinstance(own, dict) else ()
    return {name: value for name, value in found if isinstance(value, str)} or NO_METADATA


def media_meta(key: str, headers: Mapping[str, str], size: int) -> ObjectMeta:
    """An object's metadata from the headers of its content, where GCS itself says nothing of custom metadata.

    Errors: `ProtocolError` where what comes is not the stored bytes but something made of them.
    """
    stored = headers.get("x-goog-stored-content-length", str(size))
    if stored != str(size):
        raise ProtocolError(f"the stored object has {shown(stored, 100)} bytes, what the server sends of it has {size}")
    meta = _NAMES.describe(key, headers, size)
    return replace(meta, etag=meta.version, checksum=hash_header(headers))


def read_made(body: bytes, key: str, size: int, crc32c: int | None) -> PutResult:
    """The version that a write of `size` bytes with that CRC32C, if it is known, made, from the new object's resource.

    Errors: `ProtocolError` where it is not the resource of such an object, `IntegrityError` for another CRC32C.
    """
    made = read_json(body)
    result = _version_of(made, key)
    if _size(made.get("size")) != size:
        raise ProtocolError(f"wrote {size} bytes, the new object is answered with a size that differs, or none")
    told = read_checksum("CRC32C", _text(made.get("crc32c")) or "")
    if told is not None and crc32c is not None and told.value != crc32c:
        raise IntegrityError("the object that was made does not have the CRC32C of what was sent")
    return result


def _version_of(made: Mapping[str, Any], key: str) -> PutResult:
    generation = _text(made.get("generation"))
    if made.get("name") != key or generation is None or generation_of(generation) is None:
        raise ProtocolError("the new object is answered without its name and generation")
    return PutResult(generation, generation)


# Listing


def list_query(prefix: str, options: ListOptions) -> Query:
    """The parameters of objects.list. `startOffset` itself is in: :func:`read_page` drops it."""
    asked = {
        "fields": _LISTED,
        "maxResults": str(options.limit),
        "prefix": prefix,
        "delimiter": options.delimiter,
        "startOffset": options.start_after,
        "pageToken": options.token or "",
    }
    return [(name, value) for name, value in asked.items() if value]


def read_page(body: bytes, prefix: str, start_after: str) -> ListPage:
    """One page of the listing of `prefix`, after `start_after`, without parts of uploads. Errors: `ProtocolError`."""
    answer = read_json(body)
    items, prefixes, token = answer.get("items", []), answer.get("prefixes", []), answer.get("nextPageToken")
    if not isinstance(items, list) or not isinstance(prefixes, list):
        raise ProtocolError("the answer is not a listing")
    objects = _columns([item for item in items if isinstance(item, dict)])
    return ListPage(
        objects.where(lambda key: key != start_after and _is_shown(key, prefix)),
        tuple(name for name in filter(_text, prefixes) if _is_shown(name, prefix)),
        _text(token),
    )


def _is_shown(name: str, prefix: str) -> bool:
    return prefix.startswith(UPLOADS) or not name.startswith(UPLOADS)


# Writing


def resource(key: str, options: PutOptions, crc32c: int | None) -> dict[str, Any]:
    """What a new object is to be. Errors: `InvalidKeyError` where its content type would not fit a header."""
    kind = options.content_type
    if kind is not None and not (kind.isascii() and kind.isprintable()):
        raise InvalidKeyError("a content type must be printable ASCII, as HTTP headers are", ErrorContext(key=key))
    wanted = {
        "name": key,
        "contentType": kind,
        "metadata": dict(options.metadata),
        "storageClass": options.storage_class,
        "crc32c": None if crc32c is None else spell_crc32c(crc32c),
    }
    return {name: value for name, value in wanted.items() if value}


def multipart(wanted: Mapping[str, Any], data: memoryview, boundary: str) -> tuple[str, tuple[memoryview, ...]]:
    """Content type and body of an upload in one request: the resource, then the data, which is not copied.

    Source: RFC 2387. `boundary` must not occur in the data: take a random one.
    """
    kind = wanted.get("contentType", "application/octet-stream")
    head = (
        f"--{boundary}\r\ncontent-type: application/json; charset=UTF-8\r\n\r\n{json.dumps(wanted)}\r\n"
        f"--{boundary}\r\ncontent-type: {kind}\r\n\r\n"
    )
    pieces = (memoryview(head.encode()), data, memoryview(f"\r\n--{boundary}--\r\n".encode()))
    return f"multipart/related; boundary={boundary}", tuple(piece for piece in pieces if len(piece))


def session_target(headers: Mapping[str, str]) -> tuple[str, str]:
    """Path and query of a new resumable upload. The query is the right to write to it. Errors: `ProtocolError`."""
    try:
        location = urlsplit(headers.get("location", ""))
    except ValueError:
        location = urlsplit("")
    if not location.path.startswith("/") or not location.query:
        raise ProtocolError("the new resumable upload has no address")
    return location.path, SecretText(location.query)


def content_range(first: int, size: int) -> str:
    """`Content-Range` for all that is left of `size` bytes, and for the question how much that is where nothing is."""
    return f"bytes {first}-{size - 1}/{size}" if first < size else f"bytes */{size}"


def persisted(headers: Mapping[str, str]) -> int:
    """How many bytes of a resumable upload the server has, from a 308. Errors: `ProtocolError`."""
    received = headers.get("range")
    if received is None:
        return 0
    match = _PERSISTED.fullmatch(received.strip())
    if match is None:
        raise ProtocolError(f"a resumable upload that has {shown(received, 100)!r} makes no sense")
    return int(match[1]) + 1


class Rewriting(NamedTuple):
    """A copy that goes on: by which token, and how many bytes are copied."""

    token: str
    copied: int


def read_rewrite(body: bytes, target: str) -> PutResult | Rewriting:
    """The copy that is made, or is being made, of the key `target`. Errors: `ProtocolError`."""
    answer = read_json(body)
    if answer.get("done"):
        made = answer.get("resource")
        return _version_of(made if isinstance(made, dict) else {}, target)
    token = _text(answer.get("rewriteToken"))
    if token is None:
        raise ProtocolError("the copy is not done, and there is no token to go on with")
    return Rewriting(token, _size(answer.get("totalBytesRewritten")) or 0)


# Composing


class Piece(NamedTuple):
    """An object that becomes part of another."""

    name: str
    generation: str
    crc32c: int | None
    size: int


def part_prefix(upload_id: str) -> str:
    """What the keys of an upload's parts begin with."""
    return f"{UPLOADS}{upload_id}/"


def part_name(upload_id: str, number: int) -> str:
    """The key of one part of an upload."""
    return f"{part_prefix(upload_id)}{number:05}"


def joint_name(upload_id: str, level: int, number: int) -> str:
    """The key of several parts joined, in round `level` from 1."""
    return f"{part_prefix(upload_id)}joined-{level}-{number:05}"


def part_etag(generation: str, crc32c: int | None) -> str:
    """What has to be remembered of a part until it is composed."""
    return f"{generation}-" if crc32c is None else f"{generation}-{crc32c:08x}"


def pieces(upload_id: str, parts: Sequence[Part], where: ErrorContext) -> list[Piece]:
    """What to compose. Errors: `RequestError` for parts that are not in order, or that were never uploaded."""
    numbers = [part.number for part in parts]
    etags = [_PART_ETAG.fullmatch(part.etag) for part in parts]
    if not parts or numbers != sorted(set(numbers)) or None in etags:
        raise RequestError("the parts are not those that were uploaded, in order", where)
    return [
        Piece(part_name(upload_id, part.number), etag[1], int(etag[2], 16) if etag[2] else None, part.size)
        for part, etag in zip(parts, etags, strict=True)
        if etag is not None
    ]


def groups(found: Sequence[Piece]) -> list[Sequence[Piece]]:
    """`found` in as many pieces as one request takes."""
    return [found[first : first + MOST_PIECES] for first in range(0, len(found), MOST_PIECES)]


def joined_crc32c(found: Sequence[Piece]) -> int | None:
    """The CRC32C of the pieces one after the other, where those of all are known."""
    value = 0
    for piece in found:
        if piece.crc32c is None:
            return None
        value = checksum.combine("CRC32C", value, piece.crc32c, piece.size)
    return value


def compose_body(found: Sequence[Piece], wanted: Mapping[str, Any]) -> bytes:
    """objects.compose's request: exactly these versions of the pieces, joined in this order."""
    sources = [{"name": piece.name, "generation": piece.generation} for piece in found]
    return json.dumps({"sourceObjects": sources, "destination": dict(wanted)}).encode()
