"""What is special about stores of files: the page cache, fallbacks, uploads in place, large directories, forks."""

from __future__ import annotations

import errno
import os
import random
import threading
import tracemalloc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from s3dlio.alignment import direct
from s3dlio.alignment.buffers import AlignedBuffer
from s3dlio.alignment.direct import BLOCK, DirectFile, DirectIOWarning, DirectStats
from s3dlio.config import Config
from s3dlio.errors import NotFoundError, RangeError
from s3dlio.model import BoundedRange, ListOptions, Part, PutOptions
from s3dlio.stores.local import paths as local_paths
from s3dlio.stores.local.direct import DirectStore
from s3dlio.stores.local.files import CachedFile
from s3dlio.stores.local.store import LocalStore
from s3dlio.stores.store import ObjectStore
from s3dlio.transfer import ParallelStore

from ...alignment.page_cache import cached_pages, evict
from ...disk import leftovers, open_files

BODY = random.Random(7).randbytes(5 * BLOCK + 777)
PART = 5 << 20


def parallel(store: ObjectStore) -> ParallelStore:
    return ParallelStore(store, part_size=PART, parts_in_flight=4)


# The page cache


async def test_direct_stores_leave_the_page_cache_alone(folder: Path) -> None:
    path = folder / "key"
    async with DirectStore(str(folder), Config(durable="file")) as store:
        await store.put("key", BODY)
        assert cached_pages(path) == 0
        view = AlignedBuffer(len(BODY)).view
        odd = memoryview(bytearray(len(BODY) - 1000))
        assert await store.get("key") == BODY
        await store.get_into("key", view)
        await store.get_into("key", odd, start=999)
        assert view == BODY
        assert odd == BODY[999:-1]
        assert await store.get_range("key", BoundedRange(1, 1 << 20)) == BODY[1 : 1 << 20]
        assert await parallel(store).get("key") == BODY
        assert cached_pages(path) == 0
        async with parallel(store).open_writer("key") as writer:
            for start in range(0, len(BODY), 100_000):
                await writer.write(BODY[start : start + 100_000])
        assert cached_pages(path) == 0
        assert path.read_bytes() == BODY
        stats = store.direct_stats
    assert stats.fallbacks == 0
    assert stats.buffered_bytes < 4 * 4096
    assert stats.direct_bytes > 6 * len(BODY)


async def test_without_a_wait_for_the_disk_only_unaligned_ends_are_cached(folder: Path) -> None:
    async with DirectStore(str(folder), Config(durable="none")) as store:
        await store.put("key", BODY)
    assert cached_pages(folder / "key") <= 1


async def test_plain_stores_do_use_it(folder: Path) -> None:
    """So the tests above would fail if they could."""
    async with LocalStore(str(folder)) as store:
        await store.put("key", BODY)
        assert cached_pages(folder / "key") > 1000
        evict(folder / "key")
        assert await store.get("key") == BODY
        assert cached_pages(folder / "key") > 1000


async def test_aligned_memory_is_read_into_and_written_from_without_a_copy_but_for_its_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[int] = []
    real = direct.copy

    def spy(target: memoryview, source: memoryview) -> None:
        copied.append(len(source))
        real(target, source)

    monkeypatch.setattr(direct, "copy", spy)
    async with DirectStore(str(folder)) as store:
        memory = AlignedBuffer(len(BODY))
        memory.view[:] = BODY
        await store.put("key", memory.view)
        await store.get_into("key", AlignedBuffer(len(BODY)).view)
        await parallel(store).put("key", memory.view)
        assert (folder / "key").read_bytes() == BODY
        assert copied == [len(BODY) % BLOCK]
        await store.get_into("key", AlignedBuffer(len(BODY) + 1).view[1:])
        assert sum(copied) > len(BODY)


