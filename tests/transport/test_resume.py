"""Bodies that break off: what is asked for next, and that no byte is lost, shifted or taken from another version."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from s3dlio.config import Config
from s3dlio.errors import ConnectionFailedError, ObjectChangedError, ProtocolError, RangeError, StoreError
from s3dlio.model import BoundedRange, GetRange, GetResult, OffsetRange, SuffixRange
from s3dlio.stores.s3.store import S3Store
from s3dlio.transfer import ParallelStore

from ..servers.faults import NOTHING, Fault, FaultServer, cutting_proxy, etag_of
from ..servers.seaweedfs import SeaweedFS
from .conftest import ROOT
from .test_uploads import open_cloud

SIZE = 1_000_003
BIG = random.Random(1).randbytes(SIZE)
OTHER = random.Random(2).randbytes(SIZE)
FIRST_READ, LOW_WATER = 16 << 10, 512 << 10
CUTS = [0, 1, FIRST_READ - 1, FIRST_READ, FIRST_READ + 1, LOW_WATER - 1, LOW_WATER, LOW_WATER + 1, SIZE - 1]

RANGES: list[tuple[GetRange, int, int]] = [
    (BoundedRange(5, 700_000), 5, 700_000),
    (OffsetRange(17), 17, SIZE),
    (SuffixRange(900_000), SIZE - 900_000, SIZE),
]


@pytest.fixture
async def big(server: FaultServer) -> FaultServer:
    """The server, with an object of :data:`SIZE` bytes."""
    server.objects[f"{ROOT}big"] = BIG
    return server


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_a_cut_body_is_continued(big: FaultServer, store: S3Store, cut: int, *, reset: bool) -> None:
    big.script += [Fault(cut=cut, reset=reset)]
    assert await store.get("big") == BIG
    first, second = big.requests
    assert (first.range, first.headers.get("if-match")) == (None, None)
    assert second.headers["if-match"] == etag_of(BIG)
    if not reset:  # RST may overtake bytes that were sent
        assert second.range == (f"bytes={cut}-{SIZE - 1}" if cut else None)
        assert big.body_bytes_sent == SIZE


@pytest.mark.parametrize(("byte_range", "start", "end"), RANGES)
async def test_a_cut_range_is_continued(
    big: FaultServer, store: S3Store, byte_range: GetRange, start: int, end: int
) -> None:
    big.script += [Fault(cut=100_000), Fault(cut=1), Fault(cut=0)]
    assert await store.get_range("big", byte_range) == BIG[start:end]
    asked = [request.range for request in big.requests]
    assert asked[1:] == [f"bytes={start + done}-{end - 1}" for done in (100_000, 100_001, 100_001)]
    assert big.body_bytes_sent == end - start


async def test_progress_starts_the_count_of_attempts_anew(clock: MockClock, big: FaultServer, store: S3Store) -> None:
    big.script += [Fault(cut=50_000)] * 15
    assert await store.get("big") == BIG
    assert len(big.requests) == 16
    assert big.body_bytes_sent == SIZE


async def test_no_progress_ends_it(clock: MockClock, big: FaultServer, store: S3Store) -> None:
    big.script += [Fault(cut=50_000)]
    big.always = Fault(cut=0)
    with pytest.raises(ConnectionFailedError) as caught:
        await store.get("big")
    assert caught.value.attempts == len(big.requests) == 3


async def test_a_short_body_with_a_clean_end(clock: MockClock, big: FaultServer, store: S3Store) -> None:
    """The head promises one byte more than the object has, and the connection ends as it should."""
    big.always = Fault(headers={"content-length": str(SIZE + 1)}, deaf_to=frozenset({"range"}), hang_up=True)
    with pytest.raises(StoreError) as caught:
        await store.get("big")
    assert isinstance(caught.value, ConnectionFailedError | ProtocolError)
    assert caught.value.attempts == len(big.requests) == 3


@pytest.mark.parametrize(
    "deaf_to",
    [
        pytest.param(frozenset[str](), id="412"),
        pytest.param(frozenset({"if-match"}), id="206 of another version"),
        pytest.param(frozenset({"if-match", "range"}), id="200 of another version"),
    ],
)
@pytest.mark.parametrize("size", [SIZE, SIZE + 1, SIZE - 1, 1000, 0])
async def test_another_version_is_never_mixed_in(
    big: FaultServer, store: S3Store, deaf_to: frozenset[str], size: int
) -> None:
    view = bytearray(SIZE)
    big.script += [Fault(cut=300_000), Fault(deaf_to=deaf_to)]

    def replace_and_fill(coming: GetResult) -> memoryview:
        big.objects[f"{ROOT}big"] = (OTHER + b"!")[:size]
        return memoryview(view)

    with pytest.raises(ObjectChangedError) as caught:
        await store.fetch("big", replace_and_fill)
    assert len(big.requests) == 2
    assert (caught.value.key, caught.value.attempts) == ("big", 2)
    assert view[:300_000] == BIG[:300_000]
    assert not any(view[300_000:])


@pytest.mark.parametrize("etag", [None, '"same"'])
async def test_versions_without_a_telling_etag(big: FaultServer, store: S3Store, etag: str | None) -> None:
    """The time of the change tells them apart where nothing else does; an etag that says they are one is believed."""
    new = {"etag": etag, "last-modified": "Tue, 24 Nov 2026 01:02:03 GMT"}
    big.script += [Fault(cut=1000, headers={"etag": etag}), Fault(headers=new, deaf_to=frozenset({"if-match"}))]
    if etag is None:
        with pytest.raises(ObjectChangedError):
            await store.get("big")
    else:
        assert await store.get("big") == BIG


async def test_a_pinned_read_of_a_replaced_object(big: FaultServer, store: S3Store) -> None:
    with pytest.raises(ObjectChangedError):
        await store.get("big", if_match=etag_of(OTHER))
    big.always = Fault(deaf_to=frozenset({"if-match"}))
    with pytest.raises(ObjectChangedError, match=etag_of(BIG)):
        await store.get("big", if_match=etag_of(OTHER))
    assert len(big.requests) == 2


WRONG_RANGES: dict[str, str | None] = {
    "missing": None,
    "shifted": "bytes 11-20/1000003",
    "too early": "bytes 9-18/1000003",
    "reversed": "bytes 19-10/1000003",
    "shorter than the body": "bytes 10-14/1000003",
    "longer than the body": "bytes 10-24/1000003",
    "past the size": "bytes 10-19/15",
    "no size": "bytes 10-19/*",
    "another unit": "lines 10-19/1000003",
    "nonsense": "10 to 19",
    "of no size that can be": "bytes 10-19/9223372036854775807",
    "huge": f"bytes 10-{'9' * 5000}/{'9' * 5000}",
    "not ASCII": "bytes 10-1\N{SUPERSCRIPT ONE}/1000003",
}


@pytest.mark.parametrize("name", WRONG_RANGES)
async def test_wrong_ranges_are_refused(clock: MockClock, big: FaultServer, store: S3Store, name: str) -> None:
    view = memoryview(bytearray(10))
    big.always = Fault(headers={"content-range": WRONG_RANGES[name]})
    with pytest.raises(ProtocolError) as caught:
        await store.get_into("big", view, start=10)
    assert not any(view)
    assert (caught.value.operation, caught.value.key, caught.value.attempts) == ("GetObject", "big", 3)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(
    ("byte_range", "start", "end"),
    [*RANGES, (BoundedRange(10, 20), 10, 20), (SuffixRange(7), SIZE - 7, SIZE), (BoundedRange(0, SIZE), 0, SIZE)],
)
async def test_the_whole_object_for_a_range(
    big: FaultServer, store: S3Store, byte_range: GetRange, start: int, end: int, *, chunked: bool
) -> None:
    """The wanted part of it is delivered; the rest is not waited for."""
    pieces = [BIG[:500_000], BIG[500_000:]] if chunked else None
    big.always = Fault(deaf_to=frozenset({"range"}), pieces=pieces)
    for _ in range(2):
        assert await store.get_range("big", byte_range) == BIG[start:end]
    assert len(big.requests) == 2
    assert big.connections == (1 if chunked or end == SIZE else 2)


async def test_a_part_that_is_larger_than_asked_for(big: FaultServer, store: S3Store) -> None:
    """Some servers answer with whole blocks."""
    big.always = Fault(206, {"content-range": f"bytes 0-99999/{SIZE}"}, BIG[:100_000])
    assert await store.get_range("big", BoundedRange(10, 20)) == BIG[10:20]


async def test_the_whole_object_instead_of_its_rest(big: FaultServer, store: S3Store) -> None:
    big.script += [Fault(cut=300_000)]
    big.always = Fault(deaf_to=frozenset({"range"}))
    assert await store.get("big") == BIG
    assert len(big.requests) == 2


async def test_a_whole_object_that_breaks_off_before_the_wanted_part(big: FaultServer, store: S3Store) -> None:
    deaf = Fault(deaf_to=frozenset({"range"}))
    big.script += [replace(deaf, cut=100_000), replace(deaf, cut=600_010)]
    big.always = deaf
    assert await store.get_range("big", BoundedRange(600_000, 700_000)) == BIG[600_000:700_000]
    assert [asked.range for asked in big.requests] == [
        "bytes=600000-699999",
        "bytes=600000-699999",
        "bytes=600010-699999",
    ]


async def test_weak_etags(big: FaultServer, store: S3Store) -> None:
    """No version matches one, says RFC 9110: a server that is asked for it answers 412."""
    weak = f"W/{etag_of(BIG)}"
    big.script += [Fault(headers={"etag": weak}, cut=300_000), Fault(headers={"etag": weak})]
    assert await store.get("big") == BIG
    assert ["if-match" in asked.headers for asked in big.requests] == [False, False]
    big.script += [Fault(headers={"etag": weak})]
    assert await store.get("big", if_match=weak) == BIG
    big.script += [Fault(headers={"etag": f"W/{etag_of(OTHER)}"})]
    with pytest.raises(ObjectChangedError):
        await store.get("big", if_match=weak)


@pytest.mark.parametrize("cloud", ["s3", "azure", "gcs"])
@pytest.mark.parametrize("size", [2**60, 2**62 - 1])
async def test_a_length_that_no_memory_holds(big: FaultServer, cloud: str, size: int) -> None:
    big.always = Fault(200, {"content-length": str(size), "etag": '"1"', "x-goog-generation": "1"}, b"x")
    ranged = Fault(206, {"content-range": f"bytes 0-0/{size}", "etag": '"1"', "x-goog-generation": "1"}, b"x")
    async with open_cloud(cloud, big.endpoint) as store:
        with pytest.raises(StoreError) as caught:
            await store.get("big")
        assert not isinstance(caught.value, ConnectionFailedError)
        assert (caught.value.key, caught.value.attempts) == ("big", 1)
        big.always = ranged
        with pytest.raises(StoreError, match="no memory"):
            await ParallelStore(store, part_size=1, parts_in_flight=1).get("big")


async def test_a_success_with_a_range(big: FaultServer, store: S3Store) -> None:
    """Some servers answer 200 where 206 is meant; the range they name counts."""
    big.always = Fault(status=200, headers={"content-range": f"bytes 10-19/{SIZE}"}, body=BIG[10:20])
    assert await store.get_range("big", BoundedRange(10, 20)) == BIG[10:20]


@pytest.mark.parametrize("size", [0, 1000])
async def test_an_empty_part_past_the_end(server: FaultServer, store: S3Store, size: int) -> None:
    """Some servers answer a range that begins at the end with 206 and nothing."""
    server.always = Fault(206, {"content-range": f"bytes {size}-{size - 1}/{size}"}, b"")
    with pytest.raises(RangeError):
        await store.get_range("key", OffsetRange(size))


async def test_chunked_objects(big: FaultServer, store: S3Store) -> None:
    pieces = [BIG[:1], BIG[1:20_000], BIG[20_000:]]
    big.always = Fault(pieces=pieces)
    assert await store.get("big") == BIG
    big.always = Fault(pieces=[BIG[5:10], BIG[10:17]])
    assert await store.get_range("big", BoundedRange(5, 17)) == BIG[5:17]
    assert big.connections == 1


async def test_a_cut_chunked_object_is_read_again(big: FaultServer, store: S3Store) -> None:
    big.script += [Fault(pieces=[BIG[:700_000], BIG[700_000:]], cut=900_000)]
    assert await store.get("big") == BIG
    assert [asked.range for asked in big.requests] == [None, None]


async def test_an_object_without_a_length(clock: MockClock, big: FaultServer, store: S3Store) -> None:
    """Its end is the connection's, and so is a cut: the two cannot be told apart."""
    big.always = Fault(headers={"content-length": None}, hang_up=True)
    with pytest.raises(ProtocolError, match="length"):
        await store.get("big")


