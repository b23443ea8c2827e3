"""The file systems for fsspec: its own tests for who implements it, and what they leave out."""

from __future__ import annotations

import pickle
import posixpath
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator

import pytest
from fsspec.tests import abstract  # type: ignore[import-untyped]

from s3dlio import Config
from s3dlio.errors import IntegrityError, NotFoundError, ObjectChangedError, UnsupportedError
from s3dlio.fsspec import AzureFileSystem, GCSFileSystem, MemoryFileSystem, S3FileSystem, StoreFileSystem

from .places import place_of

KINDS = {kind.scheme: kind for kind in (MemoryFileSystem, S3FileSystem, AzureFileSystem, GCSFileSystem)}


LAZY = "SeaweedFS lists a folder for a while when nothing is in it any more"


@pytest.fixture(autouse=True)
def skipped(request: pytest.FixtureRequest) -> None:
    """What asks for a folder just after its last object was removed."""
    names = ("directory_to_existing_directory", "directory_to_new_directory", "glob_to_existing_directory")
    if "[s3]" in request.node.name and any(name in request.node.name for name in names):
        pytest.skip(LAZY)


@pytest.fixture
def folder(scheme: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A URI of each scheme whose objects are no files, with nothing below it; and what leads there."""
    name = str(uuid.uuid4())
    if scheme == "memory":
        yield f"memory://bucket/{name}"
        return
    with place_of(scheme, request) as place:
        for variable, value in place.environment.items():
            monkeypatch.setenv(variable, value)
        yield f"{place.root}/{name}"


@pytest.fixture(params=KINDS)
def scheme(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Fixtures(abstract.AbstractFixtures):  # type: ignore[misc]
    """What fsspec's tests ask for. They are many: the other two kinds have passed them, and are not asked each time."""

    @pytest.fixture(params=["memory", "s3"])
    def scheme(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def fs(self, folder: str) -> StoreFileSystem:
        return KINDS[folder.partition("://")[0]]()

    @pytest.fixture
    def fs_path(self, fs: StoreFileSystem, folder: str) -> str:
        return str(fs._strip_protocol(folder))

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return posixpath.join

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


class TestCopy(abstract.AbstractCopyTests, Fixtures):  # type: ignore[misc]
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):  # type: ignore[misc]
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):  # type: ignore[misc]
    pass


class TestOpen(abstract.AbstractOpenTests, Fixtures):  # type: ignore[misc]
    pass


class TestPipe(abstract.AbstractPipeTests, Fixtures):  # type: ignore[misc]
    pass


@pytest.fixture
def fs(folder: str) -> StoreFileSystem:
    return KINDS[folder.partition("://")[0]]()


def filled(fs: StoreFileSystem, folder: str) -> str:
    """A path with some files below it."""
    path = str(fs._strip_protocol(folder))
    fs.pipe({f"{path}/a": b"0123456789", f"{path}/b/c": b"cc", f"{path}/b/d/e": b""})
    return path


def test_listings(fs: StoreFileSystem, folder: str) -> None:
    path = filled(fs, folder)
    assert sorted(fs.ls(path, detail=False)) == [f"{path}/a", f"{path}/b"]
    assert {each["name"]: (each["size"], each["type"]) for each in fs.ls(folder)} == {
        f"{path}/a": (10, "file"),
        f"{path}/b": (0, "directory"),
    }
    assert [each["name"] for each in fs.ls(f"{path}/a")] == [f"{path}/a"]
    assert fs.find(path) == [f"{path}/a", f"{path}/b/c", f"{path}/b/d/e"]
    assert fs.find(f"{path}/a") == [f"{path}/a"]
    assert fs.glob(f"{path}/b/*") == [f"{path}/b/c", f"{path}/b/d"]
    assert fs.du(path) == 12
    assert (fs.isdir(f"{path}/b"), fs.isfile(f"{path}/b"), fs.isfile(f"{path}/a")) == (True, False, True)
    for look in (fs.ls, fs.info, fs.cat_file, fs.modified):
        with pytest.raises(FileNotFoundError):
            look(f"{path}/absent")
    assert fs.exists(f"{path}/absent") is False


