"""Fuzzing of all that is parsed here: `python -m tests.fuzzing [--seconds 60] [--seed 1] [--only json]`.

Valid messages are cut, repeated, swapped, flipped and crossed with each other, and numbers in them made huge. Whatever
comes of it, a parser gives a value of the type that it says, or one of our errors that it says: no other exception, and
no hang. Where there are two ways to read the same, they must agree. A message that breaks this is printed.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from types import ModuleType

import pytest

from s3dlio.auth.azure import check_sas, parse_connection_string, sas_expiry
from s3dlio.auth.google import _read_token
from s3dlio.config import Config
from s3dlio.endpoints import endpoint_urls
from s3dlio.errors import ConfigError, ErrorContext, IntegrityError, InvalidUriError, ProtocolError, RangeError
from s3dlio.model import GetResult, ListPage, ObjectMeta, OffsetRange, RestoreStatus, StoredChecksum, iso_time
from s3dlio.proxy import is_listed, parse_proxy
from s3dlio.stores.azure import xml as azure
from s3dlio.stores.azure.store import read_fault as read_azure_fault
from s3dlio.stores.gcs import messages as gcs
from s3dlio.stores.integrity import read_checksum
from s3dlio.stores.local.files import _parse_metadata
from s3dlio.stores.s3 import checksums
from s3dlio.stores.s3 import xml as s3
from s3dlio.stores.s3.directory import parse_session
from s3dlio.stores.s3.restored import restore_status
from s3dlio.stores.s3.store import read_fault as read_s3_fault
from s3dlio.transport.download import Download
from s3dlio.transport.endpoint import parse_endpoint
from s3dlio.transport.http1 import (
    HEAD_END,
    ChunkedDecoder,
    Head,
    body_framing,
    http_date,
    idle_timeout,
    parse_head,
    parse_size,
    plain_head,
)
from s3dlio.transport.proxied import take_final
from s3dlio.transport.upstream import Fault, seconds
from s3dlio.urls import parse_uri

from .fuzzed_files import FILES
from .transport.interpreted import InterpretedHead

# Messages, none of which is refused: what is made of them comes close to what is taken

HEADS = [
    b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "a"\r\nDate: Mon, 23 Nov 2026 01:02:03 GMT\r\n\r\n',
    b"HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 0-4/10\r\ncontent-length: 5\r\nconnection: close\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5, max=100\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX-Amz-Meta-A: \xc3\xa9\r\nvary: a\r\nVary: b\r\ncontent-length:  0 \r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\n",
]
CHUNKED = [
    b"5\r\nhello\r\n0\r\n\r\n",
    b'A;x="y"\r\n0123456789\r\n01\r\na\r\n0\r\nx-amz-checksum-crc32: AAAAAA==\r\n\r\n',
    b"400;chunk-signature=0a1b\r\n" + b"x" * 1024 + b"\r\n0\r\n\r\n",
]
S3_XML = [
    b'<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    b"<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    b"<Contents><Key>a%2Fb+c</Key><LastModified>2026-11-23T01:02:03.000Z</LastModified><ETag>&quot;e&quot;</ETag>"
    b"<Size>12</Size><StorageClass>STANDARD</StorageClass></Contents><Contents><Key>k</Key><Size>0</Size></Contents>"
    b"<CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes></ListBucketResult>",
    b"<ListBucketResult><Contents><Key>a&#x7;&amp;b</Key><Size>1</Size><RestoreStatus><IsRestoreInProgress>false"
    b"</IsRestoreInProgress><RestoreExpiryDate>2012-12-21T00:00:00.000Z</RestoreExpiryDate></RestoreStatus></Contents>"
    b"</ListBucketResult>",
    b"<Error><Code>SlowDown</Code><Message>Reduce &lt;rate&gt;</Message><Region>eu-west-1</Region></Error>",
    b"<DeleteResult><Error><Key>k</Key><Code>InternalError</Code><Message>no</Message></Error></DeleteResult>",
    b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>",
    b" \n<ns:CompleteMultipartUploadResult><ns:ETag>&quot;e-2&quot;</ns:ETag></ns:CompleteMultipartUploadResult>",
    b"<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>",
    b"<CreateSessionResult><Credentials><SessionToken>t</SessionToken><SecretAccessKey>s</SecretAccessKey>"
    b"<AccessKeyId>a</AccessKeyId><Expiration>2026-11-23T01:02:03Z</Expiration></Credentials></CreateSessionResult>",
]
AZURE_XML = [
    b'\xef\xbb\xbf<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="c"><Blobs><Blob>'
    b"<Name>a/b</Name><Properties><Last-Modified>Mon, 23 Nov 2026 01:02:03 GMT</Last-Modified><Etag>0x8DC</Etag>"
    b"<ResourceType>file</ResourceType><Content-Length>12</Content-Length><Content-Encoding /><Content-Type>a/b; c=d"
    b"</Content-Type><AccessTier>Hot</AccessTier></Properties><OrMetadata /></Blob><BlobPrefix><Name>p/</Name>"
    b"</BlobPrefix></Blobs><NextMarker>2!92!more</NextMarker></EnumerationResults>",
    b'<EnumerationResults><Blobs><Blob><Name Encoded="true">a%EF%BF%BE</Name><Properties><Content-Length>0'
    b"</Content-Length><ResourceType>directory</ResourceType></Properties></Blob></Blobs></EnumerationResults>",
    b"<?xml version='1.0'?><Error><Code>ServerBusy</Code><Message>Busy.\nTime:2026</Message></Error>",
]
JSON = [
    b'{"items": [{"name": "a/b", "size": "3", "generation": "17", "updated": "2026-11-23T01:02:03.456Z", '
    b'"storageClass": "NEARLINE", "metadata": {"a": "b"}}], "prefixes": ["c/"], "nextPageToken": "t"}',
    b'{"name": "a/b", "size": 3, "generation": "17", "crc32c": "AAAAAA==", "contentType": "a/b", "metadata": null}',
    b'{"error": {"code": 404, "message": "No such object: b/k", "errors": [{"reason": "notFound"}], "status": "X"}}',
    b'{"error": "invalid_grant"}',
    b'{"done": true, "resource": {"name": "a/b", "generation": "18"}}',
    b'{"done": false, "rewriteToken": "t", "totalBytesRewritten": "1048576"}',
    b'{"access_token": "ya29.a", "expires_in": 3599, "token_type": "Bearer"}',
    b"No such object: b/k",
]
HEADERS = [
    *(b"bytes 0-4/10", b"bytes 5-9/10", b"bytes 0--1/0", b"bytes 10-9/10", b"bytes=0-8388607"),
    *(b"Mon, 23 Nov 2026 01:02:03 GMT", b"2026-11-23T01:02:03.000Z", b"0001-01-01T00:00:00+23:59", b"120", b"86400000"),
    *(b"timeout=5, max=100", b'ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"'),
    *(b"crc32c=AAAAAA==,md5=1B2M2Y8AsgTpgAmY7PhCfg==", b"AAAAAA==", b"AAAAAAAAAAA=", b"AAAAAA==-2"),
    b"https://storage.googleapis.com/upload/storage/v1/b/b/o?uploadType=resumable&upload_id=x",
]
URIS = [
    *(b"s3://bucket/folder/key", b"s3://b//two//slashes/", b"gs://bucket/%20 a+b?c=d&e#f@g:h/../\xc3\xa9"),
    *(b"az://account/container/key", b"abfss://container@account.dfs.core.windows.net/folder/key"),
    *(b"file:///data/train/a.bin", b"direct:///data/", b"memory://name/key", b"s3://b/s3://other/key"),
]
ENDPOINTS = [
    *(b"http://a:9000", b"https://s3.example.com/prefix", b"http://[::1]:9000", b"http://a, http://b ,"),
    *(b"http://10.0.0.{1...8}:9000", b"http://r{1...4}n{01...16}:{9000...9001}"),
    b"http://h{1...2},https://h{3...4}:443",
]
PROXIES = [b"http://user:p%40ss@proxy:3128", b"proxy", b"http://[::1]:80/", b"none"]
NO_PROXY = [b"10.0.0.0/8", b".example.com:443", b"*.example.com", b"[2001:db8::1]:443", b"*", b"2001:db8::/32"]
ACCOUNTS = [
    b"DefaultEndpointsProtocol=https;AccountName=account;AccountKey=a2V5;EndpointSuffix=core.windows.net",
    b"BlobEndpoint=https://account.blob.core.windows.net;SharedAccessSignature=sv=2022&se=2030-01-01T00%3A00%3A00Z&sig=a",
    b"UseDevelopmentStorage=true;DevelopmentStorageProxyUri=http://127.0.0.1",
]


# Readers: each is given a message, asserts what must hold of what is read, and raises only what `TARGETS` says

_interpreted = InterpretedHead()


def read_head(data: bytes) -> None:
    """The pump waits for as many bytes as the book says, of heads that the book takes, and sees the same headers."""
    end = _interpreted.head_end(data)
    assert end == (data.find(HEAD_END) + len(HEAD_END) if HEAD_END in data else 0)
    length = _interpreted.plain_length(data[:end]) if end else -1
    try:
        head = parse_head(data[:end] or data)
        framing = body_framing("GET", head)
    except ProtocolError:
        assert length < 0, "the pump waits for the body of what is refused"
        return
    assert idle_timeout(head.headers) >= 0
    if length >= 0:
        plain = plain_head(data[:end])
        assert framing == ("length", length) == body_framing("GET", plain)
        assert (head.status, head.keep_alive) == (plain.status, plain.keep_alive)
        assert head.headers == {name: plain.headers[name] for name in plain.headers}


def read_chunked(data: bytes) -> None:
    """The same in one piece and byte by byte."""
    assert _decoded([data]) == _decoded([data[place : place + 1] for place in range(len(data))])


def _decoded(pieces: list[bytes]) -> tuple[bytes, bool] | None:
    decoder, body = ChunkedDecoder(), b""
    try:
        for piece in pieces:
            body += decoder.feed(piece)
            if decoder.done:
                break
    except ProtocolError:
        return None
    return body, decoder.done


def read_connect(data: bytes) -> None:
    """What a proxy answers to CONNECT."""
    status = take_final(bytearray(data))
    assert status is None or 200 <= status <= 999


def read_s3(data: bytes) -> None:
    """All that S3 says in XML, listings in both ways."""
    _check_listing(s3, data)
    _check_fault(read_s3_fault(400, {}, data))
    for read in (s3.parse_upload_id, s3.parse_tags, parse_session, _read_failures, _read_completed):
        with suppress(ProtocolError):
            read(data)


def _read_failures(data: bytes) -> None:
    for error in s3.delete_failures(data, ErrorContext()):
        assert error.key is None or isinstance(error.key, str)


def _read_completed(data: bytes) -> None:
    assert s3.parse_written(data, "CompleteMultipartUploadResult")


def read_azure(data: bytes) -> None:
    """All that Azure says in XML."""
    _check_listing(azure, data)
    _check_fault(read_azure_fault(400, {}, data))


def _check_listing(module: ModuleType, data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        page = _page(module, data)
        patch.setattr(module, "read_plain", lambda *_: None)
        assert page == _page(module, data)


def _page(module: ModuleType, data: bytes) -> ListPage | None:
    try:
        page: ListPage = module.parse_list_page(data)
    except ProtocolError:
        return None
    _check_page(page)
    return page


def _check_page(page: ListPage) -> None:
    assert page.token is None or page.token
    assert all(page.prefixes)
    for meta in page.objects:
        _check_meta(meta)


def _check_meta(meta: ObjectMeta) -> None:
    assert meta.key
    assert 0 <= meta.size < 1 << 62
    assert meta.last_modified is None or meta.last_modified.tzinfo is UTC
    texts = (meta.key, meta.etag, meta.version, meta.storage_class, meta.content_type, *meta.metadata.values())
    assert all(text is None or isinstance(text, str) for text in texts)


def _check_fault(fault: Fault | None) -> None:
    assert fault is not None
    assert all(text is None or isinstance(text, str) for text in (fault.code, fault.message, fault.request_id))


def read_json(data: bytes) -> None:
    """All that Google says in JSON, and what is kept with a file."""
    _check_fault(gcs.read_fault(400, {}, data))
    token = _read_token(data, 0.0)
    assert token is None or (token.expires_at is not None and math.isfinite(token.expires_at))
    with suppress(IntegrityError):
        assert all(isinstance(value, str) for value in _parse_metadata(data, ErrorContext()).values())
    with suppress(ProtocolError):
        _check_page(gcs.read_page(data, "", ""))
    with suppress(ProtocolError):
        _check_meta(gcs.object_meta(gcs.read_json(data)))
    with suppress(ProtocolError):
        assert gcs.read_rewrite(data, "a/b")
    with suppress(ProtocolError, IntegrityError):
        assert gcs.read_made(data, "a/b", 3, 0).etag


def read_header(data: bytes) -> None:
    """A value wherever a header's is read."""
    text = data.decode("latin-1")
    for moment in (http_date(text), iso_time(text)):
        assert moment is None or moment.tzinfo is UTC
    for wait in (seconds(text, 1.0), idle_timeout({"keep-alive": text})):
        assert wait is None or wait >= 0
    for algorithm in checksums.HEADERS:
        found = read_checksum(algorithm, text)
        assert found is None or 0 <= found.value < 1 << 64
    size = parse_size(text)
    assert size is None or 0 <= size < 1 << 62
    assert isinstance(restore_status(text), RestoreStatus)
    assert isinstance(gcs.hash_header({"x-goog-hash": text}), StoredChecksum | None)
    with suppress(ProtocolError):
        assert gcs.persisted({"range": text}) >= 0
    with suppress(ProtocolError):
        path, query = gcs.session_target({"location": text})
        assert path.startswith("/")
        assert query
    _place(text)


