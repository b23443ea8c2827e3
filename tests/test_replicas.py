"""Another store to read from: when it is asked, when not, and that nothing of two stores is ever mixed."""

from __future__ import annotations

import pickle
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import s3dlio
from s3dlio.blocking.portal import portal
from s3dlio.compat.s3torchconnector import S3Checkpoint, S3IterableDataset, S3MapDataset
from s3dlio.config import Config
from s3dlio.errors import (
    ChecksumError,
    ConfigError,
    ConnectionFailedError,
    NotFoundError,
    ObjectChangedError,
    PermissionDeniedError,
    RangeError,
    ServerError,
    StoreError,
)
from s3dlio.model import BoundedRange, GetOptions, ListOptions, ListPage
from s3dlio.replicas import ReplicatedStore
from s3dlio.stores.memory import MemoryStore
from s3dlio.stores.store import BytesSink
from s3dlio.transfer import ParallelStore

from .servers.clouds import on_portal
from .servers.faults import NOTHING, Fault, FaultServer, fault_server, refusal

PART = 4096
OURS, THEIRS = random.Random(1).randbytes(20_000), random.Random(2).randbytes(20_000)
INTERNAL = refusal(500, "InternalError")
DOWN = Fault(cut=NOTHING)


@pytest.fixture
async def first() -> AsyncIterator[FaultServer]:
    async with fault_server() as server:
        server.objects["/bucket/key"] = OURS
        yield server


@pytest.fixture
async def second() -> AsyncIterator[FaultServer]:
    async with fault_server() as server:
        server.objects["/replica/copy/key"] = THEIRS
        yield server


@pytest.fixture
async def store(first: FaultServer, second: FaultServer) -> AsyncIterator[ParallelStore]:
    theirs = Config(endpoint=second.endpoint, anonymous=True, part_size=PART)
    settings: dict[str, Any] = {"anonymous": True, "part_size": PART, "replicas": [("s3://replica/copy", theirs)]}
    async with s3dlio.open_store("s3://bucket", endpoint=first.endpoint, **settings) as opened:
        yield opened


async def get(store: ParallelStore) -> bytes:
    return await store.get("key")


async def fetch(store: ParallelStore) -> bytes:
    await store.fetch("key", sink := BytesSink(), GetOptions())
    return sink.data


async def get_range(store: ParallelStore) -> bytes:
    return await store.get_range("key", BoundedRange(0, len(OURS)))


async def get_into(store: ParallelStore) -> bytes:
    await store.get_into("key", view := memoryview(bytearray(len(OURS))))
    return bytes(view)


async def get_pieces(store: ParallelStore) -> bytes:
    view = memoryview(bytearray(len(OURS)))
    await store.get_pieces("key", ((start, view[start : start + PART]) for start in range(0, len(OURS), PART)))
    return bytes(view)


Way = Callable[[ParallelStore], Awaitable[bytes]]
WAYS: dict[str, Way] = {each.__name__: each for each in (get, fetch, get_range, get_into, get_pieces)}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


async def kill(server: FaultServer) -> None:
    """Until `restart` is set."""
    server.restart = trio.Event()
    server.serving.cancel()
    await trio.testing.wait_all_tasks_blocked()


@each_way
async def test_the_first_store_is_read_while_it_can_be(
    store: ParallelStore, first: FaultServer, second: FaultServer, way: Way
) -> None:
    assert await way(store) == OURS
    assert second.requests == []


@each_way
@pytest.mark.parametrize(
    "fault",
    [refusal(404, "NoSuchKey"), refusal(404, "NoSuchBucket"), INTERNAL, DOWN, Fault(raw=b"what?\r\n\r\n"), "killed"],
    ids=["absent", "no bucket", "failing", "hung up", "nonsense", "killed"],
)
async def test_what_is_not_to_be_had_is_read_from_the_replica(
    store: ParallelStore, first: FaultServer, way: Way, fault: Any, clock: MockClock
) -> None:
    """Before half a minute is waited for."""
    if fault == "killed":
        await kill(first)
    else:
        first.always = fault
    assert await way(store) == THEIRS
    if fault != "killed":
        assert len(first.requests) <= (15 if way is get_pieces else 3)


@each_way
@pytest.mark.parametrize("after", [1, 3])
async def test_a_read_that_moves_begins_anew(
    store: ParallelStore, first: FaultServer, way: Way, after: int, clock: MockClock
) -> None:
    """Some parts, or the beginning of one, have come from the first store: none of these bytes stays."""
    first.script.extend([Fault()] * (after - 1) + [Fault(cut=1000)])
    first.always = INTERNAL
    whole = after > 1 and way in (fetch, get_range)  # it is one request
    assert await way(store) == (OURS if whole else THEIRS)


