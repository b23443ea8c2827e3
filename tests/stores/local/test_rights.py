"""Who may do what with a file is kept when its object is replaced; a new file has what the umask lets."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from s3dlio.config import Config
from s3dlio.errors import PermissionDeniedError, StoreError
from s3dlio.model import PutOptions
from s3dlio.stores.local.direct import DirectStore
from s3dlio.stores.local.paths import os_error
from s3dlio.stores.local.rights import Rights
from s3dlio.stores.local.store import LocalStore
from s3dlio.transfer import ParallelStore

from ...disk import leftovers
from .test_faults import failing

BODY = b"0123456789abcdef" * (3 << 16)
ACL = "system.posix_acl_access"

Write = Callable[[LocalStore, str], Awaitable[object]]


@pytest.fixture(params=[LocalStore, DirectStore])
def store(request: pytest.FixtureRequest, folder: Path) -> Iterator[LocalStore]:
    yield request.param(str(folder), Config(durable="none"))
    assert not leftovers(folder)


@pytest.fixture
def umask() -> Iterator[None]:
    """Of the test's own: what is new may be read by the group."""
    before = os.umask(0o027)
    yield
    os.umask(before)


async def _put(store: LocalStore, key: str) -> None:
    await store.put(key, BODY)


async def _put_small(store: LocalStore, key: str) -> None:
    await store.put(key, b"new", PutOptions("text/plain", {"name": "value"}))


async def _put_if_match(store: LocalStore, key: str) -> None:
    etag = (await store.head(key)).etag if await store.exists(key) else None
    await store.put(key, b"new", PutOptions(if_match=etag, if_none_match=etag is None))


async def _copy(store: LocalStore, key: str) -> None:
    await store.put("source", BODY)
    await store.copy("source", key)


async def _stream(store: LocalStore, key: str) -> None:
    parallel = ParallelStore(store, part_size=5 << 20, parts_in_flight=2)
    async with parallel.open_writer(key) as writer:
        await writer.write(BODY * 4)


async def _parts_backwards(store: LocalStore, key: str) -> None:
    upload = await store.create_upload(key)
    parts = [await store.upload_part(upload, number, BODY) for number in (2, 1)]
    await store.complete_upload(upload, parts[::-1])


WRITES: list[Write] = [_put, _put_small, _put_if_match, _copy, _stream, _parts_backwards]


