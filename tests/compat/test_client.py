"""The client by itself: its verbs on a real server, what it tells and is told, and its stand-in for users' tests."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest
import torch

from s3dlio import model
from s3dlio.compat.s3torchconnector import S3ClientConfig, S3Exception, S3ReaderConstructor
from s3dlio.compat.s3torchconnector._s3client import MockS3Client, S3Client
from s3dlio.compat.s3torchconnector._s3client._s3client import ListObjectStream
from s3dlio.compat.s3torchconnector._user_agent import UserAgent
from s3dlio.compat.s3torchconnector.objects import HeadObjectResult, ObjectInfo, RestoreStatus, known_meta
from s3dlio.compat.s3torchconnector.s3reader import RangedS3Reader
from s3dlio.config import MiB
from s3dlio.errors import ProfileNotFoundError, StoreError
from s3dlio.version import __version__

from ..servers.clouds import on_portal
from ..servers.faults import Fault, FaultServer, fault_server
from ..servers.seaweedfs import SeaweedFS

REGION = "us-east-1"


@pytest.fixture
def client(s3_environment: SeaweedFS) -> S3Client:
    return S3Client(REGION)


def _write(client: S3Client, bucket: str, key: str, data: bytes, storage_class: str | None = None) -> None:
    with client.put_object(bucket, key, storage_class) as writer:
        writer.write(data)


# Verbs


def test_an_object_from_its_writing_to_its_removal(client: S3Client, bucket: str) -> None:
    _write(client, bucket, "a/key +%20é", b"content")
    assert client.get_object(bucket, "a/key +%20é").read() == b"content"
    head = client.head_object(bucket, "a/key +%20é")
    assert (head.size, head.storage_class, head.restore_status) == (7, None, None)
    assert head.last_modified > 1_700_000_000
    (page,) = client.list_objects(bucket)
    (info,) = page.object_info
    assert (info.key, info.size, info.etag) == ("a/key +%20é", 7, head.etag)
    client.delete_object(bucket, "a/key +%20é")
    client.delete_object(bucket, "a/key +%20é")
    with pytest.raises(S3Exception, match="The object was not found"):
        client.head_object(bucket, "a/key +%20é")


def test_a_storage_class_is_kept(client: S3Client, bucket: str) -> None:
    _write(client, bucket, "small", b"content", "STANDARD_IA")
    _write(client, bucket, "large", bytes(9 * MiB), "STANDARD_IA")
    (page,) = client.list_objects(bucket)
    assert [info.storage_class for info in page.object_info] == ["STANDARD_IA", "STANDARD_IA"]
    assert client.head_object(bucket, "large").storage_class == "STANDARD_IA"


def test_what_a_listing_told_saves_a_request(client: S3Client, bucket: str) -> None:
    _write(client, bucket, "key", b"content")
    (page,) = client.list_objects(bucket)
    client.delete_object(bucket, "key")
    constructor = S3ReaderConstructor.range_based(10)
    reader = client.get_object(bucket, "key", object_info=page.object_info[0], reader_constructor=constructor)
    assert isinstance(reader, RangedS3Reader)
    assert reader.seek(0, os.SEEK_END) == 7


def test_a_copy_takes_a_quoted_key_and_may_cross_buckets(client: S3Client, s3_server: SeaweedFS, bucket: str) -> None:
    second = f"second-{uuid4()}"
    s3_server.create_bucket(second)
    _write(client, bucket, "a b/é%20", b"content")
    client.copy_object(bucket, "a%20b/%C3%A9%2520", bucket, "target %20")
    client.copy_object(bucket, "a%20b/%C3%A9%2520", second, "target %20")
    for place in (bucket, second):
        assert client.get_object(place, "target %20").read() == b"content"
    for source in ((bucket, "absent"), (second, "a%20b/%C3%A9%2520"), ("no-such-bucket", "key")):
        with pytest.raises(S3Exception) as caught:
            client.copy_object(*source, bucket, "target")
        assert str(caught.value) == "Service error: The object was not found"
    with pytest.raises(S3Exception, match="not a bucket name"):
        client.copy_object("", "target%20%2520", bucket, "target")
    with pytest.raises(S3Exception):
        client.head_object(bucket, "target")


def test_an_absent_bucket_has_the_known_texts(client: S3Client) -> None:
    listing = client.list_objects("no-such-bucket")
    for call, text in (
        (lambda: next(listing), "The bucket does not exist"),
        (lambda: client.get_object("no-such-bucket", "key").read(), "The bucket does not exist"),
        (lambda: client.head_object("no-such-bucket", "key"), "The object was not found"),
    ):
        with pytest.raises(S3Exception) as caught:
            call()
        assert str(caught.value) == f"Service error: {text}"


# Listings


@pytest.fixture
def filled(client: S3Client, bucket: str) -> list[str]:
    keys = [f"a/{number}" for number in range(5)] + ["b", "c/1"]
    for key in keys:
        _write(client, bucket, key, b"")
    return keys


@pytest.mark.parametrize("max_keys", [1, 2, 7, 1000, 5000])
def test_pages_hold_as_many_keys_as_asked_for(client: S3Client, bucket: str, filled: list[str], max_keys: int) -> None:
    pages = list(client.list_objects(bucket, max_keys=max_keys))
    assert [info.key for page in pages for info in page.object_info] == filled
    assert all(len(page.object_info) <= max_keys for page in pages)


def test_a_listing_has_a_prefix_and_a_delimiter(client: S3Client, bucket: str, filled: list[str]) -> None:
    (page,) = client.list_objects(bucket, delimiter="/")
    assert ([info.key for info in page.object_info], page.common_prefixes) == (["b"], ["a/", "c/"])
    (page,) = client.list_objects(bucket, "a/", "/")
    assert ([info.key for info in page.object_info], page.common_prefixes) == (filled[:5], [])
    (page,) = client.list_objects(bucket, "nothing")
    assert (page.object_info, page.common_prefixes) == ([], [])


def test_a_listing_goes_on_where_it_was_pickled(client: S3Client, bucket: str, filled: list[str]) -> None:
    listing = client.list_objects(bucket, "a/", max_keys=2)
    assert isinstance(listing, ListObjectStream)
    assert (listing.bucket, listing.prefix, listing.delimiter, listing.max_keys) == (bucket, "a/", "", 2)
    assert (listing.complete, listing.continuation_token) == (False, None)
    first = next(listing)
    assert not listing.complete
    assert listing.continuation_token
    arrived = pickle.loads(pickle.dumps(listing))
    rest = [info.key for page in arrived for info in page.object_info]
    assert [info.key for info in first.object_info] + rest == filled[:5]
    assert arrived.complete
    with pytest.raises(StopIteration):
        next(arrived)
    assert next(iter(listing)).object_info[0].key == filled[2]


def test_a_failed_page_can_be_asked_for_again(
    client: S3Client, bucket: str, filled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = client.list_objects(bucket, max_keys=4)
    next(listing)
    with monkeypatch.context() as patched:
        patched.setattr("s3dlio.blocking.store.BlockingStore.list_page", _fail)
        with pytest.raises(S3Exception, match="out of order"):
            next(listing)
    assert [info.key for page in listing for info in page.object_info] == filled[4:]


def _fail(*_: object, **__: object) -> None:
    raise StoreError("out of order")


@pytest.mark.parametrize(("max_keys", "kind"), [(-1, OverflowError), (1.5, TypeError), ("1", TypeError)])
def test_a_count_of_keys_is_checked_at_once(max_keys: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        S3Client(REGION).list_objects("bucket", max_keys=max_keys)


# What it says, and what it is told


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A server on the portal's own loop, with the environment that leads there."""
    with on_portal(fault_server()) as server:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_ENDPOINT_URL": server.endpoint,
        }.items():
            monkeypatch.setenv(name, value)
        server.objects["/bucket/key"] = b"content"
        yield server