def _place(text: str) -> None:
    """As `Content-Range` of five bytes, which are all that a sink is asked for."""
    download = Download("key", _sink, lambda headers, size: ObjectMeta("key", size), OffsetRange(0))
    with suppress(ProtocolError, RangeError):
        assert len(download.place(Head(206, {"content-range": text}, keep_alive=True), 5)) == 5


def _sink(coming: GetResult) -> memoryview:
    return memoryview(bytearray(coming.end - coming.start))


def read_uri(data: bytes) -> None:
    """What was read is spelled in one way, which means the same."""
    uri = parse_uri(data.decode("utf-8", "surrogateescape"), Config(azure_account=None))
    assert uri.bucket
    if uri.scheme not in ("az", "abfss"):
        assert parse_uri(str(uri)) == uri


def read_endpoints(data: bytes) -> None:
    """As the environment would hold it."""
    urls = endpoint_urls(_variable(data))
    assert len(urls) <= 1024
    for url in urls[:4]:
        with suppress(ConfigError):
            endpoint = parse_endpoint(url)
            assert parse_endpoint(str(endpoint)) == endpoint
    with suppress(ConfigError):
        assert endpoint_urls(Config(endpoint=_variable(data)).endpoint or "") == urls


def read_proxy(data: bytes) -> None:
    """As the environment would hold it."""
    proxy = parse_proxy(_variable(data), "proxy")
    assert proxy is None or (proxy.host and 0 < proxy.port < 1 << 16)