async def test_spoiled_bytes_are_read_from_the_replica(store: ParallelStore, first: FaultServer) -> None:
    first.always = Fault(headers={"x-amz-checksum-crc32c": "AAAAAA=="})
    with pytest.raises(ChecksumError):
        await store.inner.fetch("key", BytesSink())
    assert await fetch(store) == THEIRS


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(refusal(403, "AccessDenied"), PermissionDeniedError), (refusal(416, "InvalidRange"), RangeError)],
)
async def test_a_refusal_is_not_made_up_for(
    store: ParallelStore, first: FaultServer, second: FaultServer, fault: Fault, kind: type[StoreError]
) -> None:
    """Credentials that are wrong would be seen by nobody."""
    first.always = fault
    with pytest.raises(kind):
        await get_range(store)
    assert second.requests == []


async def test_what_a_replica_says_of_its_object_is_an_answer(
    store: ParallelStore, first: FaultServer, second: FaultServer
) -> None:
    first.objects.clear()
    second.objects["/replica/copy/key"] = b""
    with pytest.raises(RangeError):
        await get_range(store)
    assert await store.get("key") == b""


async def test_the_error_tells_of_all(store: ParallelStore, first: FaultServer, second: FaultServer) -> None:
    first.objects.clear()
    second.always = refusal(403, "AccessDenied")
    with pytest.raises(NotFoundError) as caught:
        await store.get("key")
    assert caught.value.endpoint == first.endpoint
    (note,) = caught.value.__notes__
    assert note.startswith("s3://replica/copy")
    assert second.endpoint in note


async def test_an_absent_object_is_absent_only_where_all_say_so(
    store: ParallelStore, first: FaultServer, second: FaultServer, clock: MockClock
) -> None:
    assert await store.exists("key")
    assert not await store.exists("absent")
    first.objects.clear()
    assert await store.exists("key")
    assert (await store.head("key")).size == len(THEIRS)
    second.always = INTERNAL
    for verb in (store.exists, store.head, store.get):
        with pytest.raises(ServerError) as caught:
            await verb("key")
        assert caught.value.endpoint == second.endpoint


# Outages


async def test_a_store_that_is_out_is_passed_over_and_tried_again(
    store: ParallelStore, first: FaultServer, second: FaultServer, clock: MockClock
) -> None:
    first.always = INTERNAL
    for _ in range(10):
        await store.head("key")
    assert len(first.requests) == 3
    async with trio.open_nursery() as nursery:
        for _ in range(60):
            for _ in range(10):
                nursery.start_soon(store.head, "key")
            await trio.sleep(1)
    assert 3 + 3 * 4 <= len(first.requests) <= 3 + 3 * 7  # after 1, 2, 4, 8, 16, 30 s
    first.always = Fault()
    await trio.sleep(30)
    for _ in range(2):
        assert await store.get("key") == OURS


async def test_when_all_are_out_the_one_that_is_back_first_is_read(
    store: ParallelStore, first: FaultServer, second: FaultServer, clock: MockClock
) -> None:
    first.always = second.always = INTERNAL
    async with trio.open_nursery() as nursery:

        async def come_back() -> None:
            await trio.sleep(15)
            second.always = Fault()

        nursery.start_soon(come_back)
        assert await store.get("key") == THEIRS


async def test_when_all_stay_out_no_more_is_asked_than_of_one_alone(
    store: ParallelStore, first: FaultServer, second: FaultServer, clock: MockClock
) -> None:
    first.always = second.always = INTERNAL
    begun = trio.current_time()
    with pytest.raises(ServerError) as caught:
        await store.get("key")
    assert trio.current_time() - begun >= 30
    assert (caught.value.endpoint, len(caught.value.__notes__)) == (first.endpoint, 1)
    assert 3 < len(first.requests) <= 10
    assert 3 < len(second.requests) <= 10


async def test_writes_are_the_first_stores(
    store: ParallelStore, first: FaultServer, second: FaultServer, clock: MockClock
) -> None:
    """Which are waited for, as nobody else can take them."""
    await kill(first)
    with pytest.raises(ConnectionFailedError) as caught:
        await store.put("other", b"content")
    assert caught.value.attempts == 10
    first.restart.set()
    await store.put("other", b"content")
    await store.delete("key")
    assert set(first.objects) == {"/bucket/other"}
    assert second.requests == []


# One version


@pytest.mark.parametrize("same", [True, False])
async def test_a_version_is_read_from_the_replica_only_if_it_has_it(
    store: ParallelStore, first: FaultServer, second: FaultServer, same: bool, clock: MockClock
) -> None:
    etag = (await store.head("key")).etag
    if same:
        second.objects["/replica/copy/key"] = OURS
    first.always = INTERNAL
    if same:
        assert await store.get_range("key", BoundedRange(5, 9), if_match=etag) == OURS[5:9]
    else:
        with pytest.raises(ServerError) as caught:
            await store.get_range("key", BoundedRange(5, 9), if_match=etag)
        assert "replaced" in caught.value.__notes__[0]
    first.always = Fault()
    with pytest.raises(ObjectChangedError):
        await store.get("key", if_match='"0123456789abcdef0123456789abcdef"')


class _Failing(MemoryStore):
    """One whose listings fail when there have been so many pages."""

    pages = 1000

    async def list_page(self, prefix: str = "", options: ListOptions = ListOptions()) -> ListPage:
        self.pages -= 1
        if self.pages < 0:
            raise ServerError("out")
        return await super().list_page(prefix, options)


