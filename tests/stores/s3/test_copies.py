"""Copies on the server of objects that one request cannot copy: in parts, of one version, whole or not at all."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import MockClock

from s3dlio import parts, transfer
from s3dlio.config import Config, GiB, MiB
from s3dlio.copies import plan_copy
from s3dlio.errors import (
    BucketNotFoundError,
    ConnectionFailedError,
    NotFoundError,
    ObjectChangedError,
    ProtocolError,
    ServerError,
    StoreError,
    UnsupportedError,
    UploadNotFoundError,
)
from s3dlio.model import BoundedRange, Part, PartCopy, PutOptions, Upload
from s3dlio.parts import MAX_OBJECT, MAX_PART, MIN_PART
from s3dlio.stores.memory import MemoryStore
from s3dlio.stores.s3 import copying
from s3dlio.stores.s3.store import S3Store
from s3dlio.stores.wrapper import PrefixStore
from s3dlio.transfer import ParallelStore

from ...servers.clouds import WritableS3, serving
from ...servers.faults import NOTHING, Asked, Fault, Truth, error_body, etag_of, refusal
from ...servers.seaweedfs import SeaweedFS

SOURCE, TARGET = "/bucket/the source?", "/bucket/a target"
DATA = bytes(range(256)) * 4
"""Four parts."""
CANCELLED_AT = range(1, 8)
"""The requests of such a copy: HEAD, the beginning, four parts, the end."""


class CopyingS3(WritableS3):
    """Copies ranges of objects. All objects have the same `tags`, which are XML."""

    tags = ""

    def answer(self, asked: Asked, fault: Fault) -> Truth:
        query = parse_qs(urlsplit(asked.target).query, keep_blank_values=True)
        if "tagging" in query:
            return Truth(200, {}, f"<Tagging><TagSet>{self.tags}</TagSet></Tagging>".encode())
        if "x-amz-copy-source-range" in asked.headers and query["uploadId"][0] in self.uploads:
            return self._copy_part(asked, self.uploads[query["uploadId"][0]][1], int(query["partNumber"][0]))
        return super().answer(asked, fault)

    def _copy_part(self, asked: Asked, found: dict[int, bytes], number: int) -> Truth:
        source = unquote(asked.headers["x-amz-copy-source"])
        data = self.objects[source]
        if asked.headers["x-amz-copy-source-if-match"] != self.described.get(source, {}).get("etag", etag_of(data)):
            return Truth(412, {}, error_body("PreconditionFailed"))
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers["x-amz-copy-source-range"])
        assert match is not None
        found[number] = data[int(match[1]) : int(match[2]) + 1]
        return Truth(200, {}, f"<CopyPartResult><ETag>{etag_of(found[number])}</ETag></CopyPartResult>".encode())


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits at which a kilobyte is large."""
    monkeypatch.setattr(parts, "MIN_PART", 1)
    monkeypatch.setattr(parts, "MiB", 1)
    monkeypatch.setattr(transfer, "COPY_PART", 256)
    monkeypatch.setattr(copying, "MAX_COPY", 1000)


@pytest.fixture
async def server(small: None) -> AsyncIterator[CopyingS3]:
    async with serving(CopyingS3) as running:
        running.objects[SOURCE] = DATA
        yield running


@pytest.fixture
async def store(server: CopyingS3) -> AsyncIterator[ParallelStore]:
    inner = S3Store("bucket", Config(endpoint=server.endpoint, anonymous=True, max_attempts=3))
    async with ParallelStore(inner, part_size=1, parts_in_flight=2) as made:
        yield made


@pytest.fixture
def one_by_one(store: ParallelStore) -> ParallelStore:
    return ParallelStore(store.inner, part_size=1, parts_in_flight=1)


def sent(server: CopyingS3) -> list[str]:
    """Method and, where it has one, query of all requests."""
    return [f"{asked.method} {urlsplit(asked.target).query}".strip() for asked in server.requests]


# The plan


@given(st.integers(1, MAX_OBJECT), st.integers(1, 8 * GiB))
@example(5 * GiB + 1, MiB)
@example(MAX_OBJECT, MiB)
def test_a_plan_is_what_s3_takes(size: int, part_size: int) -> None:
    ranges = plan_copy(size, part_size)
    assert [piece.start for piece in ranges] == [0, *(piece.end for piece in ranges[:-1])]
    assert ranges[-1].end == size
    sizes = [piece.end - piece.start for piece in ranges]
    assert len(sizes) <= 10_000
    assert max(sizes) <= MAX_PART
    assert all(piece >= max(MIN_PART, min(part_size, MAX_PART)) for piece in sizes[:-1])


def test_which_sources_are_large() -> None:
    headers = {"content-length": "11", "etag": '"1"'}
    found = copying.large_source(headers, 10)
    assert found is not None
    assert (found.etag, found.size, found.tagged) == ('"1"', 11, False)
    assert copying.large_source(headers, 11) is None
    assert copying.large_source({**headers, "etag": 'W/"1"'}, 10) is None, "no copy can be held to that"
    assert copying.large_source({"content-length": "11"}, 10) is None
    assert copying.large_source({"etag": '"1"'}, 10) is None


