"""What the system reports becomes a typed error, and a failed write leaves everything as it was."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from s3dlio.config import Config
from s3dlio.errors import (
    AlreadyExistsError,
    IntegrityError,
    InvalidKeyError,
    ObjectChangedError,
    PermissionDeniedError,
    PreconditionFailedError,
    RequestError,
    ServerError,
    StallError,
    StoreError,
    UnsupportedError,
)
from s3dlio.model import BoundedRange, GetResult, PutOptions
from s3dlio.stores.local.direct import DirectStore
from s3dlio.stores.local.store import LocalStore
from s3dlio.stores.store import BytesSink
from s3dlio.transfer import ParallelStore

from ...disk import leftovers, open_files

STORES = [LocalStore, DirectStore]
BODY = b"0123456789abcdef" * (3 << 16)
"""Three blocks of a direct store."""

CLASSES: list[tuple[int, type[StoreError], type[Exception]]] = [
    (errno.ENOSPC, RequestError, OSError),
    (errno.EDQUOT, RequestError, OSError),
    (errno.EFBIG, RequestError, OSError),
    (errno.EIO, ServerError, OSError),
    (errno.ESTALE, ServerError, OSError),
    (errno.ENOMEM, ServerError, OSError),
    (errno.EROFS, PermissionDeniedError, PermissionError),
    (errno.EACCES, PermissionDeniedError, PermissionError),
    (errno.EPERM, PermissionDeniedError, PermissionError),
    (errno.ELOOP, PermissionDeniedError, PermissionError),
    (errno.ENAMETOOLONG, InvalidKeyError, ValueError),
]


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(("number", "kind", "builtin"), CLASSES)
@pytest.mark.parametrize("store_class", STORES)
async def test_a_failure_to_write_is_typed_and_changes_nothing(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    store_class: type[LocalStore],
    number: int,
    kind: type[StoreError],
    builtin: type[Exception],
) -> None:
    async with store_class(str(folder)) as store:
        old = await store.put("key", b"old")
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", failing(number))
            for work in (store.put("key", BODY), store.put("new/key", b"small"), _upload(store)):
                with pytest.raises(kind) as caught:
                    await work
                assert isinstance(caught.value, builtin)
                assert getattr(caught.value, "errno", number) == number
                assert caught.value.code == errno.errorcode[number]
                assert caught.value.key in {"key", "new/key"}
                assert str(folder) in str(caught.value)
                assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        assert not leftovers(folder)
        assert os.listdir(folder) == ["key"]
        assert (await store.head("key")).etag == old.etag


async def _upload(store: LocalStore) -> None:
    parallel = ParallelStore(store, part_size=5 << 20, parts_in_flight=4)
    async with parallel.open_writer("key") as writer:
        for _ in range(12):
            await writer.write(BODY[: 1 << 20])


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file of this process gets longer than 2 MiB: the write that would cross this is short, the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize("store_class", STORES)
@pytest.mark.parametrize("chunk", [BODY, BODY[:-1]])
async def test_what_does_not_fit_is_not_written_in_part(
    folder: Path, store_class: type[LocalStore], chunk: bytes
) -> None:
    async with store_class(str(folder)) as store:
        old = await store.put("key", b"old")
        before = open_files()
        for work in (
            store.put("key", chunk),
            store.put("new/key", chunk),
            store.put("new/key", chunk, PutOptions(if_none_match=True)),
            store.put("key", chunk, PutOptions(if_match=old.etag)),
            _upload(store),
        ):
            with pytest.raises(RequestError, match="File too large") as caught:
                await work
            assert caught.value.code == "EFBIG"
        assert open_files() == before
        assert os.listdir(folder) == ["key"]
        assert (await store.head("key")).etag == old.etag


@pytest.mark.parametrize("store_class", STORES)
async def test_writes_cut_short_by_the_system_are_continued(
    folder: Path, monkeypatch: pytest.MonkeyPatch, store_class: type[LocalStore]
) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:65536], offset))
    async with store_class(str(folder)) as store:
        await store.put("key", BODY + b"tail")
        assert await store.get("key") == BODY + b"tail"


@pytest.mark.parametrize("call", ["fsync", "rename", "utime", "close", "posix_fadvise"])
async def test_failures_at_every_other_step(folder: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Also when a file is closed, which is where network file systems tell that a write failed."""
    real = getattr(os, call)

    def fail_for_files(what: Any, *arguments: Any, **options: Any) -> Any:
        name = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else ".tmp"
        answer = real(what, *arguments, **options) if call == "close" else None
        if name.endswith(".tmp"):
            raise OSError(errno.EIO, "broken")
        return answer if call == "close" else real(what, *arguments, **options)

    async with DirectStore(str(folder)) as store:
        await store.put("key", b"old")
        before = open_files()
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail_for_files)
            with pytest.raises(ServerError) as caught:
                await store.put("key", BODY)
        assert caught.value.code == "EIO"
        assert await store.get("key") == b"old"
        assert not leftovers(folder)
        assert open_files() == before