def test_a_client_introduces_itself(server: FaultServer) -> None:
    plain, named = S3Client(REGION), S3Client(REGION, user_agent=UserAgent(["a program/1.0", "", "dcp"]))
    for client in (plain, named, pickle.loads(pickle.dumps(named))):
        server.requests.clear()
        assert client.get_object("bucket", "key").read() == b"content"
        _write(client, "bucket", "new", b"x")
        assert {asked.headers["user-agent"] for asked in server.requests} == {client.user_agent_prefix}
        assert client.user_agent_prefix.startswith(f"s3dlio/{__version__} ua/2.1 os/")
    assert "md/pytorch#" + torch.__version__ in plain.user_agent_prefix
    assert plain.user_agent_prefix == UserAgent.get_default_prefix() == UserAgent([]).prefix
    assert named.user_agent_prefix == f"{UserAgent.get_default_prefix()} (a program/1.0; dcp)"


@pytest.mark.parametrize("comment", ["two\nlines", "caf\u00e9"])
def test_a_comment_that_no_header_can_hold_is_refused_on_first_use(comment: str) -> None:
    client = S3Client(REGION, user_agent=UserAgent([comment]))
    with pytest.raises(S3Exception, match="invalid configuration: user_agent must be printable ASCII"):
        client.get_object("bucket", "key")


