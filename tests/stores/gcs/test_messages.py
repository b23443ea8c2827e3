"""The JSON API's requests and answers, without a server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email import message_from_bytes, policy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3dlio.alignment.checksum import crc32c
from s3dlio.config import Config
from s3dlio.errors import (
    ConfigError,
    ErrorContext,
    InvalidKeyError,
    InvalidUriError,
    ObjectChangedError,
    PreconditionFailedError,
    ProtocolError,
    RequestError,
)
from s3dlio.model import BoundedRange, GetResult, Part, PutOptions, PutResult, StoredChecksum
from s3dlio.stores.gcs import messages
from s3dlio.stores.gcs.messages import Piece
from s3dlio.stores.integrity import read_checksum
from s3dlio.transport.download import Download
from s3dlio.transport.http1 import Head
from s3dlio.transport.upstream import Fault

WHERE = ErrorContext("operation", "bucket", "key")


@pytest.mark.parametrize("bucket", ["abc", "a_b.c-d", "test-1", "a" * 63, "0-9"])
def test_bucket_names(bucket: str) -> None:
    assert messages.check_bucket(bucket) == bucket


@pytest.mark.parametrize("bucket", ["", "a", "A-bucket", "a/b", "a..b", "-ab", "ab?", "ab#", "ab%2F", "a" * 223, "é-é"])
def test_what_is_no_bucket_name(bucket: str) -> None:
    with pytest.raises(InvalidUriError):
        messages.check_bucket(bucket)


@pytest.mark.parametrize(
    ("url", "shown", "google"),
    [
        (None, "https://storage.googleapis.com", True),
        ("", "https://storage.googleapis.com", True),
        ("https://storage-team.p.googleapis.com", "https://storage-team.p.googleapis.com", True),
        ("http://storage.googleapis.com", "http://storage.googleapis.com", False),
        ("https://googleapis.com.example", "https://googleapis.com.example", False),
        ("https://evilgoogleapis.com", "https://evilgoogleapis.com", False),
        ("localhost:4443", "http://localhost:4443", False),
        ("127.0.0.1:9023", "http://127.0.0.1:9023", False),
        ("http://gcs:4443/prefix", "http://gcs:4443/prefix", False),
        ("https://localhost:4443/", "https://localhost:4443", False),
    ],
)
def test_endpoints(url: str | None, shown: str, google: bool) -> None:
    endpoint = messages.endpoint_of(url)
    assert (str(endpoint), messages.is_google(endpoint)) == (shown, google)


def test_the_emulators_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "host:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3.example")
    assert Config().gcs_endpoint == "host:1"
    with pytest.raises(ConfigError):
        messages.endpoint_of("host:port")


def test_paths_hold_any_key() -> None:
    assert messages.object_path("b-1", "a/b?#%+é ~") == "/storage/v1/b/b-1/o/a%2Fb%3F%23%25%2B%C3%A9%20~"
    assert messages.rewrite_path("b-1", "a/b", "b-2", "c/d") == "/storage/v1/b/b-1/o/a%2Fb/rewriteTo/b/b-2/o/c%2Fd"
    assert messages.compose_path("b-1", "a/b") == "/storage/v1/b/b-1/o/a%2Fb/compose"


# Versions


def media(data: bytes, generation: str = "17", first: int = 0) -> tuple[Head, bytes]:
    headers = {"x-goog-generation": generation, "content-range": f"bytes {first}-{len(data) - 1}/{len(data)}"}
    return Head(206, headers, keep_alive=True), data[first:]


def test_a_read_is_held_to_the_generation_that_began() -> None:
    view = bytearray(10)
    download = Download(
        "key",
        lambda coming: memoryview(view),
        lambda headers, size: messages.media_meta("key", headers, size),
        BoundedRange(0, 10),
        pin=messages.GENERATION,
    )
    assert download.narrow({"a": "b"}, "alt=media") == ({"a": "b", "range": "bytes=0-9"}, "alt=media")
    head, body = media(b"0123456789")
    place = download.place(head, len(body))
    assert place is not None
    place[:4] = body[:4]
    download.filled = 4
    assert download.broke_off()
    assert download.narrow({}, "alt=media") == ({"range": "bytes=4-9"}, "alt=media&generation=17")
    assert [download.tells_change(status) for status in (404, 416, 412)] == [True, True, False]
    assert isinstance(download.result, GetResult)
    with pytest.raises(ObjectChangedError):
        download.place(*(media(b"abcdefghij", "18", 4)[0], 6))


@pytest.mark.parametrize(("etag", "query"), [("17", "generation=17"), ('"17"', "generation=17")])
def test_the_pin_of_the_caller(etag: str, query: str) -> None:
    assert messages.GENERATION.ask(etag) == ({}, query)


@pytest.mark.parametrize("etag", ["", "CJ6s", '"0a"', "17&alt=json", "1" * 20, "\N{ARABIC-INDIC DIGIT ONE}"])
def test_what_is_no_generation_is_no_version(etag: str) -> None:
    with pytest.raises(ObjectChangedError):
        messages.GENERATION.ask(etag)
    with pytest.raises(PreconditionFailedError) as caught:
        messages.conditions(PutOptions(if_match=etag), WHERE)
    assert caught.value.key == "key"


def test_conditions() -> None:
    assert messages.conditions(PutOptions(), WHERE) == []
    assert messages.conditions(PutOptions(if_none_match=True), WHERE) == [("ifGenerationMatch", "0")]
    assert messages.conditions(PutOptions(if_match='"17"'), WHERE) == [("ifGenerationMatch", "17")]


# Answers


def test_an_error_of_the_api() -> None:
    details = [{"domain": "global", "reason": "conditionNotMet", "message": "At least"}]
    body = json.dumps({"error": {"code": 412, "message": "At least", "errors": details}}).encode()
    said = messages.read_fault(412, {"x-guploader-uploadid": "id"}, body)
    assert said == Fault("conditionNotMet", "At least", "id")


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        (b"No such object: bucket/key", None, "No such object: bucket/key"),
        (b"<html>502</html>", None, None),
        (b"", None, None),
        (b"[]", None, "[]"),
        (b"{}", None, None),
        (b'{"error": "invalid_grant"}', "invalid_grant", None),
        (b'{"error": {"message": 3, "errors": [], "status": "NOT_FOUND"}}', "NOT_FOUND", None),
        (b'{"error": {"errors": [3]}}', None, None),
        (b"\xff" * 1000, None, "\ufffd" * 300),
    ],
)
def test_other_errors(body: bytes, code: str | None, message: str | None) -> None:
    assert messages.read_fault(500, {}, body) == Fault(code, message)


@given(st.binary(), st.integers(300, 599))
def test_any_body_of_an_error_can_be_read(body: bytes, status: int) -> None:
    assert (messages.read_fault(status, {}, body) is None) == (status == 308)


@pytest.mark.parametrize("status", [200, 204, 308])
def test_what_is_no_error(status: int) -> None:
    assert messages.read_fault(status, {}, b'{"error": {}}') is None


RESOURCE = {
    "name": "a/b",
    "size": "3",
    "generation": "17",
    "updated": "2026-11-23T01:02:03.456Z",
    "storageClass": "NEARLINE",
    "contentType": "a/b",
    "metadata": {"k": "v"},
}


def test_a_resource_is_metadata() -> None:
    meta = messages.object_meta(RESOURCE)
    moment = datetime(2026, 11, 23, 1, 2, 3, 456000, tzinfo=UTC)
    assert (meta.key, meta.size, meta.etag, meta.version, meta.last_modified) == ("a/b", 3, "17", "17", moment)
    assert (meta.storage_class, meta.content_type, meta.metadata) == ("NEARLINE", "a/b", {"k": "v"})


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"name": 3}, {"size": None}, {"size": "-1"}, {"size": "\u0663"}, {"size": "1.0"}]
)
def test_a_resource_without_name_or_size(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        messages.object_meta(RESOURCE | wrong)


def test_what_is_lacking_or_odd_is_unknown() -> None:
    odd = {"updated": "yesterday", "metadata": [], "contentType": 3, "generation": None}
    meta = messages.object_meta(RESOURCE | odd)
    assert (meta.last_modified, meta.metadata, meta.content_type, meta.etag) == (None, {}, None, None)


def test_stored_bytes_and_no_others() -> None:
    headers = {"x-goog-stored-content-length": "30", "x-goog-generation": "17", "content-encoding": "gzip"}
    assert messages.media_meta("key", headers, 30).etag == "17"
    with pytest.raises(ProtocolError, match="stored"):
        messages.media_meta("key", headers, 3000)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("crc32c=4waSgw==,md5=eB5eJF1ptWaXm4bijSPyxw==", 0xE3069283),
        ("md5=eB5eJF1ptWaXm4bijSPyxw==, crc32c=4waSgw==", 0xE3069283),
        ("crc32c=AAAAAA==", 0),
        ("md5=eB5eJF1ptWaXm4bijSPyxw==", None),
        ("", None),
        ("crc32c=AAAA", None),
        ("crc32c=not base64", None),
        ("crc32c=\xe9", None),
    ],
)
def test_hashes(header: str, value: int | None) -> None:
    assert messages.hash_header({"x-goog-hash": header}) == (None if value is None else StoredChecksum("CRC32C", value))


@given(st.integers(0, 2**32 - 1))
def test_checksums_come_back(value: int) -> None:
    assert read_checksum("CRC32C", messages.spell_crc32c(value)) == StoredChecksum("CRC32C", value)


def test_a_page_hides_parts_of_uploads_and_where_it_starts() -> None:
    names = ["a", "b", ".s3dlio-uploads/x/00001"]
    said = {"items": [RESOURCE | {"name": name} for name in names], "prefixes": [".s3dlio-uploads/", "c/"]}
    body = json.dumps(said | {"nextPageToken": "more"}).encode()
    page = messages.read_page(body, "", "a")
    assert ([meta.key for meta in page.objects], page.prefixes, page.token) == (["b"], ("c/",), "more")
    page = messages.read_page(body, ".s3dlio-uploads/", "")
    assert [meta.key for meta in page.objects] == names


@pytest.mark.parametrize("body", [b"", b"[]", b"<xml/>", b'{"items": {}}', b'{"items": [{}]}', b'{"prefixes": 3}'])
def test_what_is_no_page(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.read_page(body, "", "")


def test_copies() -> None:
    assert messages.read_rewrite(b'{"done": false, "rewriteToken": "t"}', "k") == messages.Rewriting("t", 0)
    going = b'{"rewriteToken": "t", "totalBytesRewritten": "17"}'
    assert messages.read_rewrite(going, "k") == messages.Rewriting("t", 17)
    done = b'{"done": true, "resource": {"name": "k", "generation": "5"}}'
    assert messages.read_rewrite(done, "k") == PutResult("5", "5")
    wrong = (
        b"{}",
        b'{"done": true}',
        b'{"done": true, "resource": []}',
        b'{"rewriteToken": ""}',
        done.replace(b"k", b"l"),
    )
    for body in wrong:
        with pytest.raises(ProtocolError):
            messages.read_rewrite(body, "k")


# Writing


@settings(deadline=None)  # the first checksum compiles its kernel
@given(
    st.binary(max_size=100),
    st.sampled_from([None, "text/plain", 'a/b; c="d"']),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
)
def test_an_upload_in_one_request(data: bytes, kind: str | None, metadata: dict[str, str]) -> None:
    wanted = messages.resource("a\r\nkey", PutOptions(kind, metadata), crc32c(data))
    head, body = messages.multipart(wanted, memoryview(data), "boundary-of-a-test")
    sent = message_from_bytes(f"content-type: {head}\r\n\r\n".encode() + b"".join(body), policy=policy.HTTP)
    described, content = sent.iter_parts()
    assert json.loads(described.get_content()) == wanted
    assert wanted.get("metadata", {}) == metadata
    assert wanted["crc32c"] == messages.spell_crc32c(crc32c(data))
    assert content["content-type"] == (kind or "application/octet-stream")
    assert b"".join(body).endswith(b"\r\n\r\n" + data + b"\r\n--boundary-of-a-test--\r\n")


@pytest.mark.parametrize("kind", ["a/b\r\n\r\n", "é"])
def test_a_content_type_stays_in_its_line(kind: str) -> None:
    with pytest.raises(InvalidKeyError):
        messages.resource("key", PutOptions(kind), 0)


def test_sessions() -> None:
    location = "https://storage.googleapis.com/upload/storage/v1/b/x/o?uploadType=resumable&upload_id=secret"
    target = ("/upload/storage/v1/b/x/o", "uploadType=resumable&upload_id=secret")
    assert messages.session_target({"location": location}) == target
    for headers in ({}, {"location": "https://host/path"}, {"location": "?a=b"}):
        with pytest.raises(ProtocolError) as caught:
            messages.session_target(headers)
        assert "host" not in str(caught.value)


@given(st.integers(0, 100), st.integers(1, 100))
def test_what_is_left_is_said_and_understood(first: int, size: int) -> None:
    said = messages.content_range(first, size)
    assert said == (f"bytes {first}-{size - 1}/{size}" if first < size else f"bytes */{size}")
    assert messages.persisted({"range": f"bytes=0-{first}"}) == first + 1
    assert messages.persisted({}) == 0


@pytest.mark.parametrize("said", ["", "bytes=5-9", "bytes 0-9", "bytes=0-", "bytes=0-x", "0-9"])
def test_what_no_server_can_have(said: str) -> None:
    with pytest.raises(ProtocolError):
        messages.persisted({"range": said})


# Composing


def test_parts_become_pieces() -> None:
    parts = [Part(1, messages.part_etag("17", 0xE3069283), 9), Part(7, messages.part_etag("18", 0), 0)]
    assert messages.pieces("id", parts, WHERE) == [
        Piece(".s3dlio-uploads/id/00001", "17", 0xE3069283, 9),
        Piece(".s3dlio-uploads/id/00007", "18", 0, 0),
    ]


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [Part(2, "17-00000000", 1), Part(1, "17-00000000", 1)],
        [Part(1, "17-00000000", 1)] * 2,
        [Part(1, "17", 1)],
        [Part(1, '"etag"', 1)],
    ],
    ids=["none", "backwards", "twice", "no checksum", "other"],
)
def test_parts_that_are_none(parts: list[Part]) -> None:
    with pytest.raises(RequestError) as caught:
        messages.pieces("id", parts, WHERE)
    assert caught.value.key == "key"


@settings(deadline=None)  # the first checksum compiles its kernel
@given(st.lists(st.binary(max_size=20), max_size=100))
def test_groups_hold_all_pieces_in_order(contents: list[bytes]) -> None:
    found = [Piece(str(n), "1", crc32c(data), len(data)) for n, data in enumerate(contents)]
    groups = messages.groups(found)
    assert [piece for group in groups for piece in group] == found
    assert all(1 <= len(group) <= 32 for group in groups)
    assert len(groups) == -(-len(found) // 32)
    assert messages.joined_crc32c(found) == crc32c(b"".join(contents))


def test_composing_names_the_versions() -> None:
    body = messages.compose_body([Piece("a", "17", 0, 1), Piece("b", "18", 0, 1)], {"name": "target"})
    assert json.loads(body) == {
        "sourceObjects": [{"name": "a", "generation": "17"}, {"name": "b", "generation": "18"}],
        "destination": {"name": "target"},
    }