@pytest.mark.parametrize("store_class", STORES)
async def test_a_failure_to_read_is_typed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, store_class: type[LocalStore]
) -> None:
    async with store_class(str(folder)) as store:
        await store.put("key", BODY)
        before = open_files()
        with monkeypatch.context() as patch:
            patch.setattr(os, "preadv", failing(errno.EIO))
            for work in (store.get("key"), store.get_range("key", BoundedRange(1, 5))):
                with pytest.raises(ServerError) as caught:
                    await work
                assert (caught.value.code, caught.value.operation) == ("EIO", "GetObject")
        assert open_files() == before


async def test_a_file_system_without_attributes_keeps_no_metadata(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "setxattr", failing(errno.EOPNOTSUPP))
    monkeypatch.setattr(os, "listxattr", failing(errno.EOPNOTSUPP))
    async with LocalStore(str(folder)) as store:
        await store.put("key", b"content")
        assert (await store.head("key")).content_type is None
        with pytest.raises(UnsupportedError):
            await store.put("key", b"new", PutOptions("text/plain"))
        assert await store.get("key") == b"content"
        assert not leftovers(folder)


@pytest.mark.parametrize("text", [b"no JSON", b"[1]", b'{"name": 1}', b'"text"', b"[" * 2000])
async def test_attributes_that_somebody_else_wrote(folder: Path, text: bytes) -> None:
    async with LocalStore(str(folder)) as store:
        await store.put("key", b"content")
        os.setxattr(folder / "key", "user.s3dlio.metadata", text)
        for work in (store.get("key"), store.head("key"), store.copy("key", "copy")):
            with pytest.raises(IntegrityError, match="no names and values"):
                await work
        await store.put("key", b"content")
        assert await store.get("key") == b"content"


async def test_a_content_type_that_cannot_be_kept(folder: Path) -> None:
    async with LocalStore(str(folder)) as store:
        with pytest.raises(InvalidKeyError, match="content type"):
            await store.put("key", b"content", PutOptions(content_type="\ud800"))
    assert os.listdir(folder) == []


