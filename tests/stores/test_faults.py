"""One table of faults, and every cloud: what is wrong in the same way is the same error, and says where it happened."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from trio.testing import MockClock

from s3dlio.config import Config
from s3dlio.errors import (
    AlreadyExistsError,
    BucketNotFoundError,
    NotFoundError,
    ObjectChangedError,
    PermissionDeniedError,
    PreconditionFailedError,
    ProtocolError,
    RangeError,
    ServerError,
    StoreError,
    ThrottledError,
)
from s3dlio.model import BoundedRange, ObjectMeta, PutOptions
from s3dlio.stores import AzureStore, GCSStore, S3Store
from s3dlio.stores.http import HttpStore

from ..servers.faults import Fault, fault_server

Run = Callable[[HttpStore], Awaitable[Any]]


@dataclass(frozen=True)
class Cloud:
    """How one service spells what all services say."""

    make: Callable[[str], HttpStore]
    version: str
    listing: Callable[[str], bytes]
    """A page with one object, `key`, of the size given as text."""
    looked_up: Callable[[str], Fault]
    """The answer to a HEAD, with that size."""


def s3(endpoint: str) -> HttpStore:
    return S3Store("con", Config(endpoint=endpoint, anonymous=True, max_attempts=3))


def azure(endpoint: str) -> HttpStore:
    return AzureStore("acct/con", Config(azure_endpoint=endpoint, anonymous=True, max_attempts=3))


def gcs(endpoint: str) -> HttpStore:
    return GCSStore("con", Config(gcs_endpoint=endpoint, anonymous=True, max_attempts=3))


def s3_page(size: str) -> bytes:
    return f"<ListBucketResult><Contents><Key>key</Key><Size>{size}</Size></Contents></ListBucketResult>".encode()


def azure_page(size: str) -> bytes:
    blob = f"<Blob><Name>key</Name><Properties><Content-Length>{size}</Content-Length></Properties></Blob>"
    return f"<EnumerationResults><Blobs>{blob}</Blobs></EnumerationResults>".encode()


def gcs_page(size: str) -> bytes:
    return json.dumps({"items": [{"name": "key", "size": size, "generation": "1"}]}).encode()


def headers_with(size: str) -> Fault:
    return Fault(200, {"content-length": size, "etag": '"v"'})


def resource_with(size: str) -> Fault:
    return Fault(200, body=json.dumps({"name": "key", "size": size, "generation": "1"}).encode())


CLOUDS = {
    "s3": Cloud(s3, "etag", s3_page, headers_with),
    "azure": Cloud(azure, "etag", azure_page, headers_with),
    "gcs": Cloud(gcs, "x-goog-generation", gcs_page, resource_with),
}


async def outcome(cloud: Cloud, run: Run, *faults: Fault) -> StoreError:
    """What `run` raises where the requests are answered by `faults`, the last one for ever."""
    async with fault_server() as server, cloud.make(server.endpoint) as store:
        server.script.extend(faults[:-1])
        server.always = faults[-1]
        with pytest.raises(StoreError) as caught:
            await run(store)
    return caught.value


def get(store: HttpStore) -> Awaitable[bytes]:
    return store.get("key")


def get_range(store: HttpStore) -> Awaitable[bytes]:
    return store.get_range("key", BoundedRange(0, 10))


def listed(store: HttpStore) -> Awaitable[Any]:
    return store.list_page()


def head(store: HttpStore) -> Awaitable[ObjectMeta]:
    return store.head("key")


def put(store: HttpStore) -> Awaitable[Any]:
    return store.put("key", b"content")


def create(store: HttpStore) -> Awaitable[Any]:
    return store.put("key", b"content", PutOptions(if_none_match=True))


def replace(store: HttpStore) -> Awaitable[Any]:
    return store.put("key", b"content", PutOptions(if_match="17"))


ABSURD = ["9" * 5000, "9" * 30, str(2**63), "-1", "1.0", "1e3", "0x10", "٣", "", "many"]


@pytest.mark.parametrize("size", ABSURD)
@pytest.mark.parametrize("cloud", CLOUDS)
async def test_a_listed_size_that_makes_no_sense(cloud: str, size: str, clock: MockClock) -> None:
    error = await outcome(CLOUDS[cloud], listed, Fault(200, body=CLOUDS[cloud].listing(size)))
    assert type(error) is ProtocolError
    assert "size" in str(error)
    assert (error.bucket, error.key) == ("con", None)
    assert error.operation
    assert error.endpoint


@pytest.mark.parametrize("size", [size for size in ABSURD if size.isascii() and size])
@pytest.mark.parametrize("cloud", CLOUDS)
async def test_a_size_of_one_object_that_makes_no_sense(cloud: str, size: str, clock: MockClock) -> None:
    error = await outcome(CLOUDS[cloud], head, CLOUDS[cloud].looked_up(size))
    assert type(error) is ProtocolError
    assert (error.bucket, error.key) == ("con", "key")
    assert error.operation
    assert error.endpoint


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_a_size_that_makes_sense(cloud: str, clock: MockClock) -> None:
    """The same answers with a number in them are read: the refusals above are of the number."""
    async with fault_server() as server, CLOUDS[cloud].make(server.endpoint) as store:
        server.script.extend([Fault(200, body=CLOUDS[cloud].listing("17")), CLOUDS[cloud].looked_up("17")])
        assert [meta.size for meta in (await store.list_page()).objects] == [17]
        assert (await store.head("key")).size == 17


def ranged(text: str) -> Fault:
    return Fault(206, {"content-range": text, "etag": '"v"', "x-goog-generation": "1"}, bytes(10))


def versioned(first: str, second: str) -> Callable[[Cloud], tuple[Fault, ...]]:
    def faults(cloud: Cloud) -> tuple[Fault, ...]:
        cut = Fault(200, {cloud.version: first}, bytes(10), cut=5)
        return cut, Fault(206, {cloud.version: second, "content-range": "bytes 5-9/10"}, bytes(5))

    return faults


def always(fault: Fault) -> Callable[[Cloud], tuple[Fault, ...]]:
    return lambda _: (fault,)


HTML = b"<!doctype html><html><body>Sign in</body></html>"
TEXT = b"upstream connect error"
BINARY = bytes(range(256))

TABLE: list[tuple[str, Run, Callable[[Cloud], tuple[Fault, ...]], type[StoreError], int | None, int | None]] = [
    # what is wrong, what is done, the answers, the error, its status, and the requests it took
    ("length of 30 digits", get, always(Fault(200, {"content-length": "9" * 30})), ProtocolError, None, 3),
    ("length of 5,000 digits", get, always(Fault(200, {"content-length": "9" * 5000})), ProtocolError, None, 3),
    ("length in words", get, always(Fault(200, {"content-length": "ten"})), ProtocolError, None, 3),
    ("range of an absurd total", get_range, always(ranged(f"bytes 0-9/{2**63 - 1}")), ProtocolError, None, 3),
    ("range of 30 digits", get_range, always(ranged("bytes 0-9/" + "9" * 30)), ProtocolError, None, 3),
    ("range without sense", get_range, always(ranged("bytes ten-to-twelve/20")), ProtocolError, None, 3),
    ("another range", get_range, always(ranged("bytes 5-14/20")), ProtocolError, None, 3),
    ("another version", get, versioned("1", "2"), ObjectChangedError, None, 2),
    ("an empty page", listed, always(Fault(200, body=b" ")), ProtocolError, None, None),
    ("a page of HTML", listed, always(Fault(200, body=HTML)), ProtocolError, None, None),
    ("a page of text", listed, always(Fault(200, body=TEXT)), ProtocolError, None, None),
    ("a page of bytes", listed, always(Fault(200, body=BINARY)), ProtocolError, None, None),
    ("a page cut short", listed, lambda cloud: (Fault(200, body=cloud.listing("17")[:-3]),), ProtocolError, None, None),
    ("a page of another kind", listed, always(Fault(200, body=b"<Other/>")), ProtocolError, None, None),
    ("absent, HTML", get, always(Fault(404, body=HTML)), NotFoundError, 404, 1),
    ("absent, nothing more", get, always(Fault(404, body=b"")), NotFoundError, 404, 1),
    ("denied, HTML", get, always(Fault(403, body=HTML)), PermissionDeniedError, 403, 1),
    ("denied, text", put, always(Fault(403, body=TEXT)), PermissionDeniedError, 403, 1),
    ("unknown, bytes", put, always(Fault(401, body=BINARY)), PermissionDeniedError, 401, 1),
    ("past the end", get_range, always(Fault(416, body=TEXT)), RangeError, 416, 1),
    ("failing, HTML", get, always(Fault(500, body=HTML)), ServerError, 500, 3),
    ("failing, bytes", put, always(Fault(502, body=BINARY)), ServerError, 502, 3),
    ("busy, HTML", listed, always(Fault(503, body=HTML)), ThrottledError, 503, 3),
    ("busy, text", put, always(Fault(429, body=TEXT)), ThrottledError, 429, 3),
    ("something is there", create, always(Fault(412, body=TEXT)), AlreadyExistsError, 412, 1),
    ("something else is there", replace, always(Fault(412, body=TEXT)), PreconditionFailedError, 412, 1),
]


@pytest.mark.parametrize(
    ("run", "faults", "expected", "status", "attempts"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
async def test_equal_faults_are_equal_errors(
    run: Run,
    faults: Callable[[Cloud], tuple[Fault, ...]],
    expected: type[StoreError],
    status: int | None,
    attempts: int | None,
    clock: MockClock,
) -> None:
    found = {name: await outcome(cloud, run, *faults(cloud)) for name, cloud in CLOUDS.items()}
    for error in found.values():
        assert isinstance(error, expected)
        assert not isinstance(error, BucketNotFoundError)
        assert (error.bucket, error.status, error.attempts) == ("con", status, attempts)
        assert error.operation
        assert error.endpoint
        assert str(error).isprintable()
    assert len({type(error) for error in found.values()}) == 1
