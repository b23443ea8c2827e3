"""Hostile input from either side: keys and metadata of the caller, answers of the server; and what must not be told."""

from __future__ import annotations

import logging
import pickle
import traceback

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from s3dlio.config import Config
from s3dlio.errors import InvalidKeyError, ProtocolError, StoreError, ThrottledError
from s3dlio.model import GetOptions, OffsetRange, PutOptions
from s3dlio.stores.s3.store import S3Store
from s3dlio.stores.store import BytesSink

from ..servers.faults import NOTHING, Fault, FaultServer, error_body, fault_server, refusal
from .conftest import BUCKET, DATA, ROOT, SECRET, TOKEN, MakeStore
from .test_http1 import SMUGGLING, head_of

KEYS = [
    *(
        "a b",
        "a+b",
        "a%20b",
        "a%2e%2e/b",
        "a?b=c",
        "a#b",
        "a&b",
        "a;b",
        "a=b",
        "a\\b",
        "a:b",
        "a@evil.com",
        "*",
        "~",
        "'\"",
    ),
    *(
        "..",
        "../..",
        "a/../b",
        "./a",
        "//a",
        "/",
        "/a",
        "a//b",
        "a/",
        "http://evil.com/x",
        "//evil.com/x",
        "?list-type=2",
    ),
    *(
        "a\r\nHost: evil.com",
        "a\nb",
        "a\tb",
        "a\0b",
        "\x7f",
        "\x80",
        "\N{SNOWMAN}",
        "\N{LATIN SMALL LETTER E WITH ACUTE}",
    ),
    *("\N{GRINNING FACE}", "\u202e", "\ufeff", " ", " a ", "a HTTP/1.1", "%", "%%", "%zz", "\uffff"),
]


@pytest.mark.parametrize("key", KEYS)
async def test_a_key_is_one_path_in_its_bucket(server: FaultServer, store: S3Store, key: str) -> None:
    await store.put(key, b"data")
    assert await store.get(key) == b"data"
    assert set(server.objects) == {f"{ROOT}key", f"{ROOT}{key}"}
    await store.delete(key)
    assert set(server.objects) == {f"{ROOT}key"}
    assert len(server.requests) == 3
    assert {asked.headers["host"] for asked in server.requests} == {server.endpoint.removeprefix("http://")}


@pytest.mark.parametrize("key", ["", "\ud800", "a" * 1025, "\N{SNOWMAN}" * 342])
async def test_keys_that_none_can_be(server: FaultServer, store: S3Store, key: str) -> None:
    for operation in (store.get, store.head, store.delete):
        with pytest.raises(InvalidKeyError):
            await operation(key)
    with pytest.raises(InvalidKeyError):
        await store.put(key, b"")
    assert not server.connections


@pytest.mark.parametrize("bad", ["\r\n", "\n", "\r", "\0", "a\r\nx-evil: 1", "\N{SNOWMAN}", "\x7f", "\t"])
async def test_metadata_cannot_add_headers(server: FaultServer, store: S3Store, bad: str) -> None:
    for options in (PutOptions(metadata={"a": bad}), PutOptions(metadata={bad: "a"}), PutOptions(content_type=bad)):
        with pytest.raises(ValueError, match=r"metadata|header"):
            await store.put("key", b"", options)
    assert not server.connections


@pytest.mark.parametrize("name", ["a b", "a:b", "a,b", "a(b"])
async def test_metadata_names_are_names_of_headers(server: FaultServer, store: S3Store, name: str) -> None:
    with pytest.raises(ValueError, match="header"):
        await store.put("key", b"", PutOptions(metadata={name: "a"}))
    assert not server.connections


@pytest.mark.parametrize("etag", ["\r\nx: y", "a\nb", "\0", "\N{SNOWMAN}"])
async def test_etags_cannot_add_headers(server: FaultServer, store: S3Store, etag: str) -> None:
    with pytest.raises(StoreError):
        await store.get("key", if_match=etag)
    with pytest.raises(StoreError):
        await store.fetch("key", BytesSink(), GetOptions(if_none_match=etag))
    assert not any("x" in asked.headers for asked in server.requests)


async def test_prefixes_are_quoted(server: FaultServer, store: S3Store) -> None:
    server.objects[f"{ROOT}a&b=c d/1"] = b""
    page = await store.list_page("a&b=c d/")
    assert [item.key for item in page.objects] == ["a&b=c d/1"]
    assert "prefix=a%26b%3Dc%20d%2F" in server.requests[0].target


@pytest.mark.parametrize("name", SMUGGLING)
async def test_ambiguous_answers(clock: MockClock, server: FaultServer, store: S3Store, name: str) -> None:
    server.always = Fault(raw=SMUGGLING[name] + b"5\r\nhello\r\n0\r\n\r\n")
    with pytest.raises(ProtocolError) as caught:
        await store.get("key")
    assert caught.value.attempts == len(server.requests) == server.connections == 3
    assert (caught.value.operation, caught.value.key) == ("GetObject", "key")


