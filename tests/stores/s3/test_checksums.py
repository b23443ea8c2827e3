"""Which checksums that S3 tells are compared with what was read: on SeaweedFS, and by what other servers may say."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import boto3
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from trio.testing import MockClock

from s3dlio.alignment import Checksum
from s3dlio.config import Config
from s3dlio.errors import IntegrityError
from s3dlio.model import BoundedRange, GetOptions, StoredChecksum
from s3dlio.stores.s3 import checksums
from s3dlio.stores.s3.route import route
from s3dlio.stores.s3.store import S3Store
from s3dlio.stores.store import BytesSink
from s3dlio.transfer import ParallelStore

from ...servers.faults import Asked, Fault, FaultServer, Truth
from ...servers.seaweedfs import SeaweedFS
from ...transport.conftest import DATA, ROOT

ALGORITHMS = ["CRC32", "CRC32C", "CRC64NVME"]
PART = 5 << 20
each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)


def told(algorithm: str, data: bytes, **more: str) -> dict[str, str]:
    return {f"x-amz-checksum-{algorithm.lower()}": Checksum(algorithm, data).base64, **more}


def stored(algorithm: str, data: bytes) -> StoredChecksum:
    return StoredChecksum(algorithm, Checksum(algorithm, data).value)


FULL, COMPOSITE = {"x-amz-checksum-type": "FULL_OBJECT"}, {"x-amz-checksum-type": "COMPOSITE"}


# Headers


@given(
    st.sampled_from([*ALGORITHMS, "SHA1", "SHA256"]),
    st.sampled_from([0, 3, 4, 5, 8]).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
    st.sampled_from(["FULL_OBJECT", "COMPOSITE", "LATER", None]),
    st.booleans(),
    st.sampled_from(["", "-1", "-10000", "\xe9", " "]),
)
@example("CRC32", b"1234", None, True, "")
@example("CRC32", b"1234", "COMPOSITE", False, "")
def test_headers(algorithm: str, digest: bytes, kind: str | None, ranged: bool, ending: str) -> None:
    """What is compared with the object, what with the range, and that everything else is with nothing."""
    widths = {"CRC32": 4, "CRC32C": 4, "CRC64NVME": 8}
    headers = {"content-range": "bytes 0-9/20"} if ranged else {}
    headers |= {} if kind is None else {"x-amz-checksum-type": kind}
    headers[f"x-amz-checksum-{algorithm.lower()}"] = base64.b64encode(digest).decode() + ending
    known = not ending and widths.get(algorithm) == len(digest)
    value = StoredChecksum(algorithm, int.from_bytes(digest, "big")) if known else None
    whole = kind == "FULL_OBJECT" or (kind is None and not ranged)
    assert checksums.of_object(headers) == (value if whole else None)
    assert checksums.of_range(headers) == (value if ranged and kind == "COMPOSITE" else None)


async def test_they_are_asked_for_in_what_is_signed(server: FaultServer, store: S3Store) -> None:
    await store.get("key")
    await store.get_range("key", BoundedRange(0, 9))
    for asked in server.requests:
        assert asked.headers["x-amz-checksum-mode"] == "ENABLED"
        assert "x-amz-checksum-mode" in asked.headers["authorization"]


# Of one answer


@each_algorithm
@pytest.mark.parametrize("kind", [{}, FULL], ids=["untyped", "full"])
async def test_an_object_that_arrived_otherwise(
    server: FaultServer, store: S3Store, algorithm: str, kind: dict[str, str]
) -> None:
    """By the short way and by the long one: once, and it is received again; twice, and it is an error."""
    right = Fault(headers=told(algorithm, DATA, **kind))
    wrong = replace(right, body=DATA[:-1] + b"\0")
    await store.head("key")
    for way in (store.get, partial(fetched, store)):
        server.script.extend([wrong, right])
        assert await way("key") == DATA
        assert not server.script
        server.always = wrong
        with pytest.raises(IntegrityError, match="twice") as caught:
            await way("key")
        assert (caught.value.operation, caught.value.bucket, caught.value.key) == ("GetObject", "bucket", "key")
        server.always = Fault()


async def fetched(store: S3Store, key: str, byte_range: BoundedRange | None = None) -> bytes:
    await store.fetch(key, sink := BytesSink(), GetOptions(byte_range))
    return sink.data


async def test_what_is_received_again_is_of_the_same_version(server: FaultServer, store: S3Store) -> None:
    wrong = Fault(headers=told("CRC32C", DATA), body=DATA[::-1])
    server.script.append(wrong)
    assert await fetched(store, "key") == DATA
    again = server.requests[-1]
    assert again.headers["if-match"]
    assert again.range is None


@pytest.mark.parametrize("kind", [COMPOSITE, {}], ids=["composite", "untyped"])
async def test_a_checksum_made_of_checksums_is_not_compared(
    server: FaultServer, store: S3Store, kind: dict[str, str]
) -> None:
    server.always = Fault(headers={"x-amz-checksum-crc32": "AAAAAA==-1", **kind})
    await store.head("key")
    assert await store.get("key") == await fetched(store, "key") == DATA
    result = await store.fetch("key", BytesSink())
    assert (result.meta.checksum, result.verified) == (None, False)


@pytest.mark.parametrize(
    "etag", ['"d41d8cd98f00b204e9800998ecf8427e"', '"d41d8cd98f00b204e9800998ecf8427e-2"', '"opaque"', 'W/"weak"', None]
)
async def test_etags_that_look_like_another_md5(server: FaultServer, store: S3Store, etag: str | None) -> None:
    """As those of encrypted objects, of uploads in parts, and of other servers do."""
    server.always = Fault(headers={"etag": etag}, deaf_to=frozenset({"if-match"}))
    await store.head("key")
    assert await store.get("key") == await fetched(store, "key") == DATA
    assert await ParallelStore(store, part_size=1024, parts_in_flight=4).get("key") == DATA


async def test_an_unknown_algorithm_is_not_compared(server: FaultServer, store: S3Store) -> None:
    server.always = Fault(headers={"x-amz-checksum-sha256": "A" * 43 + "=", **FULL})
    result = await store.fetch("key", BytesSink())
    assert (result.meta.checksum, result.verified) == (None, False)


async def test_the_checksum_of_a_part_is_that_of_its_range(server: FaultServer, store: S3Store) -> None:
    """Not the object's; and where the server ignored the range, of nothing that was read."""
    part = BoundedRange(10, 30)
    right = Fault(headers=told("CRC32", DATA[10:30], **COMPOSITE))
    server.script.extend([replace(right, body=DATA[:20]), right])
    result = await store.fetch("key", sink := BytesSink(), GetOptions(part))
    assert (sink.data, result.meta.checksum, result.verified) == (DATA[10:30], None, True)
    assert server.requests[-1].range == "bytes=10-29"
    server.script.append(replace(right, deaf_to=frozenset({"range"})))
    result = await store.fetch("key", sink, GetOptions(part))
    assert (sink.data, result.verified) == (DATA[10:30], False)
    wider = {"content-range": "bytes 0-39/10240", **told("CRC32", DATA[:40], **COMPOSITE)}
    server.always = Fault(206, wider, DATA[:40])
    result = await store.fetch("key", sink, GetOptions(part))
    assert (sink.data, result.verified) == (DATA[10:30], False)
    server.script.append(replace(right, headers=told("CRC32", DATA[10:30])))
    assert not (await store.fetch("key", BytesSink(), GetOptions(part))).verified, "of a range, or of the object?"
    server.always = replace(right, body=DATA[:20])
    with pytest.raises(IntegrityError):
        await store.fetch("key", BytesSink(), GetOptions(part))


