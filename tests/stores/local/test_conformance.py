"""The conformance suite on directories: a key is a path, and what no path can be is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from s3dlio.config import Config
from s3dlio.errors import InvalidKeyError, NotFoundError
from s3dlio.stores.local.direct import DirectStore
from s3dlio.stores.local.store import LocalStore
from s3dlio.stores.store import ObjectStore
from s3dlio.stores.wrapper import PrefixStore
from s3dlio.transfer import ParallelStore

from ...disk import leftovers
from ..conformance import NAMES, RANGE, StoreConformance, listed


class OnFiles(StoreConformance):
    refused_keys: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("two//slashes", "/leading", "trailing/"), "an empty segment"),
        **dict.fromkeys(("dot/./segment", "dot/../segment", ".", ".."), "a segment that is no name"),
    }
    names: ClassVar[Sequence[str]] = [name for name in NAMES if name != "a"]

    @pytest.fixture
    async def files(self, folder: Path) -> AsyncIterator[LocalStore]:
        async with LocalStore(str(folder), Config(durable="none")) as store:
            yield store
        assert not leftovers(folder)

    @pytest.fixture
    def store(self, files: LocalStore) -> ObjectStore:
        return files

    async def test_a_marker_of_a_folder_is_an_object(self, store: ObjectStore) -> None:
        """Not here: a file's name does not end in a slash."""
        with pytest.raises(InvalidKeyError):
            await store.put("folder/", b"")
        assert await listed(store) == []

    async def test_delete_removes_one_object_and_bears_its_absence(self, store: ObjectStore) -> None:
        await store.put("a/b", b"")
        await store.put("a/c", b"")
        for key in ("a/b", "a/b", "never there", "a/c/below a file", "a"):
            await store.delete(key)
        assert [meta.key for meta in await listed(store)] == ["a/c"]

    async def test_a_file_is_no_directory_and_a_directory_no_file(self, store: ObjectStore) -> None:
        await store.put("file", b"content")
        await store.put("directory/file", b"content")
        for key in ("directory", "file/below"):
            assert not await store.exists(key)
            for work in (store.get(key), store.head(key), store.copy(key, "target")):
                with pytest.raises(NotFoundError):
                    await work
            for write in (store.put(key, b"new"), store.copy("file", key)):
                with pytest.raises(InvalidKeyError) as caught:
                    await write
                assert caught.value.code in {"EISDIR", "ENOTDIR"}
        assert [meta.key for meta in await listed(store)] == ["directory/file", "file"]


class TestLocal(OnFiles):
    pass


class TestLocalDurable(OnFiles):
    @pytest.fixture
    async def files(self, folder: Path) -> AsyncIterator[LocalStore]:
        async with LocalStore(str(folder / "made" / "by the first write"), Config(durable="full")) as store:
            await store.put("first", b"")
            await store.delete("first")
            yield store


class TestLocalBelowAPrefix(OnFiles):
    @pytest.fixture
    async def store(self, files: LocalStore) -> ObjectStore:
        for key in ("below0", "a", "z"):
            await files.put(key, b"outside")
        return PrefixStore(files, "below/")


class TestLocalInParallel(OnFiles):
    @pytest.fixture
    def store(self, files: LocalStore) -> ObjectStore:
        return ParallelStore(files, part_size=RANGE, parts_in_flight=3)


class TestLocalFollowingLinks(OnFiles):
    @pytest.fixture
    async def files(self, folder: Path) -> AsyncIterator[LocalStore]:
        (folder / "real").mkdir()
        (folder / "root").symlink_to("real")
        async with LocalStore(str(folder / "root"), Config(durable="none", follow_symlinks=True)) as store:
            yield store


class TestLocalWithoutOpenat2(OnFiles):
    @pytest.fixture(autouse=True)
    def old_kernel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("s3dlio.stores.local.paths._has_openat2", lambda: False)


class TestDirect(OnFiles):
    @pytest.fixture
    async def files(self, folder: Path) -> AsyncIterator[LocalStore]:
        async with DirectStore(str(folder), Config(durable="none")) as store:
            yield store
            assert store.direct_stats.fallbacks == 0
        assert not leftovers(folder)


class TestDirectInParallel(TestDirect):
    @pytest.fixture
    def store(self, files: LocalStore) -> ObjectStore:
        return ParallelStore(files, part_size=RANGE, parts_in_flight=3)
