"""Processes that share a cache are killed while they read and write it: `python -m tests.cache.survival --help`.

Some writers, forked from one process, read whole objects and ranges of them through one small cache, and compare every
byte. Each kills itself by SIGKILL before some line of what writes and removes files; a new one takes its place. In the
end what is in the folder is read once more. A seed says what is read, and how many lines a writer has.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import tempfile
import threading
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import trio

from s3dlio.cache import chunks
from s3dlio.cache.chunks import ABANDONED
from s3dlio.cache.folder import Folder
from s3dlio.model import BoundedRange
from s3dlio.stores.memory import MemoryStore

from .kit import chunk_files, opened

if TYPE_CHECKING:
    from _typeshed import TraceFunction

CHUNK, BLOCK, PART = 64 << 10, 16 << 10, 1 << 20
OBJECTS, LARGEST = 40, 300_000
LIMIT = 4 << 20
"""Two thirds of what there is, so that chunks are removed and written all the time; one chunk more for each who is
killed while it writes one."""
MOST_LINES = 60
_CHANGES = {Folder.write.__code__, Folder.sweep.__code__}


async def made() -> MemoryStore:
    """A store of all objects, which every writer has."""
    store = MemoryStore()
    for number in range(OBJECTS):
        chance = random.Random(number)
        await store.put(str(number), chance.randbytes(chance.randint(1, LARGEST)))
    return store


def limit_lines(lines: int) -> None:
    """Have this process killed when its threads have executed so many lines that change files of the cache."""
    left = itertools.count(lines, -1)

    def count(frame: FrameType, event: str, _: object) -> TraceFunction:
        if event == "line" and not next(left):
            os.kill(os.getpid(), signal.SIGKILL)
        return count

    def begin(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        return count if frame.f_code in _CHANGES else None

    threading.settrace(begin)


async def read(inside: MemoryStore, folder: Folder, seed: int) -> NoReturn:
    """Read for ever. Errors: `AssertionError` for a wrong byte."""
    chance, metas = random.Random(seed), (await inside.list_page()).objects
    async with opened(inside, Path(folder.path), folder.limit, PART) as store:
        while True:
            meta = chance.choice(metas)
            data, start = await inside.get(meta.key), chance.randrange(meta.size)
            end = min(start + chance.choice((1, 5000, 100_000)), meta.size)
            if chance.random() < 0.5:
                assert await store.get(meta.key, known=meta) == data
            else:
                found = await store.get_range(meta.key, BoundedRange(start, end), if_match=meta.etag)
                assert found == data[start:end]


def start(inside: MemoryStore, folder: Folder, seed: int) -> int:
    """A writer, by its process id."""
    child = os.fork()
    if child:
        return child
    try:
        limit_lines(random.Random(seed).randint(1, MOST_LINES))
        trio.run(read, inside, folder, seed)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


async def check(inside: MemoryStore, folder: Path) -> int:
    """Read all there is; how many chunks are kept. Errors: `AssertionError` for a wrong byte, and for what is left."""
    for file in chunk_files(folder):
        if file.suffix == ".tmp":
            os.utime(file, (0, time.time() - 2 * ABANDONED))
    Folder(str(folder), 1 << 40).sweep()
    files = list(chunk_files(folder))
    assert not [file for file in files if file.suffix == ".tmp"]
    async with opened(inside, folder, 1 << 40, PART) as store:
        for meta in (await inside.list_page()).objects:
            assert await store.get(meta.key) == await inside.get(meta.key)
    return len(files)


def survive(kills: int, writers: int, seed: int) -> str:
    """Have so many writers killed. Errors: `AssertionError`."""
    chunks.CHUNK, chunks.BLOCK = CHUNK, BLOCK
    chance, inside = random.Random(seed), trio.run(made)
    with tempfile.TemporaryDirectory(prefix="survival-") as name:
        folder = Folder(name, LIMIT + kills * CHUNK)
        running = {start(inside, folder, chance.getrandbits(32)) for _ in range(writers)}
        try:
            for _ in range(kills):
                writer, status = os.wait()
                running.remove(writer)
                assert status == signal.SIGKILL, "a writer has failed"
                running.add(start(inside, folder, chance.getrandbits(32)))
        finally:
            for writer in running:
                os.kill(writer, signal.SIGKILL)
                os.waitpid(writer, 0)
        kept = trio.run(check, inside, Path(name))
    return f"{kills} kills, {kept} chunks left, no wrong byte"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    print(survive(wanted.kills, wanted.writers, wanted.seed))


if __name__ == "__main__":
    main()