def rights(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A list of (tag, permissions, id) as the kernel keeps it. Source: linux/posix_acl_xattr.h."""
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, bits, who & 0xFFFFFFFF) for tag, bits, who in entries
    )


READABLE_BY_ONE = acl((0x01, 6, -1), (0x02, 4, 12345), (0x04, 0, -1), (0x10, 4, -1), (0x20, 0, -1))
"""For its owner, and the user 12345; the group is given nothing, though the mode shows 0640."""


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("write", WRITES)
class TestOfEveryWrite:
    @pytest.mark.parametrize("mode", [0o600, 0o644, 0o400, 0o777, 0o666])
    async def test_the_mode_is_kept(self, store: LocalStore, folder: Path, write: Write, mode: int) -> None:
        path = folder / "key"
        path.write_bytes(b"old")
        path.chmod(mode)
        await write(store, "key")
        assert path.read_bytes() != b"old"
        assert rights(path)[0] == mode

    async def test_a_new_file_has_what_the_umask_lets(self, store: LocalStore, folder: Path, write: Write) -> None:
        await write(store, "new/key")
        assert rights(folder / "new" / "key")[0] == 0o640
        assert rights(folder / "new")[0] == 0o750

    async def test_setuid_goes_with_the_old_content(self, store: LocalStore, folder: Path, write: Write) -> None:
        path = folder / "key"
        path.write_bytes(b"old")
        path.chmod(0o6755)
        await write(store, "key")
        assert rights(path)[0] == 0o755

    @pytest.mark.parametrize("refused", [False, True])
    async def test_owner_and_group_are_kept_by_one_who_may(
        self, store: LocalStore, folder: Path, write: Write, refused: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another group is not given what the old one had. Who owns the file is pretended: so anybody can test it."""
        path, given = folder / "key", []
        path.write_bytes(b"old")

        def fchown(_: int, owner: int, group: int) -> None:
            given.append((owner, group))
            if refused:
                raise os_error(errno.EPERM)

        monkeypatch.setattr(os, "fchown", fchown)
        monkeypatch.setattr(Rights, "of", lambda *_, **__: Rights(0o664, 12345, 23456, None))
        await write(store, "key")
        assert given[-2:] == [(-1, 23456), (12345, -1)]
        assert rights(path)[0] == (0o644 if refused else 0o664)

    async def test_an_access_control_list_is_kept(self, store: LocalStore, folder: Path, write: Write) -> None:
        path = folder / "key"
        path.write_bytes(b"old")
        os.setxattr(path, ACL, READABLE_BY_ONE)
        await write(store, "key")
        assert os.getxattr(path, ACL) == READABLE_BY_ONE
        assert rights(path)[0] == 0o640

    async def test_that_of_the_directory_is_not_given_to_what_had_none(
        self, store: LocalStore, folder: Path, write: Write
    ) -> None:
        path = folder / "key"
        path.write_bytes(b"old")
        path.chmod(0o640)
        os.setxattr(folder, "system.posix_acl_default", READABLE_BY_ONE)
        await write(store, "key")
        assert ACL not in os.listxattr(path)
        assert rights(path)[0] == 0o640

    async def test_nobody_else_can_open_it_while_it_is_written(
        self, store: LocalStore, folder: Path, write: Write, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, seen = folder / "key", set()
        path.write_bytes(b"old")
        path.chmod(0o600)
        await store.put("source", BODY)
        real = os.utime

        def look(fd: int, *, ns: tuple[int, int]) -> None:
            seen.add(stat.S_IMODE(os.fstat(fd).st_mode))
            real(fd, ns=ns)

        monkeypatch.setattr(os, "utime", look)
        await write(store, "key")
        assert 0o600 in seen
        assert seen <= {0o600, 0o640}  # the latter is the source that a copy puts first

    async def test_other_names_of_the_old_file_keep_its_content(
        self, store: LocalStore, folder: Path, write: Write
    ) -> None:
        path = folder / "key"
        path.write_bytes(b"old")
        os.link(path, folder / "other")
        await write(store, "key")
        assert (folder / "other").read_bytes() == b"old"

    async def test_an_attribute_of_the_old_content_goes_with_it(
        self, store: LocalStore, folder: Path, write: Write
    ) -> None:
        path = folder / "key"
        path.write_bytes(b"old")
        os.setxattr(path, "user.checksum", b"of what was there")
        await write(store, "key")
        assert "user.checksum" not in os.listxattr(path)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("write", [_stream, _parts_backwards, _put])
async def test_a_mode_that_is_changed_meanwhile_is_the_one_that_is_kept(
    store: LocalStore, folder: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = folder / "key", os.utime
    path.write_bytes(b"old")

    def change(fd: int, *, ns: tuple[int, int]) -> None:
        path.chmod(0o600)
        real(fd, ns=ns)

    monkeypatch.setattr(os, "utime", change)
    await write(store, "key")
    assert rights(path)[0] == 0o600


@pytest.mark.usefixtures("umask")
async def test_a_file_that_is_removed_meanwhile_was_replaced_all_the_same(store: LocalStore, folder: Path) -> None:
    path = folder / "key"
    path.write_bytes(b"old")
    path.chmod(0o604)
    upload = await store.create_upload("key")
    part = await store.upload_part(upload, 1, BODY)
    await store.delete("key")
    await store.complete_upload(upload, [part])
    assert rights(path)[0] == 0o604


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(("mode", "expected"), [(0o600, 0o600), (0o755, 0o750), (0o666, 0o640), (0o4755, 0o750)])
async def test_the_copy_of_a_private_file_is_private(store: LocalStore, folder: Path, mode: int, expected: int) -> None:
    await store.put("source", BODY)
    (folder / "source").chmod(mode)
    await store.copy("source", "copy")
    assert rights(folder / "copy")[0] == expected


@pytest.mark.parametrize("write", WRITES)
async def test_where_the_mode_cannot_be_kept_nothing_is_replaced(
    store: LocalStore, folder: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "key"
    path.write_bytes(b"old")
    path.chmod(0o644)

    monkeypatch.setattr(os, "fchmod", failing(errno.EPERM))
    with pytest.raises(PermissionDeniedError):
        await write(store, "key")
    assert path.read_bytes() == b"old"


# Directories


@pytest.mark.usefixtures("umask")
async def test_a_directory_goes_with_its_last_object(store: LocalStore, folder: Path) -> None:
    await store.put("a/b/key", b"")
    await store.delete("a/b/key")
    assert os.listdir(folder) == []


def _private(path: Path, _: pytest.MonkeyPatch) -> None:
    path.chmod(0o700)


def _sticky(path: Path, _: pytest.MonkeyPatch) -> None:
    path.chmod(0o1750)


def _listed(path: Path, _: pytest.MonkeyPatch) -> None:
    os.setxattr(path, "system.posix_acl_default", READABLE_BY_ONE)


def _of_another(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "geteuid", lambda: 12345)


def _of_a_group(_: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "getegid", lambda: 23456)


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize("change", [_private, _sticky, _listed, _of_another, _of_a_group])
async def test_one_with_rights_of_its_own_stays(
    store: LocalStore,
    folder: Path,
    change: Callable[[Path, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When its last object is deleted, and when the first one cannot be written."""
    await store.put("own/key", b"")
    change(folder / "own", monkeypatch)
    before = rights(folder / "own")
    await store.delete("own/key")
    assert os.listdir(folder / "own") == []
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing(errno.ENOSPC))
        with pytest.raises(StoreError, match="No space left"):
            await store.put("own/key", b"content")
    await store.put("own/key", b"")
    assert rights(folder / "own") == before
