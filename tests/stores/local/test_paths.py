"""No key leads out of the root, and what is no file is refused."""

from __future__ import annotations

import os
import socket
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import s3dlio
from s3dlio.config import Config
from s3dlio.errors import (
    InvalidKeyError,
    InvalidUriError,
    NotFoundError,
    PermissionDeniedError,
    StoreError,
    UnsupportedError,
)
from s3dlio.model import BoundedRange, ListOptions, PutOptions
from s3dlio.stores.local.direct import DirectStore
from s3dlio.stores.local.paths import path_of, split_file_uri, temporary_name
from s3dlio.stores.local.store import LocalStore
from s3dlio.transfer import ParallelStore
from s3dlio.urls import open_store

from ...disk import leftovers

FOLLOW = r"Config\(follow_symlinks=True\) or S3DLIO_FOLLOW_SYMLINKS=1"

CLIMBING = [
    *(
        "..",
        "../outside",
        "../outside/secret",
        "a/../../outside/secret",
        "a/..",
        "/outside",
        "//outside",
        "/etc/passwd",
    ),
    *("./a", "a/.", "a//b", "a/", "/", "nul\0inside", "\0", "s" * 256, "a/" + "s" * 256, "é" * 128, "\ud800"),
    pytest.param(temporary_name().decode(), id="a temporary name"),
    pytest.param(f"a/{temporary_name().decode()}/b", id="below a temporary name"),
]


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("/data/train/", ("/data/train", "")),
        ("/data/train", ("/data", "train")),
        ("/a/b.bin", ("/a", "b.bin")),
        ("/b.bin", ("/", "b.bin")),
        ("/", ("/", "")),
        ("//", ("/", "")),
        ("/data//b.bin", ("/data", "b.bin")),
        ("/a%20b/é ?#", ("/a%20b", "é ?#")),
    ],
)
def test_a_uri_is_cut_into_root_and_key(rest: str, expected: tuple[str, str]) -> None:
    assert split_file_uri(rest) == expected


@pytest.mark.parametrize("rest", ["", "data/train/", "localhost/data", "~/data/", "/a\0b"])
def test_a_uri_without_an_absolute_path_is_refused(rest: str) -> None:
    with pytest.raises(InvalidUriError):
        split_file_uri(rest)


