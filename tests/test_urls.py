from __future__ import annotations

import pickle

import pytest

from s3dlio.config import Config
from s3dlio.errors import ConfigError, InvalidUriError
from s3dlio.stores.memory import MemoryStore
from s3dlio.stores.wrapper import PrefixStore
from s3dlio.urls import Uri, open_store, parse_object_uri, parse_uri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://b", Uri("s3", "b", "")),
        ("s3://b/", Uri("s3", "b", "")),
        ("s3://b/key", Uri("s3", "b", "key")),
        ("s3://b/folder/", Uri("s3", "b", "folder/")),
        ("s3://b//two//slashes/", Uri("s3", "b", "/two//slashes/")),
        ("s3://b/%20 a+b?c=d&e#f@g:h/../é漢", Uri("s3", "b", "%20 a+b?c=d&e#f@g:h/../é漢")),
        ("s3://b/s3://other/key", Uri("s3", "b", "s3://other/key")),
        ("memory://name/key", Uri("memory", "name", "key")),
    ],
)
def test_a_uri_is_taken_literally(uri: str, expected: Uri) -> None:
    parsed = parse_uri(uri)
    assert parsed == expected
    assert str(parsed) == (uri if "/" in uri[5:] else f"{uri}/")
    assert parsed.root == f"{expected.scheme}://{expected.bucket}"


@pytest.mark.parametrize(
    "uri", ["", "b/key", "/tmp/file", "s3:/b/key", "s3:b", "ftp://b/key", "S3://b", "s3://", "s3:///k"]
)
def test_what_is_no_uri_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="URI") as caught:
        parse_uri(uri)
    assert isinstance(caught.value, InvalidUriError)
    assert repr(uri).rstrip("'") in str(caught.value)


@pytest.mark.parametrize("parts", [("ftp", "b", "key"), ("", "b", "key"), ("s3", "", "key"), ("file", "", "")])
def test_parts_are_of_a_known_scheme_and_name_a_bucket(parts: tuple[str, str, str]) -> None:
    with pytest.raises(InvalidUriError, match="URI"):
        Uri(*parts)


def test_parts_are_a_value() -> None:
    parsed = parse_uri("s3://b/key")
    assert pickle.loads(pickle.dumps(parsed)) == parsed
    assert {parsed: 1}[Uri("s3", "b", "key")] == 1


def test_an_unknown_scheme_is_told_the_known_ones() -> None:
    with pytest.raises(InvalidUriError, match="s3://, az://, abfss://, gs://, file://, direct://, memory://"):
        parse_uri("s4://b/key")


@pytest.mark.parametrize("uri", ["s3://b", "s3://b/"])
def test_an_object_needs_a_key(uri: str) -> None:
    with pytest.raises(InvalidUriError, match="no key"):
        parse_object_uri(uri)
    assert parse_object_uri("s3://b/k").key == "k"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://user:CANARY@bucket/key",
        "s3://CANARY@bucket",
        "s3://user:CAN?ARY@bucket/CANARY",
        "ftp://user:CANARY@host/key",
        "https://bucket.s3.amazonaws.com/key?X-Amz-Signature=CANARY",
        "https://host/k@y?X-Amz-Signature=CANARY",
        "https://host/key?X-Amz-Signature=CANARY@1",
        "s3://bucket?X-Amz-Signature=CANARY",
        "s3://?CANARY",
    ],
)
def test_no_secret_in_a_uri_is_shown(uri: str) -> None:
    with pytest.raises(InvalidUriError) as caught:
        open_store(uri)
    assert "CAN" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize("scheme", ["s3", "gs", "memory"])
@pytest.mark.parametrize("bucket", ["user:CANARY@bucket", "bucket?sig=CANARY"])
def test_no_secret_in_the_parts_of_a_uri_is_shown(scheme: str, bucket: str) -> None:
    with pytest.raises(InvalidUriError) as caught:
        open_store(Uri(scheme, bucket, "key"))
    assert "CAN" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize("bucket", ["a..b", "-a", "a b", "a%2Fb", "a#b", "ü", "a\\b", "x" * 256])
def test_a_bucket_that_would_change_the_request_is_refused(bucket: str) -> None:
    with pytest.raises(InvalidUriError, match="bucket"):
        open_store(f"s3://{bucket}/key")


@pytest.mark.parametrize("uri", ["memory://b/train", "memory://b/train/"])
async def test_a_path_is_a_folder(uri: str) -> None:
    async with open_store(uri) as store:
        await store.put("a.jpg", b"content")
        assert isinstance(store.inner, PrefixStore)
        assert await store.inner.inner.get("train/a.jpg") == b"content"
        assert [meta.key async for page in store.list() for meta in page.objects] == ["a.jpg"]
        assert store.uri == "memory://b/train/"


@pytest.mark.parametrize("uri", ["memory://b", "memory://b/"])
async def test_without_a_path_keys_are_the_buckets(uri: str) -> None:
    async with open_store(uri) as store:
        assert isinstance(store.inner, MemoryStore)
        assert store.uri == "memory://b"


async def test_parts_are_opened_as_they_are() -> None:
    async with open_store(Uri("memory", "b/not/cut", "train")) as store:
        assert isinstance(store.inner, PrefixStore)
        assert (store.inner.inner.uri, store.inner.prefix) == ("memory://b/not/cut", "train/")


def test_settings_reach_the_store() -> None:
    assert open_store("memory://b", part_size=123).part_size == 123
    assert open_store("memory://b", Config(part_size=456)).part_size == 456
    with pytest.raises(TypeError, match="not both"):
        open_store("memory://b", Config(), part_size=123)
    with pytest.raises(TypeError, match="part_sise"):
        open_store("memory://b", part_sise=123)
    with pytest.raises(ConfigError, match="part_size"):
        open_store("memory://b", part_size=-1)