async def test_a_missing_object_is_not_asked_for_again(big: FaultServer, store: S3Store) -> None:
    big.script += [Fault(cut=5), Fault(404)]
    with pytest.raises(FileNotFoundError):
        await store.get("big")
    assert len(big.requests) == 2


async def test_a_real_server_behind_a_bad_network(
    s3_environment: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SESSION_TOKEN")
    port = int(s3_environment.endpoint.rpartition(":")[2])
    cuts = [0, 100, 700, 5_000, 300_000, 800_000, 100_000, 1]
    async with (
        cutting_proxy(port, cuts) as endpoint,
        S3Store(bucket, Config(endpoint=s3_environment.endpoint)) as direct,
        S3Store(bucket, Config(endpoint=endpoint, max_attempts=10)) as through,
    ):
        await direct.put("big", BIG)
        got: list[bytes] = []

        async def get() -> None:
            got.append(await through.get("big"))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(get)
        assert got == [BIG] * 4
        await through.put("again", BIG)
        assert await direct.get("again") == BIG


async def test_nothing_is_sent_when_the_first_answer_is_lost(big: FaultServer, store: S3Store) -> None:
    big.script += [Fault(cut=NOTHING), Fault(cut=10)]
    assert await store.get("big") == BIG
    assert [asked.range for asked in big.requests] == [None, None, f"bytes=10-{SIZE - 1}"]