@pytest.mark.parametrize("comments", ["text", ("a",), {"a"}])
def test_comments_are_a_list(comments: Any) -> None:
    with pytest.raises(ValueError, match=r"must be a List\[str\]"):
        UserAgent(comments)


def test_archived_objects_are_told_of(server: FaultServer) -> None:
    client = S3Client(REGION)
    said = 'ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"'
    server.script.append(Fault(headers={"x-amz-restore": said, "x-amz-storage-class": "GLACIER"}))
    head = client.head_object("bucket", "key")
    assert (head.storage_class, head.restore_status) == ("GLACIER", RestoreStatus(False, 1356048000))
    entry = (
        b"<Contents><Key>key</Key><Size>1</Size><RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress>"
        b"</RestoreStatus></Contents>"
    )
    server.script.append(Fault(200, body=b"<ListBucketResult>" + entry + b"</ListBucketResult>"))
    (page,) = client.list_objects("bucket")
    assert page.object_info[0].restore_status == (True, None)


def test_a_profile_that_does_not_exist_has_the_known_text(server: FaultServer) -> None:
    client = S3Client(REGION, s3client_config=S3ClientConfig(profile="absent"))
    for call in (
        client.get_object("bucket", "key").read,
        lambda: client.head_object("bucket", "key"),
        lambda: list(client.list_objects("bucket")),
    ):
        with pytest.raises(S3Exception) as caught:
            call()
        assert str(caught.value).startswith("invalid AWS credentials: there is no profile 'absent' in ")
        assert isinstance(caught.value, PermissionError)
        assert isinstance(caught.value.__cause__, ProfileNotFoundError)
    assert server.requests == []


def test_a_client_does_nothing_before_it_is_used() -> None:
    config = S3ClientConfig(part_size=1)
    client = S3Client(None, endpoint="nonsense", s3client_config=config)
    assert (client.region, client.endpoint, client.s3client_config) == (None, "nonsense", config)
    assert S3Client(REGION).s3client_config == S3ClientConfig()
    with pytest.raises(S3Exception, match="part size"):
        client.get_object("bucket", "key")


# What is known of objects


def test_what_is_known_of_an_object_can_be_made_by_anybody() -> None:
    info = ObjectInfo("key", '"etag"', 5, 1_700_000_000, "GLACIER", RestoreStatus(False, 1_800_000_000))
    head = HeadObjectResult('"etag"', 5, 1_700_000_000, "GLACIER", RestoreStatus(True, None))
    assert (info.key, info.etag, info.size, info.last_modified) == ("key", '"etag"', 5, 1_700_000_000)
    assert (info.storage_class, info.restore_status) == ("GLACIER", (False, 1_800_000_000))
    assert (head.etag, head.size, head.restore_status) == ('"etag"', 5, RestoreStatus(True, None))
    bare = ObjectInfo(key="key", etag="", size=0, last_modified=0)
    assert (bare.etag, bare.last_modified, bare.storage_class, bare.restore_status) == ("", 0, None, None)
    assert ObjectInfo.of(model.ObjectMeta("key", 5)).last_modified == 0