async def test_a_cut_body_is_compared_whole(clock: MockClock, server: FaultServer, store: S3Store) -> None:
    right = Fault(headers=told("CRC64NVME", DATA))
    server.script.extend([replace(right, cut=5000), Fault()])
    result = await store.fetch("key", sink := BytesSink())
    assert (sink.data, result.verified) == (DATA, True)
    server.script.extend([replace(right, cut=5000, body=b"\1" + DATA[1:]), Fault(), Fault()])
    await store.fetch("key", sink)
    assert sink.data == DATA
    assert [asked.range for asked in server.requests] == [None, "bytes=5000-10239"] * 2 + [None]


# Large objects


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever host is asked is taken for AWS."""
    monkeypatch.setattr("s3dlio.stores.s3.store.route", lambda *given: replace(route(*given), aws=True))


def telling_on_head(server: FaultServer, headers: dict[str, str]) -> Callable[[Asked, Fault], Truth]:
    """As AWS does: whoever asks for a range is told none."""
    honest = server.answer

    def answer(asked: Asked, fault: Fault) -> Truth:
        truth = honest(asked, fault)
        return replace(truth, headers={**truth.headers, **headers}) if asked.method == "HEAD" else truth

    return answer


async def read(store: ParallelStore, how: str) -> bytes:
    if how == "get_into":
        view = memoryview(bytearray(len(DATA)))
        await store.get_into("key", view)
        return bytes(view)
    return await store.get("key", known=await store.head("key") if how == "known" else None)


@each_algorithm
@pytest.mark.parametrize("how", ["get", "known", "get_into"])
async def test_aws_is_asked_for_the_checksum_of_what_is_read_in_ranges(
    server: FaultServer, store: S3Store, amazon: None, monkeypatch: pytest.MonkeyPatch, how: str, algorithm: str
) -> None:
    monkeypatch.setattr(server, "answer", telling_on_head(server, told(algorithm, DATA, **FULL)))
    parallel = ParallelStore(store, part_size=1024, parts_in_flight=4)
    for _ in range(2):
        server.requests.clear()
        assert await read(parallel, how) == DATA
        modes = [asked.headers.get("x-amz-checksum-mode") for asked in server.requests if asked.method == "HEAD"]
        assert modes.count("ENABLED") == 1
    server.objects[f"{ROOT}key"] = DATA[:-1] + b"\0"
    with pytest.raises(IntegrityError, match="twice"):
        await read(parallel, how)


@pytest.mark.parametrize("how", ["get", "known", "get_into"])
async def test_no_other_server_is_asked_for_it(server: FaultServer, store: S3Store, how: str) -> None:
    parallel = ParallelStore(store, part_size=1024, parts_in_flight=4)
    assert await read(parallel, how) == DATA
    assert sum(asked.method == "HEAD" for asked in server.requests) == (how == "known")


async def test_a_range_of_an_object_is_read_without_its_checksum(
    server: FaultServer, store: S3Store, amazon: None
) -> None:
    parallel = ParallelStore(store, part_size=1024, parts_in_flight=4)
    view = memoryview(bytearray(5000))
    await parallel.get_into("key", view, start=7)
    assert view == DATA[7:5007]
    assert all(asked.method == "GET" for asked in server.requests)


@pytest.mark.parametrize(
    "answer",
    [Truth(403), Truth(200, {**told("CRC32", DATA[1:], **FULL), "etag": '"newer"'}, DATA)],
    ids=["none", "other"],
)
async def test_a_checksum_that_cannot_be_learned_is_not_compared(
    server: FaultServer, store: S3Store, amazon: None, monkeypatch: pytest.MonkeyPatch, answer: Truth
) -> None:
    """As it is refused, or of another version."""
    honest = server.answer
    monkeypatch.setattr(
        server, "answer", lambda asked, fault: answer if asked.method == "HEAD" else honest(asked, fault)
    )
    parallel = ParallelStore(store, part_size=1024, parts_in_flight=4)
    assert await parallel.get("key") == DATA
    assert any(asked.method == "HEAD" for asked in server.requests)


# A real server


@pytest.fixture
def client(s3_environment: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    return boto3.client("s3")


@each_algorithm
async def test_an_object_that_was_put_with_a_checksum(shared_bucket: str, client: Any, algorithm: str) -> None:
    client.put_object(Bucket=shared_bucket, Key="key", Body=DATA, ChecksumAlgorithm=algorithm)
    async with S3Store(shared_bucket, Config()) as store:
        result = await store.fetch("key", BytesSink())
        assert (result.meta.checksum, result.verified) == (stored(algorithm, DATA), True)
        assert await store.get("key") == DATA
        await store.delete("key")


@pytest.mark.parametrize(("algorithm", "kind"), [("CRC64NVME", "FULL_OBJECT"), ("CRC32", "COMPOSITE")])
async def test_an_object_that_was_made_of_parts(
    amazon: None, shared_bucket: str, client: Any, algorithm: str, kind: str
) -> None:
    """What no answer to a range tells, and what its HEAD does."""
    data = DATA * 1200
    about = {"Bucket": shared_bucket, "Key": "key"}
    upload = client.create_multipart_upload(**about, ChecksumAlgorithm=algorithm, ChecksumType=kind)["UploadId"]
    made = [
        client.upload_part(**about, UploadId=upload, PartNumber=number, Body=body, ChecksumAlgorithm=algorithm)
        for number, body in ((1, data[:PART]), (2, data[PART:]))
    ]
    names = ("ETag", f"Checksum{algorithm}")
    parts = [{"PartNumber": number, **{name: part[name] for name in names}} for number, part in enumerate(made, 1)]
    client.complete_multipart_upload(**about, UploadId=upload, MultipartUpload={"Parts": parts})
    expected = stored(algorithm, data) if kind == "FULL_OBJECT" else None
    async with S3Store(shared_bucket, Config()) as store:
        result = await store.fetch("key", sink := BytesSink())
        assert (sink.data == data, result.meta.checksum, result.verified) == (True, expected, expected is not None)
        part = await store.fetch("key", BytesSink(), GetOptions(BoundedRange(0, PART)))
        assert part.meta.checksum is None
        seen = await store.look_up_checksum("key")
        assert seen is not None
        assert (seen.checksum, seen.etag) == (expected, part.meta.etag)
        assert await ParallelStore(store, part_size=PART, parts_in_flight=2).get("key") == data
        await store.delete("key")