async def test_a_fallback_is_warned_of_once_and_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuse(path: str, flags: int, *arguments: int, **options: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    async with DirectStore(str(folder)) as store:
        with pytest.warns(DirectIOWarning):
            await store.put("key", BODY)
        assert await store.get("key") == BODY  # and no warning
        assert await store.get_range("key", BoundedRange(1, 3)) == BODY[1:3]
        assert store.direct_stats == DirectStats(buffered_bytes=2 * len(BODY) + 2, fallbacks=3)


async def test_several_blocks_of_a_file_are_under_way_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second read begins before the first has ended: else it would wait in vain."""
    met = threading.Barrier(3, timeout=20)
    real = DirectFile.read_into

    def meet(self: DirectFile, view: memoryview, offset: int = 0) -> int:
        met.wait()
        return real(self, view, offset)

    async with DirectStore(str(folder), Config(parts_in_flight=3)) as store:
        await store.put("key", BODY)
        monkeypatch.setattr(DirectFile, "read_into", meet)
        assert await store.get("key") == BODY


# Small files in the page cache


class TestReadingWhatIsCached:
    @pytest.fixture
    async def store(self, folder: Path) -> LocalStore:
        store = LocalStore(str(folder))
        await store.put("key", BODY[:100_000])
        await store.put("large", BODY)
        return store

    @pytest.fixture
    async def hops(self, store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> list[object]:
        """What is done in threads from now on."""
        done: list[object] = []
        real = trio.to_thread.run_sync

        async def spy(work: Callable[[], object], **options: Any) -> object:
            done.append(work)
            return await real(work, **options)

        monkeypatch.setattr(trio.to_thread, "run_sync", spy)
        return done

    async def test_takes_no_thread(self, store: LocalStore, hops: list[object]) -> None:
        for _ in range(3):
            assert await store.get("key") == BODY[:100_000]
            assert await store.get_range("large", BoundedRange(5, 1000)) == BODY[5:1000]
            view = memoryview(bytearray(5000))
            await store.get_into("key", view, start=7)
            assert view == BODY[7:5007]
        assert hops == []

    async def test_files_that_are_not_and_large_ones_take_one(
        self, store: LocalStore, folder: Path, hops: list[object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that was not cached may be so before the kernel has looked again: then it is read once more."""
        real, refused = CachedFile._read_some, list[int]()

        def read_some(file: CachedFile, view: memoryview, offset: int) -> int:
            try:
                return real(file, view, offset)
            except BlockingIOError:
                refused.append(offset)
                raise

        monkeypatch.setattr(CachedFile, "_read_some", read_some)
        before = open_files()
        while not refused:
            evict(folder / "key")
            assert await store.get("key") == BODY[:100_000]
        assert len(hops) == 1
        assert await store.get("large") == BODY
        assert len(hops) == 2
        assert open_files() == before

    async def test_fails_as_reading_in_a_thread_does(self, store: LocalStore) -> None:
        for _ in range(2):
            with pytest.raises(NotFoundError) as caught:
                await store.get("absent")
            assert (caught.value.operation, caught.value.code) == ("GetObject", "ENOENT")
            with pytest.raises(RangeError):
                await store.get_range("key", BoundedRange(100_000, 100_001))

    async def test_is_a_checkpoint(self, store: LocalStore) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.get("key")
        assert scope.cancelled_caught
        with trio.testing.assert_checkpoints():
            await store.get("key")

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.EAGAIN, errno.EXDEV])
    async def test_is_left_where_the_kernel_cannot(
        self, store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, hops: list[object]
    ) -> None:
        real = local_paths._openat2

        def refuse(at: int, path: bytes, flags: int, resolve: int) -> int:
            if resolve & local_paths._RESOLVE_CACHED:
                raise OSError(number, os.strerror(number))
            return real(at, path, flags, resolve)

        with monkeypatch.context() as patch:
            patch.setattr(local_paths, "_openat2", refuse)
            assert await store.get("key") == BODY[:100_000]
        assert len(hops) == 1
        await store.get("key")
        assert len(hops) == (2 if number == errno.EINVAL else 1)  # which all kernels before 5.12 say

    async def test_is_not_tried_on_other_machines_files(
        self, folder: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch, hops: list[object]
    ) -> None:
        monkeypatch.setattr("s3dlio.stores.local.paths._file_system", lambda _fd: 0x6969)  # NFS
        other = LocalStore(str(folder))
        for _ in range(3):
            assert await other.get("key") == BODY[:100_000]
        assert len(hops) == 3

    async def test_is_left_where_the_file_system_cannot(
        self, store: LocalStore, monkeypatch: pytest.MonkeyPatch, hops: list[object]
    ) -> None:
        real = os.preadv

        def refuse(fd: int, views: list[memoryview], offset: int, flags: int = 0) -> int:
            if flags:
                raise OSError(errno.EOPNOTSUPP, "no RWF_NOWAIT")
            return real(fd, views, offset)

        monkeypatch.setattr(os, "preadv", refuse)
        assert await store.get("key") == BODY[:100_000]
        assert len(hops) == 1


