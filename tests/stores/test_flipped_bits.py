"""One bit, flipped anywhere on the way: by every way of reading it is found, and the bytes are fetched once more."""

from __future__ import annotations

import gc
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from math import ceil
from typing import Any

import pytest
import torch
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

import s3dlio
from s3dlio.alignment import Checksum
from s3dlio.compat.s3torchconnector import S3Checkpoint, S3IterableDataset, S3MapDataset
from s3dlio.compat.s3torchconnector.dcp import S3StorageReader, S3StorageWriter
from s3dlio.errors import ChecksumError
from s3dlio.model import BoundedRange, GetOptions
from s3dlio.stores.integrity import Digester
from s3dlio.stores.store import BytesSink
from s3dlio.transfer import ParallelStore
from s3dlio.transport.download import Download

from ..compat.dcp.conftest import ALONE
from ..servers.clouds import WritableS3, on_portal, serving
from ..servers.faults import Asked, Fault, Truth

DATA = random.Random(0).randbytes(40_000)
PART, LARGE = 4096, 1 << 20
VERY_LARGE = random.Random(1).randbytes(2 * LARGE + 7)


class Flipping(WritableS3):
    """Tells the checksum of every body, and flips a bit in those that `flips` picks.

    It is told how many reads were before, and how many of them were of the same bytes.
    """

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.flips: Callable[[int, int], bool] = lambda number, again: False
        self.read: Counter[tuple[str, str | None]] = Counter()
        self.place = 0.5
        self.reads = 0

    def answer(self, asked: Asked, fault: Fault) -> Truth:
        truth = super().answer(asked, fault)
        if asked.method != "GET" or truth.status not in (200, 206) or "list-type" in asked.target:
            return truth
        kind = "FULL_OBJECT" if truth.status == 200 else "COMPOSITE"
        told = {"x-amz-checksum-crc32c": Checksum("CRC32C", truth.body).base64, "x-amz-checksum-type": kind}
        same = asked.target, truth.headers.get("content-range")
        body, number, again = bytearray(truth.body), self.reads, self.read[same]
        self.reads += 1
        self.read[same] += 1
        if self.flips(number, again) and body:
            bit = int(self.place * 8 * len(body))
            body[bit // 8] ^= 1 << bit % 8
        return replace(truth, headers={**truth.headers, **told}, body=bytes(body))


class WholeAlone(Flipping):
    """As Amazon does, tells nothing in answers to ranges, and the object's checksum to who looks it up."""

    def answer(self, asked: Asked, fault: Fault) -> Truth:
        truth = super().answer(asked, fault)
        headers = {**truth.headers}
        if truth.status == 206:
            headers = {name: value for name, value in headers.items() if not name.startswith("x-amz-checksum")}
        elif asked.method == "HEAD" and truth.body:
            told = {"x-amz-checksum-crc32c": Checksum("CRC32C", truth.body).base64}
            headers |= {**told, "x-amz-checksum-type": "FULL_OBJECT"}
        return replace(truth, headers=headers)


def always(number: int, again: int) -> bool:
    return True


def every_other(number: int, again: int) -> bool:
    """Whatever is read for the first time, and what is read anew after it was fetched again."""
    return again % 2 == 0


async def get(store: ParallelStore) -> bytes:
    return await store.get("key")


async def get_known(store: ParallelStore) -> bytes:
    return await store.get("key", known=await store.head("key"))


async def get_range(store: ParallelStore) -> bytes:
    return await store.get_range("key", BoundedRange(0, len(DATA)))


async def fetch(store: ParallelStore) -> bytes:
    await store.fetch("key", sink := BytesSink(), GetOptions())
    return sink.data


async def get_into(store: ParallelStore) -> bytes:
    await store.get_into("key", view := memoryview(bytearray(len(DATA))))
    return bytes(view)


async def get_pieces(store: ParallelStore) -> bytes:
    view = memoryview(bytearray(len(DATA)))
    await store.get_pieces("key", [(start, view[start : start + PART]) for start in range(0, len(DATA), PART)])
    return bytes(view)


Way = Callable[[ParallelStore], Awaitable[bytes]]
WAYS: dict[str, Way] = {each.__name__: each for each in (get, get_known, get_range, fetch, get_into, get_pieces)}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def opened(servers: list[Flipping], part_size: int, **settings: Any) -> ParallelStore:
    for server in servers:
        server.objects["/bucket/key"] = DATA
    endpoint = ",".join(server.endpoint for server in servers)
    return s3dlio.open_store("s3://bucket", endpoint=endpoint, anonymous=True, part_size=part_size, **settings)


@pytest.mark.parametrize("name", WAYS)
@settings(max_examples=6)
@given(st.floats(0, 1, exclude_max=True), st.sampled_from([LARGE, PART]), st.integers(0, 9))
def test_a_bit_is_found_wherever_it_is(name: str, place: float, part_size: int, which: int) -> None:
    """And what it was in, an object or a range, is fetched once more, nothing else."""

    async def read() -> None:
        async with serving(Flipping) as server, opened([server], part_size) as store:
            await WAYS[name](store)
            needed, server.reads = server.reads, 0
            server.place, server.flips = place, lambda number, again: number == which % needed
            assert await WAYS[name](store) == DATA
            assert server.reads == needed + 1
            server.reads, server.flips = 0, always
            with pytest.raises(ChecksumError, match="twice"):
                await WAYS[name](store)

    trio.run(read)


# Several endpoints


@pytest.fixture
async def servers(request: pytest.FixtureRequest) -> AsyncIterator[list[Flipping]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(serving(getattr(request, "param", Flipping))) for _ in range(3)]


TELLING = [
    *((Flipping, way, size) for way in WAYS.values() for size in (LARGE, PART)),
    *((WholeAlone, way, LARGE) for way in WAYS.values() if way is not get_pieces),
    *((WholeAlone, way, PART) for way in (get, get_known, get_into, fetch)),
]
"""Where only whole objects have checksums, no range is compared."""


@pytest.mark.parametrize(("servers", "way", "part_size"), TELLING, indirect=["servers"])
async def test_an_endpoint_that_flips_bits_harms_no_read(servers: list[Flipping], way: Way, part_size: int) -> None:
    """What it spoiled is fetched from another one."""
    bad = servers[0]
    bad.flips = always
    async with opened(servers, part_size, checksums="require") as store:
        got: list[bytes] = []

        async def read() -> None:
            got.append(await way(store))

        async with trio.open_nursery() as nursery:
            for _ in range(18):
                nursery.start_soon(read)
        assert got == [DATA] * 18
        assert bad.reads


@pytest.mark.parametrize(
    ("servers", "part_size"), [(Flipping, LARGE), (Flipping, 4 * LARGE), (WholeAlone, LARGE)], indirect=["servers"]
)
async def test_large_bodies_are_looked_at_once(
    servers: list[Flipping], part_size: int, compiled_pump: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their checksums are computed while they are received."""
    looked: list[int] = []

    async def look(digester: Digester, digest: Callable[[memoryview], Any], data: memoryview) -> Any:
        looked.append(len(data))
        return digest(data)

    for server in servers:
        server.objects["/bucket/large"] = VERY_LARGE
    async with opened(servers, part_size, checksums="require") as store:
        assert await store.get("key") == DATA
        monkeypatch.setattr(Digester, "__call__", look)
        before = sum(server.reads for server in servers)
        assert await store.get("large") == VERY_LARGE
        assert sum(server.reads for server in servers) - before == ceil(len(VERY_LARGE) / part_size)
        servers[0].flips = always
        for _ in range(9):
            assert await store.get("large") == VERY_LARGE
    assert servers[0].reads
    assert not compiled_pump or max(looked, default=0) < 256 << 10


async def test_who_has_read_leaves_nothing_that_holds_the_body(servers: list[Flipping]) -> None:
    """Or its memory would only come back when the garbage is collected."""
    async with opened(servers[:1], LARGE) as store:
        gc.collect()
        gc.disable()
        try:
            for _ in range(2):
                assert await store.get("key") == DATA
                await store.fetch("key", BytesSink(), GetOptions())
            assert [each for each in gc.get_objects() if type(each) is Download] == []
        finally:
            gc.enable()


@each_way
async def test_the_error_names_both_endpoints(servers: list[Flipping], way: Way) -> None:
    for server in servers:
        server.flips = always
    async with opened(servers, LARGE) as store:
        for _ in range(10):
            with pytest.raises(ChecksumError, match="twice") as caught:
                await way(store)
            assert sum(server.endpoint in caught.value.message for server in servers) == 2
    assert way is get_pieces or sum(server.reads for server in servers) == 20


async def test_one_endpoint_alone_is_asked_again(servers: list[Flipping]) -> None:
    servers[0].flips = every_other
    async with opened(servers[:1], LARGE) as store:
        assert await store.get("key") == DATA
    assert servers[0].reads == 2


# The drop-in


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Flipping]:
    """On the portal's own loop, with the environment that leads there."""
    with on_portal(serving(Flipping)) as server:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_ENDPOINT_URL": server.endpoint,
        }.items():
            monkeypatch.setenv(name, value)
        yield server


BODIES = {f"train/{number:03}": random.Random(number).randbytes(3000) for number in range(60)}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("kind", ["iterable", "map", "batch"])
def test_an_epoch_with_flipped_bits(bucket: Flipping, kind: str, known: bool) -> None:
    """Every body is fetched twice, those of batches too."""
    bucket.objects = {f"/bucket/{key}": body for key, body in BODIES.items()}
    bucket.flips = every_other
    uris = [f"s3://bucket/{key}" for key in BODIES]
    chosen: type[Any] = S3IterableDataset if kind == "iterable" else S3MapDataset
    if known:
        dataset = chosen.from_prefix("s3://bucket/train/", region="us-east-1")
    else:
        dataset = chosen.from_objects(uris, region="us-east-1")
    for _ in range(2):
        if kind == "batch":
            readers = dataset.__getitems__(list(range(len(uris))))
        else:
            readers = iter(dataset) if kind == "iterable" else (dataset[number] for number in range(len(uris)))
        assert {reader.key: reader.read() for reader in readers} == BODIES
    assert bucket.reads == 4 * len(BODIES)
    bucket.flips = always
    before = bucket.reads
    with pytest.raises(Exception, match="twice"):
        next(iter(dataset if kind == "iterable" else dataset.__getitems__([0]))).read()
    assert bucket.reads >= before + 2


@pytest.mark.filterwarnings(ALONE)
def test_checkpoints_with_flipped_bits(bucket: Flipping) -> None:
    state = {"weights": torch.arange(300_000, dtype=torch.float32), "step": torch.tensor(7)}
    save(state, storage_writer=S3StorageWriter("us-east-1", "s3://bucket/dcp/"), no_dist=True)
    checkpoint = S3Checkpoint("us-east-1")
    with checkpoint.writer("s3://bucket/one") as writer:
        torch.save(state, writer)  # type: ignore[arg-type]
    bucket.flips = every_other
    found = {"weights": torch.zeros(300_000), "step": torch.tensor(0)}
    load(found, storage_reader=S3StorageReader("us-east-1", "s3://bucket/dcp/"), no_dist=True)
    with checkpoint.reader("s3://bucket/one") as reader:
        again = torch.load(reader)  # type: ignore[arg-type]
    for each in (found, again):
        assert all(torch.equal(each[name], state[name]) for name in state)
    bucket.flips = always
    with pytest.raises(CheckpointException, match="twice"):
        load(found, storage_reader=S3StorageReader("us-east-1", "s3://bucket/dcp/"), no_dist=True)