def read_entry(data: bytes) -> None:
    """As an entry of `no_proxy`."""
    for host in ("example.com", "10.0.0.1", "2001:db8::1"):
        assert is_listed(_variable(data), host, 443) in (True, False)


def read_account(data: bytes) -> None:
    """As a connection string, and as a SAS."""
    with suppress(ConfigError):
        token = check_sas(_variable(data), "a test")
        moment = sas_expiry(token)
        assert moment is None or moment.tzinfo is UTC
    assert parse_connection_string(_variable(data)).endpoint


def _variable(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Target:
    """What reads one kind of message, some of which are `messages`, and by which errors it may refuse them."""

    read: Callable[[bytes], None]
    messages: list[bytes]
    refuses: tuple[type[Exception], ...] = ()


TARGETS = {
    "head": Target(read_head, HEADS),
    "chunked": Target(read_chunked, CHUNKED),
    "connect": Target(read_connect, HEADS, (ProtocolError,)),
    "s3": Target(read_s3, S3_XML),
    "azure": Target(read_azure, AZURE_XML),
    "json": Target(read_json, JSON),
    "header": Target(read_header, HEADERS),
    "uri": Target(read_uri, URIS, (InvalidUriError,)),
    "endpoints": Target(read_endpoints, ENDPOINTS, (ConfigError,)),
    "proxy": Target(read_proxy, PROXIES, (ConfigError,)),
    "no_proxy": Target(read_entry, NO_PROXY),
    "account": Target(read_account, ACCOUNTS, (ConfigError,)),
    **{name: Target(*how) for name, how in FILES.items()},
}


def check(target: Target, message: bytes) -> None:
    """Read `message`. Errors: whatever `target` may not raise, with the message as a note."""
    try:
        with suppress(*target.refuses):
            target.read(message)
    except BaseException as error:
        error.add_note(f"on {message!r}")
        raise


_NUMBER = re.compile(rb"[0-9]+")
_PUNCTUATION = re.compile(rb"[^0-9A-Za-z]+")
_NUMBERS = [b"", b"0", b"-1", b"+1", b"00", b"1e400", b"9" * 18, b"4611686018427387904", b"18446744073709551616"]
_NUMBERS += [b"9" * 400, b"9" * 5000, b"0x10", b"\xb2", b"\xd9\xa1", b"NaN", b"1_0"]
_SPICE = [b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b'"', b"<", b">", b"&", b"&#0;", b"&#x10FFFF;", b"]]>", b"<!--"]
_SPICE += [b"<!DOCTYPE a>", b"{", b"[", b"null", b"{1...9}", b"%", b"%zz", b"@", b"://", b",", b";", b"\xff"]
_SPICE += [b"\xed\xb2\x80", b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"\x93NUMPY\1\0", b"ustar\x0000"]
_SPICE += [b"\\ud800", b"\xef\xbb\xbf", b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"\xe2\x80\xae"]


def mutated(chance: random.Random, messages: list[bytes]) -> bytes:
    """One of `messages` with a few things done to it."""
    message = chance.choice(messages)
    for _ in range(chance.choice([1, 1, 2, 3, 6])):
        message = chance.choice(_MUTATIONS)(chance, message)
        if chance.random() < 0.1:
            message = crossed(chance, message, chance.choice(messages))
    return message


def flip(chance: random.Random, message: bytes) -> bytes:
    """One bit."""
    place = chance.randrange(len(message) or 1)
    return (
        message[:place]
        + bytes([byte ^ 1 << chance.randrange(8) for byte in message[place : place + 1]])
        + message[place + 1 :]
    )


def cut(chance: random.Random, message: bytes) -> bytes:
    """A piece away."""
    start, end = _piece(chance, message)
    return message[:start] + message[end:]


def cut_short(chance: random.Random, message: bytes) -> bytes:
    """The end away."""
    return message[: chance.randrange(len(message) + 1)]


def repeat(chance: random.Random, message: bytes) -> bytes:
    """A piece more than once, a short one very often."""
    start, end = _piece(chance, message)
    most = 1000 if end - start < 20 and chance.random() < 0.1 else 3
    return message[:end] + message[start:end] * chance.randint(1, most) + message[end:]


def swap(chance: random.Random, message: bytes) -> bytes:
    """Two pieces in each other's place."""
    start, end = _piece(chance, message)
    middle = chance.randint(start, end)
    return message[:start] + message[middle:end] + message[start:middle] + message[end:]


def season(chance: random.Random, message: bytes) -> bytes:
    """Something with a meaning, anywhere, or in place of punctuation."""
    places = [match.span() for match in _PUNCTUATION.finditer(message)] or [(0, 0)]
    place = chance.randrange(len(message) + 1)
    start, end = chance.choice([(place, place), chance.choice(places)])
    return message[:start] + chance.choice(_SPICE) + message[end:]


def renumber(chance: random.Random, message: bytes) -> bytes:
    """Another number in place of one."""
    places = [match.span() for match in _NUMBER.finditer(message)] or [(0, 0)]
    start, end = chance.choice(places)
    return message[:start] + chance.choice(_NUMBERS) + message[end:]


def overwrite(chance: random.Random, message: bytes) -> bytes:
    """A binary number in place of what is there: the least, the greatest, or close to the message's length."""
    width, place = chance.choice([1, 2, 4, 8]), chance.randrange(len(message) + 1)
    number = chance.choice([0, 1, len(message) + chance.randint(-9, 9), -1, 1 << 8 * width - 1])
    return message[:place] + (number % (1 << 8 * width)).to_bytes(width, "little") + message[place + width :]


def _piece(chance: random.Random, message: bytes) -> tuple[int, int]:
    start = chance.randrange(len(message) + 1)
    return start, min(len(message), start + chance.choice([1, 2, 5, 20, 100]))


def crossed(chance: random.Random, first: bytes, second: bytes) -> bytes:
    """The beginning of one, the end of the other."""
    return first[: chance.randrange(len(first) + 1)] + second[chance.randrange(len(second) + 1) :]


_MUTATIONS = [flip, flip, cut, cut_short, repeat, swap, season, season, renumber, renumber, overwrite]


def fuzz(target: Target, seed: int, count: int) -> None:
    """Check `count` messages made of those of `target`. Errors: as in :func:`check`."""
    chance = random.Random(seed)
    for _ in range(count):
        check(target, mutated(chance, target.messages))


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=TARGETS)
    options = parser.parse_args()
    chosen = [options.only] if options.only else list(TARGETS)
    end, seed = time.monotonic() + options.seconds, options.seed
    while time.monotonic() < end:
        for name in chosen:
            fuzz(TARGETS[name], seed, ROUND)
        seed += 1
    print(f"{ROUND * (seed - options.seed)} messages each of {', '.join(chosen)}; the next seed is {seed}")


ROUND = 200  # messages of one kind for one seed


if __name__ == "__main__":
    main()