@pytest.mark.parametrize("pages", [0, 1, 3])
async def test_a_listing_is_of_one_store(pages: int, clock: MockClock) -> None:
    ours, theirs = _Failing(), MemoryStore()
    for number in range(6):
        await ours.put(f"ours/{number}", b"")
        await theirs.put(f"theirs/{number}", b"")
    replica = ParallelStore(theirs, part_size=PART, parts_in_flight=1)
    ours.pages = pages
    sizes = {"part_size": PART, "parts_in_flight": 1, "memory_limit": PART}
    store = ReplicatedStore(ours, [replica], **sizes, max_attempts=3)
    options: ListOptions | None = ListOptions(limit=2)
    found: list[str] = []
    try:
        while options is not None:
            page = await store.list_page("", options)
            found += [meta.key for meta in page.objects]
            options = options.after(page)
    except ServerError:
        assert pages == 1
    else:
        assert len(found) == 6
    assert {key.partition("/")[0] for key in found} == ({"ours"} if pages else {"theirs"})


# Everywhere


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultServer]:
    """A bucket on the portal's own loop, of which a folder is the replica, and the environment that says so."""
    with on_portal(fault_server()) as server:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_ENDPOINT_URL": server.endpoint,
            "S3DLIO_REPLICAS": f"s3://absent-{{bucket}},file://{tmp_path}/{{bucket}}",
        }.items():
            monkeypatch.setenv(name, value)
        for key, body in BODIES.items():
            (tmp_path / "bucket" / key).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "bucket" / key).write_bytes(body)
            if int(key[-3:]) % 3:
                server.objects[f"/bucket/{key}"] = body
        yield server


BODIES = {f"train/{number:03}": random.Random(number).randbytes(3000) for number in range(60)}


@pytest.mark.parametrize("kind", ["iterable", "map", "batch"])
def test_an_epoch_over_a_bucket_that_lacks_objects(served: FaultServer, kind: str) -> None:
    uris = [f"s3://bucket/{key}" for key in BODIES]
    chosen: type[Any] = S3IterableDataset if kind == "iterable" else S3MapDataset
    dataset = chosen.from_objects(uris, region="us-east-1")
    for _ in range(2):
        if kind == "batch":
            readers = dataset.__getitems__(list(range(len(uris))))
        else:
            readers = iter(dataset) if kind == "iterable" else (dataset[number] for number in range(len(uris)))
        assert {reader.key: reader.read() for reader in readers} == BODIES


def test_an_epoch_in_which_listed_objects_go_away(served: FaultServer) -> None:
    """Those of batches that are under way on open connections, too."""
    served.objects = {f"/bucket/{key}": body for key, body in BODIES.items()}
    dataset = S3MapDataset.from_prefix("s3://bucket/train/", region="us-east-1")
    for _ in range(2):
        readers = dataset.__getitems__(list(range(len(dataset))))
        assert {reader.key: reader.read() for reader in readers} == BODIES
        served.objects = {}


def test_blocking_calls_and_checkpoints_read_the_replica_too(served: FaultServer) -> None:
    absent = next(key for key in BODIES if f"/bucket/{key}" not in served.objects)
    assert s3dlio.get(f"s3://bucket/{absent}") == BODIES[absent]
    assert s3dlio.exists(f"s3://bucket/{absent}")
    with S3Checkpoint("us-east-1").reader(f"s3://bucket/{absent}") as reader:
        assert reader.read(100) + reader.read() == BODIES[absent]
    with pytest.raises(NotFoundError):
        s3dlio.get("s3://bucket/nowhere")


def test_a_folder_of_the_replica_stands_for_the_folder(served: FaultServer) -> None:
    async def read() -> bytes:
        async with s3dlio.open_store("s3://bucket/train") as store:
            return await store.get("000")

    assert portal().call(read) == BODIES["train/000"]


async def test_a_stream_is_of_the_store_that_has_the_object(tmp_path: Path) -> None:
    (tmp_path / "object").write_bytes(bytes(range(256)) * 100)
    config = Config(replicas=(f"file://{tmp_path}",), part_size=1000, parts_in_flight=3)
    async with s3dlio.open_store("memory://primary", config) as store:
        async with store.open_reader("object") as reader:
            assert b"".join([piece async for piece in reader]) == bytes(range(256)) * 100
        with pytest.raises(NotFoundError):
            async with store.open_reader("nowhere"):
                pass


def test_a_configuration_with_replicas_is_as_good_as_another() -> None:
    own = Config(region="eu-west-1")
    config = Config(replicas=["s3://b", ["gs://c", own]])  # type: ignore[arg-type]
    assert config.replicas == ("s3://b", ("gs://c", own))
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(config)
    for wrong in ("s3://b", ["s3://b?sig=CANARY"], ["s3://CANARY:CANARY@b"], [("s3://b", 1)], [7], {"s3://b": own}):
        with pytest.raises(ConfigError, match="replicas") as caught:
            Config(replicas=wrong)  # type: ignore[arg-type]
        assert "CANARY" not in str(caught.value)