# Uploads


@pytest.mark.parametrize("kind", [LocalStore, DirectStore])
async def test_parts_of_a_stream_are_written_in_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: type[LocalStore]
) -> None:
    """Nothing is copied when it is completed, although parts begin in any order, and grow."""
    monkeypatch.setattr("s3dlio.parts._GROW_EVERY", 2)
    monkeypatch.setattr("s3dlio.parts.MIN_PART", 1000)
    monkeypatch.setattr("s3dlio.stores.local.uploads.copy_range", lambda *_: pytest.fail("a part was copied"))
    for _ in range(10):
        async with kind(str(folder), Config(durable="none")) as store:
            whole = ParallelStore(store, part_size=1000, parts_in_flight=8)
            await whole.put("key", BODY[: 1 << 20])
            async with whole.open_writer("stream") as writer:
                for start in range(0, 1 << 20, 33_333):
                    await writer.write(BODY[start : min(start + 33_333, 1 << 20)])
            assert await store.get("key") == await store.get("stream") == BODY[: 1 << 20]
            assert not leftovers(folder)


async def test_parts_that_begin_together_are_written_in_place_whatever_their_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3dlio.stores.local.uploads.copy_range", lambda *_: pytest.fail("a part was copied"))
    sent: dict[int, Part] = {}
    async with LocalStore(str(folder)) as store:
        upload = await store.create_upload("key")

        async def send(number: int) -> None:
            sent[number] = await store.upload_part(upload, number, BODY[: number * 1000])

        async with trio.open_nursery() as nursery:
            for number in (3, 1, 4, 2):
                nursery.start_soon(send, number)
        await store.complete_upload(upload, [sent[number] for number in range(1, 5)])
        assert await store.get("key") == b"".join(BODY[: number * 1000] for number in range(1, 5))


async def test_parts_in_any_order_make_the_same_object(folder: Path) -> None:
    chance = random.Random(5)
    async with DirectStore(str(folder), Config(durable="none")) as store:
        for _ in range(30):
            pieces = [chance.randbytes(chance.choice([0, 1, 4096, 5000, BLOCK + 1])) for _ in range(6)]
            order = [*range(6), *chance.sample(range(6), 2)]
            chance.shuffle(order)
            upload = await store.create_upload("key")
            sent = {}
            for index in order:
                await store.upload_part(upload, index + 1, b"to be replaced" * chance.randrange(500))
                sent[index] = await store.upload_part(upload, index + 1, pieces[index])
            kept = sorted(chance.sample(sorted(sent), chance.randrange(1, 7)))
            await store.complete_upload(upload, [sent[index] for index in kept])
            assert await store.get("key") == b"".join(pieces[index] for index in kept)
            assert not leftovers(folder)


# Listings


async def test_large_directories_are_read_once_for_all_pages(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1500):
        (folder / f"{number:04}").touch()
    os.utime(folder, ns=(0, 0))
    scans: list[int] = []
    real = os.scandir

    def spy(fd: int) -> object:
        scans.append(fd)
        return real(fd)

    monkeypatch.setattr(os, "scandir", spy)
    async with LocalStore(str(folder)) as store:
        keys: list[str] = []
        token: str | None = None
        while True:
            page = await store.list_page("", ListOptions(limit=100, token=token))
            keys += [meta.key for meta in page.objects]
            token = page.token
            if token is None:
                break
            if len(keys) == 700:
                await store.put("1200+", b"new")
                await store.delete("1300")
                os.utime(folder, ns=(0, 0))
        assert keys == sorted([*(f"{number:04}" for number in range(1500) if number != 1300), "1200+"])
    assert len(scans) == 2


