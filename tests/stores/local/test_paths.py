"""No key leads out of the root, and what is no file is refused."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from s3dlio.config import Config
from s3dlio.errors import (
    InvalidKeyError,
    InvalidUriError,
    NotFoundError,
    PermissionDeniedError,
    StoreError,
    UnsupportedError,
)
from s3dlio.model import ListOptions
from s3dlio.stores.local.paths import path_of, split_file_uri, temporary_name
from s3dlio.stores.local.store import LocalStore

from ...disk import leftovers

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
    temporary_name().decode(),
    f"a/{temporary_name().decode()}/b",
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
    outside = folder / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (folder / "root").mkdir()
    before = _seen(folder)
    yield folder / "root"
    assert _seen(folder) == before
    assert not leftovers(folder)


def _seen(folder: Path) -> dict[str, bytes]:
    """Everything but what is below the root, and how it is."""
    found = [path for path in folder.rglob("*") if folder / "root" not in path.parents]
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in found}


async def _try_everything(store: LocalStore, key: str) -> list[object]:
    """Every verb, by the class of its error."""
    outcomes: list[object] = []
    for work in (
        store.put(key, b"hostile"),
        store.get(key),
        store.head(key),
        store.copy("harmless", key),
        store.copy(key, "harmless"),
        store.delete(key),
        store.create_upload(key),
    ):
        try:
            outcomes.append(await work)
        except StoreError as error:
            outcomes.append(type(error))
    return outcomes


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("key", CLIMBING)
async def test_a_key_that_no_file_can_have_is_refused_by_every_verb(root: Path, key: str) -> None:
    async with LocalStore(str(root)) as store:
        await store.put("harmless", b"")
        assert {*await _try_everything(store, key)} == {InvalidKeyError}
    assert os.listdir(root) == ["harmless"]


@pytest.mark.parametrize("follow", [False, True])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.one_of(st.text(st.sampled_from("./\0\\ a\u2024\uff0f~"), max_size=9), st.text(max_size=12)))
@example("a/../../outside/secret")
async def test_no_key_writes_outside(disk: Path, follow: bool, key: str) -> None:
    with tempfile.TemporaryDirectory(dir=disk) as name:
        root = Path(name, "root")
        (Path(name) / "outside").mkdir()
        (Path(name) / "outside" / "secret").write_bytes(b"secret")
        before = _seen(Path(name))
        async with LocalStore(str(root), Config(durable="none", follow_symlinks=follow)) as store:
            await store.put("harmless", b"")
            await _try_everything(store, key)
            try:
                expected = [os.fsdecode(path_of(key))]
            except InvalidKeyError:
                expected = []
            await store.put("harmless", b"") if expected != ["harmless"] else None
            if expected and expected != ["harmless"]:
                await store.put(key, b"content")
                assert (root / expected[0]).read_bytes() == b"content"
        assert _seen(Path(name)).keys() - {str(root)} == before.keys() - {str(root)}
        assert (Path(name) / "outside" / "secret").read_bytes() == b"secret"


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
                    with pytest.raises(PermissionDeniedError) as caught:
                        await work
                    assert caught.value.code == "ELOOP"
        assert sorted(os.listdir(linked)) == before

    async def test_are_not_listed_and_that_is_said_once(self, linked: Path) -> None:
        async with LocalStore(str(linked)) as store:
            with pytest.warns(UserWarning, match="symbolic link") as caught:
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
            with pytest.warns(UserWarning, match="no object"):
                keys = [meta.key for meta in (await store.list_page()).objects]
            assert {"absolute", "file", "inside", "to a directory/secret", "below/up/outside/secret"} <= {*keys}
            assert not any(key.count("up/") > 1 for key in keys)
            await store.put("inside", b"replaces the link")
            assert await store.get("file") == b"inside"
        (linked / "to a file").unlink()


class TestWhatIsNoFile:
    @pytest.fixture
    def special(self, folder: Path) -> Iterator[Path]:
        os.mkfifo(folder / "fifo")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.path.relpath(folder / "socket"))
            yield folder
        assert (folder / "fifo").is_fifo()
        assert (folder / "socket").is_socket()

    @pytest.mark.parametrize("key", ["fifo", "socket"])
    async def test_is_refused_at_once(self, special: Path, key: str) -> None:
        async with LocalStore(str(special)) as store:
            for work in (store.get(key), store.head(key), store.put(key, b""), store.delete(key), store.exists(key)):
                with pytest.raises(UnsupportedError, match="not a regular file"):
                    await work
            await store.put("file", b"")
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
