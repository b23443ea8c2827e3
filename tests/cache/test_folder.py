"""The files of the cache: past the page cache, noted when used, and nothing removed that is not the cache's own."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from s3dlio.cache.chunks import ABANDONED, chunk_name
from s3dlio.cache.folder import Folder

from ..alignment.page_cache import cached_pages, evict

DATA = random.Random(1).randbytes((3 << 20) + 5)
NAME = chunk_name("version", 0)
LONG_AGO = time.time() - 2 * ABANDONED


@pytest.fixture
def cache(folder: Path) -> Folder:
    made = Folder(str(folder), 1 << 30)
    made.write(NAME, memoryview(DATA), proven=True)
    return made


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize(("start", "end"), [(0, len(DATA)), (7, 9), ((1 << 20) - 1, (2 << 20) + 1)])
def test_bytes_are_read_past_the_page_cache(cache: Folder, folder: Path, start: int, end: int) -> None:
    evict(folder / NAME)
    view = memoryview(bytearray(end - start))
    assert cache.read(NAME, len(DATA), start, view) is True
    assert view == DATA[start:end]
    assert cached_pages(folder / NAME) < 64  # of 769: what the kernel reads with the trailer


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("size", [1, 100_000, 1 << 20])
def test_a_chunk_of_any_size_is_read_as_written(cache: Folder, size: int) -> None:
    name, data = chunk_name("other", 1), memoryview(DATA)[:size]
    cache.write(name, data, proven=False)
    view = memoryview(bytearray(size))
    assert cache.read(name, size, 0, view) is False
    assert view == data
    assert cache.read(name, size + 1, 0, memoryview(bytearray(size))) is None


def test_a_use_is_noted_once_in_a_while(cache: Folder, folder: Path) -> None:
    for before, noted in ((LONG_AGO, True), (time.time() - 1, False)):
        os.utime(folder / NAME, (before, before))
        cache.read(NAME, len(DATA), 0, memoryview(bytearray(1)))
        assert (os.stat(folder / NAME).st_mtime > before + 0.5) == noted


def test_a_sweep_leaves_alone_what_others_put_there(cache: Folder, folder: Path) -> None:
    theirs = [folder / "notes.txt", folder / NAME[:2] / "notes.txt", folder / "photos" / ("0" * 38)]
    ours = [folder / NAME, folder / f"{NAME}.01234567.tmp", folder / f"{NAME}.89abcdef.tmp"]
    for path in (*theirs, *ours[1:]):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"1")
    for path in (*theirs, *ours[:2]):
        os.utime(path, (LONG_AGO, LONG_AGO))
    cache.limit = 10
    cache.sweep()
    assert [path.exists() for path in theirs] == [True] * 3
    assert [path.exists() for path in ours] == [False, False, True]