# A copy


async def test_a_large_object_is_copied_in_parts(server: CopyingS3, store: ParallelStore) -> None:
    made = await store.copy("the source?", "a target")
    assert server.objects[TARGET] == DATA
    assert made.etag == server.described[TARGET]["etag"]
    upload = "uploadId=upload-1"
    numbered = [f"PUT partNumber={number}&{upload}" for number in range(1, 5)]
    assert sent(server)[:2] == ["HEAD", "POST uploads="]
    assert sorted(sent(server)[2:-1]) == numbered
    assert sent(server)[-1] == f"POST {upload}"
    assert not server.uploads
    assert {asked.headers["x-amz-copy-source"] for asked in server.requests[2:-1]} == {"/bucket/the%20source%3F"}
    assert all(not asked.body for asked in server.requests[:-1])


async def test_a_small_object_is_copied_in_one_request(server: CopyingS3, store: ParallelStore) -> None:
    server.objects[SOURCE] = DATA[:1000]
    await store.copy("the source?", "a target")
    assert server.objects[TARGET] == DATA[:1000]
    assert sent(server) == ["HEAD", "PUT"]


async def test_what_describes_the_source_describes_its_copy(server: CopyingS3, store: ParallelStore) -> None:
    described = {
        "content-type": "application/x-test",
        "content-encoding": "br",
        "cache-control": "no-store",
        "x-amz-meta-name": "value",
    }
    own = {"x-amz-storage-class": "GLACIER_IR", "x-amz-version-id": "3", "server": "S3"}
    server.tags = "<Tag><Key>a b</Key><Value>1/2</Value></Tag><Tag><Key>empty</Key><Value/></Tag>"
    server.script.append(Fault(headers={**described, **own, "x-amz-tagging-count": "2"}))
    await store.copy("the source?", "a target")
    assert sent(server)[:3] == ["HEAD", "GET tagging=", "POST uploads="]
    begun = server.requests[2].headers
    assert {name: begun[name] for name in described} == described
    assert begun["x-amz-tagging"] == "a%20b=1%2F2&empty="
    assert not set(own) & set(begun)


async def test_the_source_may_be_in_another_bucket_and_the_store_below_a_prefix(
    server: CopyingS3, store: ParallelStore
) -> None:
    server.objects["/another/key"] = DATA
    below = ParallelStore(PrefixStore(store.inner, "below/"), part_size=1, parts_in_flight=2)
    await below.copy("key", "copied", source_bucket="another")
    await below.copy("copied", "again")
    assert server.objects["/bucket/below/copied"] == server.objects["/bucket/below/again"] == DATA
    assert server.requests[0].target == "/another/key"


async def test_an_absent_source_is_told_by_the_copy(server: CopyingS3, store: ParallelStore) -> None:
    server.script += [Fault(404, body=b""), refusal(404, "NoSuchBucket")]
    with pytest.raises(BucketNotFoundError):
        await store.copy("key", "a target", source_bucket="absent")
    with pytest.raises(NotFoundError) as caught:
        await store.copy("absent", "a target")
    assert (caught.value.operation, caught.value.code) == ("CopyObject", "NoSuchKey")
    for status in (400, 403):
        server.script += [Fault(status, body=b""), Fault()]
        await store.copy("the source?", "a target")
        assert server.objects.pop(TARGET) == DATA, "who may copy and not look copies"


async def test_parts_are_within_the_limit_of_the_store(server: CopyingS3, store: ParallelStore) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(store.copy, "the source?", f"target {number}")
    assert all(server.objects[f"/bucket/target {number}"] == DATA for number in range(3))
    async with trio.open_nursery() as nursery:
        server.always = Fault(stall=NOTHING)
        server.script += [Fault(), Fault()]
        before = len(server.requests)
        nursery.start_soon(store.copy, "the source?", "stalled")
        while len(server.requests) < before + 4:
            await trio.testing.wait_all_tasks_blocked(0.005)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(server.requests) == before + 4, "two parts are under way"
        nursery.cancel_scope.cancel()


# What goes wrong