def test_what_is_known_of_an_object_is_a_value() -> None:
    made = [ObjectInfo("key", '"etag"', 5, 7, None, RestoreStatus(False, 9)) for _ in range(2)]
    assert made[0] == made[1]
    assert hash(made[0]) == hash(made[1])
    assert pickle.loads(pickle.dumps(made[0])) == made[0]
    assert made[0] != ObjectInfo("key", '"etag"', 5, 7)
    assert made[0] != ObjectInfo("other", '"etag"', 5, 7, None, RestoreStatus(False, 9))
    head = HeadObjectResult('"etag"', 5, 7)
    assert pickle.loads(pickle.dumps(head)) == head
    assert head != ObjectInfo("", '"etag"', 5, 7)
    assert repr(made[0]).startswith("ObjectInfo(ObjectMeta(key='key', size=5")
    assert repr(head).startswith("HeadObjectResult(ObjectMeta(")


def test_readers_take_what_anybody_knows() -> None:
    class Size:
        size = 5

    assert known_meta("key", None) is None
    assert known_meta("key", Size()) == model.ObjectMeta("key", 5)
    info = ObjectInfo("key", '"etag"', 5, 7)
    assert known_meta("key", info) is info.meta


# The stand-in


@pytest.fixture
def mock() -> MockS3Client:
    made = MockS3Client(REGION, "bucket")
    made.add_object("a/1", b"one")
    made.add_object("a/2", b"two")
    return made


def test_a_mock_has_all_verbs_on_its_own_bucket(mock: MockS3Client) -> None:
    assert mock.get_object("bucket", "a/1").read() == b"one"
    _write(mock, "bucket", "b", b"written")
    mock.copy_object("bucket", "a/2", "bucket", "c")
    assert mock.head_object("bucket", "c").size == 3
    pages = list(mock.list_objects("bucket", max_keys=3))
    assert [[info.key for info in page.object_info] for page in pages] == [["a/1", "a/2", "b"], ["c"]]
    (page,) = mock.list_objects("bucket", delimiter="/")
    assert page.common_prefixes == ["a/"]
    mock.remove_object("a/1")
    mock.delete_object("bucket", "a/2")
    (page,) = mock.list_objects("bucket")
    assert [info.key for info in page.object_info] == ["b", "c"]
    with pytest.raises(S3Exception, match="The key does not exist"):
        mock.get_object("bucket", "a/1").read()
    with pytest.raises(S3Exception, match="The object was not found"):
        mock.head_object("bucket", "a/1")


def test_a_mock_knows_no_other_bucket(mock: MockS3Client) -> None:
    for call in (
        lambda: mock.get_object("other", "key"),
        lambda: mock.put_object("other", "key"),
        lambda: mock.list_objects("other"),
        lambda: mock.delete_object("other", "key"),
    ):
        with pytest.raises(S3Exception, match="The bucket does not exist"):
            call()
    with pytest.raises(S3Exception):
        mock.head_object("other", "key")
    with pytest.raises(S3Exception):
        mock.copy_object("other", "key", "bucket", "target")


def test_mocks_of_one_name_share_nothing(mock: MockS3Client) -> None:
    other = MockS3Client(REGION, "bucket", user_agent=UserAgent(["test"]), s3client_config=S3ClientConfig())
    (page,) = other.list_objects("bucket")
    assert page.object_info == []
    assert other.user_agent_prefix.endswith("(test)")
    arrived = pickle.loads(pickle.dumps(mock))
    assert arrived.get_object("bucket", "a/1").read() == b"one"


def test_a_mock_s_pages_may_be_empty(mock: MockS3Client) -> None:
    assert next(mock.list_objects("bucket", max_keys=0)).object_info == []


def test_a_mock_s_failed_write_leaves_the_old_object(mock: MockS3Client) -> None:
    with suppress(KeyError), mock.put_object("bucket", "a/1") as writer:
        writer.write(b"half")
        raise KeyError
    assert mock.get_object("bucket", "a/1").read() == b"one"