def test_ranges(fs: StoreFileSystem, folder: str) -> None:
    path = filled(fs, folder)
    pieces = [(None, None), (2, 5), (-3, None), (8, 100), (100, 200), (3, 3), (-4, -2)]
    expected = [b"0123456789"[start:end] for start, end in pieces]
    assert [fs.cat_file(f"{path}/a", start, end) for start, end in pieces] == expected
    names = [f"{path}/a"] * len(pieces)
    starts, ends = zip(*pieces, strict=True)
    assert fs.cat_ranges(names, starts, ends) == expected
    *_, failed = fs.cat_ranges([f"{path}/a", f"{path}/absent"], 0, 4)
    assert isinstance(failed, NotFoundError)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges([f"{path}/a", f"{path}/absent"], 0, 4, on_error="raise")
    assert fs.cat(f"{path}/b", recursive=True) == {f"{path}/b/c": b"cc", f"{path}/b/d/e": b""}


def test_an_open_file_is_of_one_version(fs: StoreFileSystem, folder: str) -> None:
    path = filled(fs, folder)
    with fs.open(f"{path}/a", block_size=4, cache_type="none") as file:
        assert (file.read(3), file.seek(-2, 2), file.read()) == (b"012", 8, b"89")
        fs.pipe_file(f"{path}/a", b"9876543210")
        file.seek(0)
        with pytest.raises((ObjectChangedError, IntegrityError)):
            file.read(4)


def test_a_file_appears_when_it_is_closed_or_never(fs: StoreFileSystem, folder: str) -> None:
    path = filled(fs, folder)
    data = bytes(range(256)) * 40_000
    with fs.open(f"{path}/large", "wb", block_size=1 << 20) as file:
        file.write(data)
        assert not fs.exists(f"{path}/large")
    assert fs.cat_file(f"{path}/large") == data
    dropped = fs.open(f"{path}/dropped", "wb")
    dropped.write(data)
    del dropped
    assert not fs.exists(f"{path}/dropped")
    with pytest.raises(FileExistsError):
        fs.pipe_file(f"{path}/a", b"new", mode="create")
    with pytest.raises(UnsupportedError):
        fs.open(f"{path}/a", "ab")


def test_what_is_removed_is_gone(fs: StoreFileSystem, folder: str) -> None:
    path = filled(fs, folder)
    fs.mv(f"{path}/b", f"{path}/moved", recursive=True)
    assert fs.find(path) == [f"{path}/a", f"{path}/moved/c", f"{path}/moved/d/e"]
    fs.rm(path, recursive=True)
    assert fs.find(path) == []
    with pytest.raises(FileNotFoundError):
        fs.rm(f"{path}/never", recursive=True)


def test_versions_differ(fs: StoreFileSystem, folder: str) -> None:
    path = filled(fs, folder)
    before = fs.ukey(f"{path}/a")
    fs.pipe_file(f"{path}/a", b"other")
    assert fs.ukey(f"{path}/a") != before
    assert fs.modified(f"{path}/a").tzinfo is not None


def test_storage_options_are_settings() -> None:
    fs = S3FileSystem(endpoint=["http://a:1", "http://b:1"], anon=True)
    assert fs.config == Config(endpoint="http://a:1,http://b:1", anonymous=True)
    assert pickle.loads(pickle.dumps(fs)).config == fs.config
    with pytest.raises(TypeError):
        S3FileSystem(nonsense=1)


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        ("import fsspec", "s3dlio+memory"),
        ("import s3dlio.fsspec, fsspec; s3dlio.fsspec.register()", "memory"),
    ],
)
def test_uris_lead_here(first: str, kind: str) -> None:
    """Without an import by entry point; the plain schemes are ours when that was asked for."""
    program = f"""{first}
with fsspec.open("{kind}://bucket/key", "wb") as file:
    file.write(b"data")
print(type(fsspec.filesystem("{kind}")).__module__, fsspec.open("{kind}://bucket/key").open().read())
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("s3dlio.fsspec b'data'\n", "")