async def test_a_listing_goes_only_where_keys_can_be(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/x/1", "a/y/1", "b/x/1", "b/y/1", "b/y/2", "c/x/1"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    seen: list[str] = []
    real = os.scandir

    def spy(fd: int) -> object:
        seen.append(os.path.relpath(os.readlink(f"/proc/self/fd/{fd}"), folder))
        return real(fd)

    monkeypatch.setattr(os, "scandir", spy)
    async with LocalStore(str(folder)) as store:
        assert [meta.key for meta in (await store.list_page("b/y/")).objects] == ["b/y/1", "b/y/2"]
        assert seen == ["b/y"]
        seen.clear()
        assert [meta.key for meta in (await store.list_page("", ListOptions(start_after="b/y/1"))).objects] == [
            "b/y/2",
            "c/x/1",
        ]
        assert seen == [".", "b", "b/y", "c", "c/x"]


async def test_memory_is_bounded_by_the_largest_directory(folder: Path) -> None:
    for number in range(40):
        (folder / f"{number:02}").mkdir()
        for inner in range(100):
            (folder / f"{number:02}" / f"{inner:03}{'n' * 100}").touch()
    async with LocalStore(str(folder)) as store:
        await store.list_page("", ListOptions(limit=100))
        tracemalloc.start()
        count = 0
        token: str | None = None
        while True:
            page = await store.list_page("", ListOptions(limit=100, token=token))
            count, token = count + len(page.objects), page.token
            if token is None:
                break
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert count == 4000
    assert peak < 400_000


# Directories


async def test_directories_come_with_objects_and_go_with_them(folder: Path) -> None:
    root = folder / "made"
    async with LocalStore(str(root)) as store:
        await store.put("a/b/c", b"")
        await store.put("a/d", b"")
        await store.delete("a/b/c")
        assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == ["a", "a/d"]
        await store.delete("a/d")
        assert root.is_dir()
        assert os.listdir(root) == []
        await store.put("a", b"a file now")


@pytest.mark.parametrize(
    ("durable", "expected"), [("full", ["file", "made", "root"]), ("file", ["file"]), ("none", [])]
)
async def test_what_is_waited_for_is_what_was_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, durable: str, expected: list[str]
) -> None:
    synced: list[str] = []
    real = os.fsync

    def spy(fd: int) -> None:
        name = Path(os.readlink(f"/proc/self/fd/{fd}"))
        synced.append("file" if name.suffix == ".tmp" else "root" if name == folder else name.name)
        real(fd)

    monkeypatch.setattr(os, "fsync", spy)
    async with LocalStore(str(folder), Config(durable=durable)) as store:  # type: ignore[arg-type]
        await store.put("made/key", b"content")
    assert sorted(synced) == expected


async def test_attributes_are_those_other_programs_know(folder: Path) -> None:
    async with LocalStore(str(folder)) as store:
        await store.put("key", b"content", PutOptions("image/png", {"name": "välue"}))
        assert os.getxattr(folder / "key", "user.mime_type") == b"image/png"
        os.setxattr(folder / "key", "user.mime_type", b"image/jpeg")
        meta = await store.head("key")
        assert (meta.content_type, meta.metadata) == ("image/jpeg", {"name": "välue"})


def test_names_of_stores() -> None:
    assert LocalStore("/data/train/").uri == "file:///data/train"
    assert DirectStore("/").uri == "direct://"
    assert repr(DirectStore("/data")) == "<DirectStore direct:///data>"


# Forks


@pytest.mark.parametrize("kind", [LocalStore, DirectStore])
def test_a_forked_child_uses_the_store_and_harms_nothing(folder: Path, kind: type[LocalStore]) -> None:
    """The child closes a store whose parent is in the middle of an upload, and shares none of its buffers."""
    store = kind(str(folder), Config(durable="none", parts_in_flight=3))

    async def exchange(key: str, data: bytes) -> None:
        for _ in range(5):
            await store.put(key, data)
            assert await store.get(key) == data

    async def begin() -> Callable[[], Awaitable[object]]:
        await exchange("before", BODY)
        upload = await store.create_upload("upload")
        part = await store.upload_part(upload, 1, BODY)
        return lambda: store.complete_upload(upload, [part])

    finish = trio.run(begin)
    child = os.fork()
    if child == 0:

        async def work() -> None:
            async with store:
                await exchange("of the child", BODY[::-1])

        try:
            trio.run(work)
            os._exit(0)
        finally:
            os._exit(1)
    trio.run(exchange, "of the parent", BODY)
    assert os.waitpid(child, 0)[1] == 0
    trio.run(finish)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "before": BODY,
        "of the child": BODY[::-1],
        "of the parent": BODY,
        "upload": BODY,
    }