@pytest.fixture(params=["openat2", "step by step"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system call that resolves beneath a directory, and as on kernels without it."""
    if request.param == "step by step":
        monkeypatch.setattr("s3dlio.stores.local.paths._has_openat2", lambda: False)


@pytest.fixture
def root(folder: Path) -> Iterator[Path]:
    """A root, beside what is none of its business and stays as it was."""
    root = _beside_a_secret(folder)
    before = _seen(folder)
    yield root
    assert _seen(folder) == before
    assert not leftovers(folder)


def _beside_a_secret(folder: Path) -> Path:
    outside, root = folder / "outside", folder / "root"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    root.mkdir()
    return root


def _seen(folder: Path) -> dict[str, bytes]:
    """Everything but what is below the root, and how it is."""
    found = [path for path in folder.rglob("*") if folder / "root" not in path.parents]
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in found}


async def _try_everything(store: LocalStore, key: str) -> list[object]:
    """Every verb, by the class of its error."""
    outcomes: list[object] = []
    parallel = ParallelStore(store, part_size=5 << 20, parts_in_flight=2)
    for work in (
        store.put(key, b"hostile"),
        store.put(key, b"hostile", PutOptions(if_none_match=True)),
        store.put(key, b"hostile", PutOptions(if_match='"etag"')),
        parallel.put(key, bytes(6 << 20)),
        store.get(key),
        store.get_range(key, BoundedRange(0, 1)),
        store.get_into(key, memoryview(bytearray(1))),
        store.get_into(key, memoryview(b"")),
        parallel.get(key),
        store.head(key),
        store.exists(key),
        store.copy("harmless", key),
        store.copy(key, "harmless"),
        store.delete(key),
        store.delete_many([key]),
        store.create_upload(key),
    ):
        try:
            outcomes.append(await work)
        except StoreError as error:
            outcomes.append(type(error))
    return outcomes


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("kind", [LocalStore, DirectStore])
@pytest.mark.parametrize("key", CLIMBING)
async def test_a_key_that_no_file_can_have_is_refused_by_every_verb(
    root: Path, kind: type[LocalStore], key: str
) -> None:
    async with kind(str(root)) as store:
        await store.put("harmless", b"")
        assert {*await _try_everything(store, key)} == {InvalidKeyError}
    assert os.listdir(root) == ["harmless"]


def _path_below(root: Path, key: str) -> Path | None:
    try:
        return root / os.fsdecode(path_of(key))
    except InvalidKeyError:
        return None


_TEXT = st.one_of(
    st.text(st.sampled_from("./\0\\ a\n\ud800\udcff\u2024\uff0f~"), max_size=9),
    st.text(st.characters(), max_size=12),
    st.lists(st.sampled_from(["..", ".", "", "a", "outside", "secret", "~", "\n"]), max_size=5).map("/".join),
)


@pytest.mark.parametrize("kind", [LocalStore, DirectStore])
@pytest.mark.parametrize("follow", [False, True])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=_TEXT)
@example("a/../../outside/secret")
async def test_no_key_leads_outside(disk: Path, kind: type[LocalStore], follow: bool, key: str) -> None:
    """Nothing outside is read, written, listed or removed: every answer is that of a file below, or an error."""
    with tempfile.TemporaryDirectory(dir=disk) as name:
        root = _beside_a_secret(Path(name))
        before = _seen(Path(name))
        async with kind(str(root), Config(durable="none", follow_symlinks=follow)) as store:
            await store.put("harmless", b"")
            assert b"secret" not in await _try_everything(store, key)
            page = await store.list_page(key)
            assert all(meta.key.startswith(key) for meta in page.objects)
            if path := _path_below(root, key):
                await store.put(key, b"content")
                assert _seen(path.parent)[str(path)] == b"content"
        assert _seen(Path(name)) == before


@pytest.mark.usefixtures("kernel")
class TestSymbolicLinks:
    @pytest.fixture
    def linked(self, root: Path) -> Path:
        (root / "file").write_bytes(b"inside")
        (root / "to a file").symlink_to("../outside/secret")
        (root / "to a directory").symlink_to("../outside")
        (root / "absolute").symlink_to(root.parent / "outside" / "secret")
        (root / "inside").symlink_to("file")
        (root / "broken").symlink_to("nothing")
        (root / "circle").symlink_to("circle")
        (root / "below").mkdir()
        (root / "below" / "up").symlink_to("../..")
        return root

    async def test_are_refused(self, linked: Path) -> None:
        before = sorted(os.listdir(linked))
        async with LocalStore(str(linked)) as store:
            for key in (
                *("to a file", "to a directory/secret", "to a directory/new", "absolute", "inside", "broken", "circle"),
                *("circle/new", "below/up/outside/secret", "below/up/new/new"),
            ):
                for work in (
                    store.get(key),
                    store.head(key),
                    store.put(key, b""),
                    store.copy("file", key),
                    store.copy(key, "file"),
                    store.delete(key),
                ):
                    with pytest.raises(PermissionDeniedError, match=FOLLOW) as caught:
                        await work
                    assert caught.value.code == "ELOOP"
                    assert caught.value.key in {key, "file"}
        assert sorted(os.listdir(linked)) == before

    async def test_are_not_listed_and_that_is_said_once(self, linked: Path) -> None:
        async with LocalStore(str(linked)) as store:
            with pytest.warns(UserWarning, match=f"symbolic link .{FOLLOW}") as caught:
                page = await store.list_page()
            assert len(caught) == 1
            assert [meta.key for meta in page.objects] == ["file"]
            assert (await store.list_page("to a directory/")).objects == ()
            assert (await store.list_page("", ListOptions(delimiter="/"))).prefixes == ()

    async def test_are_followed_where_that_is_asked_for(self, linked: Path) -> None:
        async with LocalStore(str(linked), Config(follow_symlinks=True)) as store:
            assert await store.get("to a file") == b"secret"
            assert await store.get("to a directory/secret") == b"secret"
            assert await store.get("inside") == b"inside"
            with pytest.raises(NotFoundError):
                await store.get("broken")
            with pytest.raises(PermissionDeniedError, match="too many symbolic links"):
                await store.get("circle")
            with pytest.warns(UserWarning, match="no object"):
                keys = [meta.key for meta in (await store.list_page()).objects]
            assert {"absolute", "file", "inside", "to a directory/secret", "below/up/outside/secret"} <= {*keys}
            assert not any(key.count("up/") > 1 for key in keys)
            await store.put("inside", b"replaces the link")
            assert await store.get("file") == b"inside"
        (linked / "to a file").unlink()


@pytest.fixture
def snapshot(folder: Path) -> Path:
    """What the Hugging Face cache makes: a folder of links to blobs beside it."""
    blobs, snapshot = folder / "blobs", folder / "snapshots" / "0123abc"
    blobs.mkdir()
    (snapshot / "data").mkdir(parents=True)
    for name in ("config.json", "data/train-0.parquet", "data/train-1.parquet"):
        blob = blobs / f"{zlib.crc32(name.encode()):08x}"
        blob.write_bytes(name.encode())
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    return snapshot


class TestASnapshotOfTheHuggingFaceCache:
    async def test_is_read_by_one_variable(self, snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("S3DLIO_FOLLOW_SYMLINKS", "1")
        for scheme in ("file", "direct"):
            async with open_store(f"{scheme}://{snapshot}/") as store:
                keys = [meta.key async for page in store.list() for meta in page.objects]
                assert keys == ["config.json", "data/train-0.parquet", "data/train-1.parquet"]
                assert [await store.get(key) for key in keys] == [key.encode() for key in keys]
        async with open_store(f"file://{snapshot}/") as store:
            await store.delete("config.json")
        assert sorted(os.listdir(snapshot)) == ["data"]
        assert len(os.listdir(snapshot.parents[1] / "blobs")) == 3

    def test_is_not_without_and_the_variable_is_named(self, snapshot: Path) -> None:
        with pytest.warns(UserWarning, match="S3DLIO_FOLLOW_SYMLINKS"):
            assert [*s3dlio.list(f"file://{snapshot}/")] == []
        with pytest.raises(PermissionError, match="S3DLIO_FOLLOW_SYMLINKS"):
            s3dlio.get(f"file://{snapshot}/config.json")


class TestWhatIsNoFile:
    @pytest.fixture
    def special(self, folder: Path) -> Iterator[Path]:
        os.mkfifo(folder / "fifo")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(folder / "socket"))
            yield folder
        assert (folder / "fifo").is_fifo()
        assert (folder / "socket").is_socket()

    @pytest.mark.parametrize("kind", [LocalStore, DirectStore])
    @pytest.mark.parametrize("key", ["fifo", "socket"])
    async def test_is_refused_at_once(self, special: Path, kind: type[LocalStore], key: str) -> None:
        async with kind(str(special)) as store:
            await store.put("file", b"")
            for work in (
                store.get(key),
                store.get_range(key, BoundedRange(0, 1)),
                store.get_into(key, memoryview(bytearray(1))),
                store.head(key),
                store.exists(key),
                store.put(key, b""),
                store.put(key, b"", PutOptions(if_match='"etag"')),
                store.copy("file", key),
                store.copy(key, "file"),
                store.delete(key),
                _upload(store, key),
            ):
                with pytest.raises(UnsupportedError, match="not a regular file"):
                    await work
            with pytest.warns(UserWarning, match="special file"):
                assert [meta.key for meta in (await store.list_page()).objects] == ["file"]

    async def test_devices_are_not_read(self) -> None:
        async with LocalStore("/dev") as store:
            for work in (store.get("null"), store.head("zero")):
                with pytest.raises(UnsupportedError):
                    await work


async def test_a_name_that_is_not_utf8_is_not_listed_and_that_is_said(folder: Path) -> None:
    os.close(os.open(os.fsencode(folder) + b"/\xff", os.O_CREAT))
    async with LocalStore(str(folder)) as store:
        with pytest.warns(UserWarning, match="not UTF-8"):
            assert (await store.list_page()).objects == ()


async def _upload(store: LocalStore, key: str) -> None:
    upload = await store.create_upload(key)
    await store.complete_upload(upload, [await store.upload_part(upload, 1, b"")])


@pytest.mark.parametrize("root", ["/nul\0inside", "/\ud800"])
def test_a_root_that_no_directory_can_be(root: str) -> None:
    with pytest.raises(InvalidUriError, match="path"):
        LocalStore(root)


async def test_a_root_that_is_not_there(folder: Path) -> None:
    async with LocalStore(str(folder / "absent")) as store:
        for work in (store.get("key"), store.list_page(), store.copy("key", "other")):
            with pytest.raises(NotFoundError):
                await work
        await store.delete("key")
        assert not await store.exists("key")
        assert not (folder / "absent").exists()


async def test_a_root_that_is_a_file(folder: Path) -> None:
    (folder / "file").touch()
    async with LocalStore(str(folder / "file")) as store:
        for work in (store.get("key"), store.list_page(), store.put("key", b"")):
            with pytest.raises(StoreError):
                await work