GARBAGE = {
    "noise": b"\x00\xff" * 5000,
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "text": b"hello\r\n\r\n",
    "endless head": head_of("x: " + "x" * 70_000),
    "endless lines": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000,
    "interim for ever": head_of(status="HTTP/1.1 102 Processing") * 2000,
    "bad chunk": head_of("Transfer-Encoding: chunked") + b"zz\r\n\r\n",
    "chunk too long": head_of("Transfer-Encoding: chunked") + b"2\r\nabc\r\n0\r\n\r\n",
    "endless trailers": head_of("Transfer-Encoding: chunked") + b"0\r\n" + b"x: y\r\n" * 20_000,
    "listing of exabytes": head_of("Content-Length: 1152921504606846976"),
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_garbage(clock: MockClock, server: FaultServer, store: S3Store, name: str) -> None:
    server.always = Fault(raw=GARBAGE[name])
    with pytest.raises(StoreError) as caught:
        await store.list_page()
    assert caught.value.attempts == len(server.requests) == 3
    server.always = Fault()
    assert await store.get("key") == DATA


async def test_an_answer_nobody_asked_for_is_not_the_next_one(server: FaultServer, store: S3Store) -> None:
    """A body longer than its length could be taken for the answer to the next request."""
    extra = head_of("Content-Length: 4") + b"evil"
    server.always = Fault(headers={"content-length": "5"}, body=b"hello" + extra, status=200)
    for _ in range(3):
        assert await store.get("key") == b"hello"
    assert server.connections == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(st.binary(max_size=300))
async def test_any_answer_is_an_object_or_an_error(raw: bytes) -> None:
    starts = [b"", b"HTTP/1.1 200 OK\r\n", head_of("Content-Length: 5"), head_of("Transfer-Encoding: chunked")]
    async with fault_server() as server, S3Store(BUCKET, Config(endpoint=server.endpoint, max_attempts=1)) as store:
        for start in starts:
            server.script.append(Fault(raw=start + raw))
            try:
                assert len(await store.get("key")) <= len(raw)
            except StoreError:
                continue
        assert len(server.requests) == len(starts)


async def test_stored_encodings_are_left_alone(server: FaultServer, store: S3Store) -> None:
    server.always = Fault(headers={"content-encoding": "gzip"})
    assert await store.get("key") == DATA
    assert server.requests[0].headers["accept-encoding"] == "identity"


async def test_secrets_are_not_told(
    clock: MockClock, server: FaultServer, make_store: MakeStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = make_store()
    told = [repr(store)]
    echo = refusal(403, "SignatureDoesNotMatch", Message="no", StringToSign="AWS4...", SignatureProvided="abc")
    for fault in (
        Fault(503),
        Fault(cut=NOTHING),
        Fault(raw=b"hello"),
        echo,
        refusal(400, "InvalidToken"),
        Fault(cut=4000),
    ):
        server.always = fault
        for operation in (store.get("key"), store.put("key", DATA), store.list_page(), store.head("key")):
            try:
                await operation
            except StoreError as error:
                told += [str(error), repr(error), "".join(traceback.format_exception(error)), repr(vars(error))]
                told.append(str(pickle.dumps(error)))
    told += [repr(vars(store)), repr(store._service), caplog.text]
    assert any("attempt 2: " in text for text in told)
    for text in told:
        assert SECRET not in text
        assert TOKEN not in text
        assert "Signature=" not in text
    assert all(asked.headers["x-amz-security-token"] == TOKEN for asked in server.requests)
    assert not any(SECRET in str(asked) for asked in server.requests)


async def test_what_an_error_holds_survives_a_pickle(clock: MockClock, server: FaultServer, store: S3Store) -> None:
    server.always = refusal(503, "SlowDown", Message="Slow")
    with pytest.raises(ThrottledError) as caught:
        await store.get("key")
    copied = pickle.loads(pickle.dumps(caught.value))
    assert type(copied) is ThrottledError
    assert copied.context == caught.value.context


async def test_an_error_document_that_is_hostile(server: FaultServer, store: S3Store) -> None:
    entities = b"<!DOCTYPE x [<!ENTITY a 'b'>]>" + error_body("AccessDenied")
    for body in (entities, b"<Error>" * 1000, b"<Error><Code>" + b"x" * 10**6, b"<", b"\xff\xfe<"):
        server.always = Fault(400, body=body)
        with pytest.raises(StoreError) as caught:
            await store.get_range("key", OffsetRange(0))
        assert (caught.value.status, caught.value.code) == (400, None)