WRONG = {
    # how often it is met before it is the error
    "refused": (refusal(403, "AccessDenied"), 1, PermissionError),
    "an error in a success": (Fault(200, body=error_body("InternalError")), 3, ServerError),
    "a success of nothing": (Fault(200, body=b""), 3, ProtocolError),
    "a success of something else": (
        Fault(200, body=b"<CopyObjectResult><ETag>1</ETag></CopyObjectResult>"),
        3,
        ProtocolError,
    ),
    "a part without an etag": (Fault(200, body=b"<CopyPartResult/>"), 3, ProtocolError),
    "no answer": (Fault(cut=NOTHING), 4, ConnectionFailedError),
    "a changed source": (refusal(412, "PreconditionFailed"), 1, ObjectChangedError),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("at", [2, 5])
async def test_a_part_that_fails_fails_the_copy(
    clock: MockClock, server: CopyingS3, one_by_one: ParallelStore, wrong: str, at: int
) -> None:
    fault, times, expected = WRONG[wrong]
    server.script += [Fault()] * at + [fault] * times
    with pytest.raises(expected) as caught:
        await one_by_one.copy("the source?", "a target")
    assert isinstance(caught.value, StoreError)
    assert caught.value.operation == "UploadPartCopy"
    assert TARGET not in server.objects
    assert not server.uploads


@pytest.mark.parametrize(
    "fault", [Fault(200, body=error_body("InternalError")), Fault(cut=NOTHING), Fault(200, body=b"<CopyPartResult/>")]
)
async def test_a_part_is_copied_again(clock: MockClock, server: CopyingS3, store: ParallelStore, fault: Fault) -> None:
    server.script += [Fault()] * 3 + [fault]
    await store.copy("the source?", "a target")
    assert server.objects[TARGET] == DATA


async def test_a_source_that_is_replaced_is_not_mixed(
    monkeypatch: pytest.MonkeyPatch, server: CopyingS3, one_by_one: ParallelStore
) -> None:
    async def replaced(store: S3Store, copy: PartCopy, number: int, byte_range: BoundedRange) -> Part:
        if number == 3:
            server.objects[SOURCE] = bytes(len(DATA))
        return await copied(store, copy, number, byte_range)

    copied = S3Store.copy_part
    monkeypatch.setattr(S3Store, "copy_part", replaced)
    with pytest.raises(ObjectChangedError):
        await one_by_one.copy("the source?", "a target")
    assert TARGET not in server.objects
    assert not server.uploads


@pytest.mark.parametrize(
    "fault",
    [
        Fault(200, body=error_body("InternalError")),
        Fault(200, body=b"<CompleteMultipartUploadResult/>"),
        Fault(200, body=b"hello"),
    ],
)
async def test_an_end_that_shows_nothing_is_none(
    clock: MockClock, server: CopyingS3, store: ParallelStore, fault: Fault
) -> None:
    """Here it has ended the upload all the same: what is asked again has to be told by the object."""
    server.script += [Fault()] * 6 + [fault]
    await store.copy("the source?", "a target")
    assert sent(server)[-1] == "HEAD"
    server.script += [Fault()] * 6 + [fault, Fault(), Fault(headers={"content-length": "1"})]
    with pytest.raises(UploadNotFoundError):
        await store.copy("the source?", "a target")
    assert sent(server)[-1].startswith("DELETE")


@pytest.mark.parametrize("at", CANCELLED_AT)
async def test_a_copy_that_is_cancelled_leaves_nothing(
    clock: MockClock, server: CopyingS3, one_by_one: ParallelStore, at: int
) -> None:
    server.script += [*[Fault()] * (at - 1), Fault(stall=NOTHING)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one_by_one.copy, "the source?", "a target")
        while len(server.requests) < at:
            await trio.testing.wait_all_tasks_blocked(0.005)
        nursery.cancel_scope.cancel()
    assert len(server.requests) == at + (at > 2)
    assert at <= 2 or sent(server)[-1].startswith("DELETE")


async def test_stores_that_have_no_such_copies() -> None:
    store = MemoryStore()
    assert await store.begin_copy("a", "b") is None
    with pytest.raises(UnsupportedError):
        await store.copy_part(PartCopy(Upload("b", "1", PutOptions()), "x", "a", "1", 5), 1, BoundedRange(0, 5))


# A real server


async def test_a_real_server_copies_in_parts(
    s3_environment: SeaweedFS, shared_bucket: str, second_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    monkeypatch.setattr(copying, "MAX_COPY", 10 * MiB)
    monkeypatch.setattr(transfer, "COPY_PART", MIN_PART)
    data = bytes(range(256)) * (12 * MiB // 256) + b"the end"
    options = PutOptions("application/x-test", {"name": "value"})
    async with (
        ParallelStore(S3Store(shared_bucket, Config()), part_size=MIN_PART, parts_in_flight=2) as store,
        ParallelStore(S3Store(second_bucket, Config()), part_size=MIN_PART, parts_in_flight=2) as second,
    ):
        await store.put("a folder/the source?+%20&é", data, options)
        for target, bucket in ((store, None), (second, shared_bucket)):
            made = await target.copy("a folder/the source?+%20&é", "a target", source_bucket=bucket)
            head = await target.head("a target")
            assert await target.get("a target") == data
            assert (head.etag, head.size) == (made.etag, len(data))
            assert (head.content_type, dict(head.metadata)) == (options.content_type, dict(options.metadata))
            assert made.etag is not None
            assert made.etag.endswith('-3"'), "in three parts"
            await target.delete("a target")
        await store.delete("a folder/the source?+%20&é")