async def test_a_directory_that_is_removed_meanwhile_is_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, removed = os.open, 0

    def remove_first(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        nonlocal removed
        if flags & os.O_EXCL and removed < 3:
            removed += 1
            (folder / "a" / "b").rmdir()
            (folder / "a").rmdir()
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", remove_first)
    async with LocalStore(str(folder)) as store:
        await store.put("a/b/c", b"content")
        assert await store.get("a/b/c") == b"content"
    assert removed == 3


# Versions


@pytest.mark.parametrize("store_class", STORES)
async def test_a_file_changed_in_place_is_noticed(folder: Path, store_class: type[LocalStore]) -> None:
    """Both where it gets shorter and where only its content changes."""
    async with store_class(str(folder)) as store:
        for change in (lambda fd: os.ftruncate(fd, 5 << 20), lambda fd: os.pwrite(fd, b"new", 0)):
            await store.put("key", bytes(9 << 20))

            def sink(coming: GetResult, change: Callable[[int], object] = change) -> memoryview:
                fd = os.open(folder / "key", os.O_WRONLY)
                change(fd)
                os.close(fd)
                return memoryview(bytearray(coming.end - coming.start))

            with pytest.raises(ObjectChangedError):
                await store.fetch("key", sink)


async def test_a_file_changed_while_it_is_copied_is_noticed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_file_range = os.copy_file_range

    def change_afterwards(*arguments: int) -> int:
        count = copy_file_range(*arguments)
        with (folder / "key").open("r+b") as file:
            file.write(b"new")
        return count

    monkeypatch.setattr(os, "copy_file_range", change_afterwards)
    async with LocalStore(str(folder)) as store:
        await store.put("key", BODY)
        with pytest.raises(ObjectChangedError):
            await store.copy("key", "copy")
    assert os.listdir(folder) == ["key"]


@pytest.mark.parametrize("store_class", STORES)
async def test_a_file_replaced_while_it_is_read_is_read_to_its_end(folder: Path, store_class: type[LocalStore]) -> None:
    async with store_class(str(folder)) as store:
        await store.put("key", bytes(9 << 20))

        class Replacing(BytesSink):
            def __call__(self, coming: GetResult) -> memoryview:
                os.rename(folder / "other", folder / "key")
                return super().__call__(coming)

        await store.put("other", b"new")
        sink = Replacing()
        await store.fetch("key", sink)
        assert sink.data == bytes(9 << 20)
        assert await store.get("key") == b"new"


async def test_every_write_has_another_etag(folder: Path) -> None:
    """Though inodes are used again, and clocks of file systems tick slowly."""
    async with LocalStore(str(folder), Config(durable="none")) as store:
        etags = [(await store.put("key", b"same size")).etag for _ in range(50)]
    assert len({*etags}) == 50


async def test_of_conditional_writers_one_wins(folder: Path) -> None:
    async with LocalStore(str(folder), Config(durable="none")) as store:
        for options, refusal in (
            (PutOptions(if_none_match=True), AlreadyExistsError),
            (PutOptions(if_match=(await store.put("replaced", b"old")).etag), PreconditionFailedError),
        ):
            key = "replaced" if options.if_match else "created"
            won: list[bytes] = []
            lost: list[type[StoreError]] = []

            async def write(
                data: bytes,
                key: str = key,
                options: PutOptions = options,
                won: list[bytes] = won,
                lost: list[type[StoreError]] = lost,
            ) -> None:
                try:
                    await store.put(key, data, options)
                    won.append(data)
                except StoreError as error:
                    lost.append(type(error))

            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(write, b"%d" % number)
            assert [await store.get(key)] == won
            assert lost == [refusal] * 19
    assert not leftovers(folder)


async def test_a_lock_that_is_kept_is_not_waited_for_without_end(folder: Path) -> None:
    async with LocalStore(str(folder), Config(stall_timeout=0.05)) as store:
        options = PutOptions(if_match=(await store.put("key", b"old")).etag)
        fd = os.open(folder, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(StallError, match="locked"):
            await store.put("key", b"new", options)
        os.close(fd)
        await store.put("key", b"new", options)
        assert await store.get("key") == b"new"
    assert not leftovers(folder)


async def test_a_wait_for_a_lock_can_be_cancelled(folder: Path) -> None:
    async with LocalStore(str(folder)) as store:
        options = PutOptions(if_match=(await store.put("key", b"old")).etag)
        fd = os.open(folder, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        with trio.move_on_after(0.05) as scope:
            await store.put("key", b"new", options)
        os.close(fd)
        assert scope.cancelled_caught
        assert await store.get("key") == b"old"
    assert not leftovers(folder)
