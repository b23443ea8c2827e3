"""Processes that share a cache are killed while they read and write it: `python -m tests.cache.survival --help`.

Some writers, forked from one process, read whole objects and ranges of them through one small cache, and compare every
byte. When one has told of a read, another, whichever, is killed by SIGKILL, wherever it is just then, and a new one
takes its place. In the end what is in the folder is read once more. A seed says who is killed and what is read.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import trio

from s3dlio.cache.chunks import ABANDONED
from s3dlio.cache.folder import Folder
from s3dlio.model import BoundedRange, ObjectMeta
from s3dlio.stores.memory import MemoryStore

from .kit import chunk_files, opened

SIZES = (1, 100_000, 300_000, 1 << 20, (3 << 20) + 1, 9 << 20, 17 << 20)
LIMIT, PART = 40 << 20, 8 << 20


def contents() -> dict[str, bytes]:
    return {str(number): random.Random(number).randbytes(size) for number, size in enumerate(SIZES)}


async def read(objects: dict[str, bytes], folder: Path, seed: int, told: int) -> NoReturn:
    """Read for ever; a byte is written to `told` after every read. Errors: `AssertionError` for a wrong byte."""
    chance, inside = random.Random(seed), MemoryStore()
    metas = {key: ObjectMeta(key, len(data), (await inside.put(key, data)).etag) for key, data in objects.items()}
    async with opened(inside, folder, LIMIT, PART) as store:
        while True:
            key = chance.choice(list(objects))
            start = chance.randrange(len(objects[key]))
            end = min(start + chance.choice((1, 5000, 2 << 20)), len(objects[key]))
            if chance.random() < 0.5:
                assert await store.get(key, known=metas[key]) == objects[key]
            else:
                found = await store.get_range(key, BoundedRange(start, end), if_match=metas[key].etag)
                assert found == objects[key][start:end]
            os.write(told, b".")


def start(objects: dict[str, bytes], folder: Path, seed: int, told: int) -> int:
    """A writer, by its process id."""
    child = os.fork()
    if child:
        return child
    try:
        trio.run(read, objects, folder, seed, told)
    finally:
        os._exit(1)


async def check(objects: dict[str, bytes], folder: Path) -> int:
    """Read all there is; how many chunks are kept. Errors: `AssertionError` for a wrong byte, and for what is left."""
    for file in chunk_files(folder):
        if file.suffix == ".tmp":
            os.utime(file, (0, time.time() - 2 * ABANDONED))
    Folder(str(folder), 1 << 40).sweep()
    files = list(chunk_files(folder))
    assert not [file for file in files if file.suffix == ".tmp"]
    async with opened(inside := MemoryStore(), folder, 1 << 40, PART) as store:
        for key, data in objects.items():
            await inside.put(key, data)
            assert await store.get(key) == data
    return len(files)


def survive(kills: int, writers: int, seed: int) -> str:
    """Kill so many writers. Errors: `AssertionError`."""
    chance, objects = random.Random(seed), contents()
    heard, told = os.pipe()
    with tempfile.TemporaryDirectory(prefix="survival-") as name:
        folder = Path(name)
        running = [start(objects, folder, chance.getrandbits(32), told) for _ in range(writers)]
        reads = 0
        try:
            for _ in range(kills):
                for _ in range(chance.randint(1, writers)):
                    reads += len(os.read(heard, 1))
                number = chance.randrange(writers)
                os.kill(running[number], signal.SIGKILL)
                assert os.waitpid(running[number], 0)[1] == signal.SIGKILL, "a writer has failed"
                running[number] = start(objects, folder, chance.getrandbits(32), told)
        finally:
            for writer in running:
                with suppress(ProcessLookupError):
                    os.kill(writer, signal.SIGKILL)
            ended = [os.waitpid(writer, 0)[1] for writer in running]
        assert ended == [signal.SIGKILL] * writers, "a writer has failed"
        kept = trio.run(check, objects, folder)
    return f"{kills} kills, {reads} reads heard of, {kept} chunks left, no wrong byte"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    print(survive(wanted.kills, wanted.writers, wanted.seed))


if __name__ == "__main__":
    main()
