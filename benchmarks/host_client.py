"""A client of :mod:`.hosts`: `python -m benchmarks.host_client BUCKET SEED CHECKSUMS SECONDS`.

It reads all objects that the file CHECKSUMS names, again and again, each time in another order, and compares them. It
imports little, as several begin at once.
"""

from __future__ import annotations

import json
import random
import sys
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import trio

import s3dlio

STEP = 1.0
"""Seconds between two samples."""


@dataclass(frozen=True)
class Sample:
    """What a client had done at a moment of the monotonic clock, which is the same for all processes."""

    at: float
    read: int = 0
    failed: int = 0
    wrong: int = 0
    received: Mapping[str, int] = field(default_factory=dict)
    """Bytes by endpoint."""
    attempts: Mapping[str, int] = field(default_factory=dict)
    """Attempts that were not answered as asked, which the engine made up for, by what became of them."""


class Reader:
    """Reads the objects of `bucket`, and compares them with `checksums`, by key."""

    def __init__(self, bucket: str, seed: int, checksums: Mapping[str, int]) -> None:
        self._uri = f"s3://{bucket}"
        self._random = random.Random(seed)
        self._checksums = checksums
        self._read = self._failed = self._wrong = 0

    async def run(self, seconds: float) -> None:
        """Print a :class:`Sample` each second, the first one when the first object is there."""
        async with s3dlio.open_store(self._uri) as store, trio.open_nursery() as nursery:
            await store.get(next(iter(self._checksums)))
            nursery.start_soon(self._tell, store)
            with trio.move_on_after(seconds):
                while True:
                    await self._epoch(store)
            nursery.cancel_scope.cancel()

    async def _epoch(self, store: s3dlio.ParallelStore) -> None:
        keys = self._random.sample([*self._checksums], len(self._checksums))
        async with store.get_many(keys) as bodies:
            while True:
                try:
                    key, body = await anext(bodies)
                except StopAsyncIteration:
                    return
                except s3dlio.StoreError as error:
                    self._failed += 1
                    print(f"{type(error).__name__}: {error}", file=sys.stderr)
                else:
                    self._read += len(body)
                    self._wrong += zlib.crc32(body) != self._checksums[key]

    async def _tell(self, store: s3dlio.ParallelStore) -> None:
        while True:
            print(json.dumps(asdict(self._sample(store.stats()))), flush=True)
            await trio.sleep(STEP)

    def _sample(self, stats: s3dlio.Stats) -> Sample:
        received = {each.endpoint: each.received for each in stats.endpoints}
        kinds = {kind for each in stats.endpoints for kind in each.failures}
        attempts = {kind: sum(each.failures.get(kind, 0) for each in stats.endpoints) for kind in sorted(kinds)}
        return Sample(time.monotonic(), self._read, self._failed, self._wrong, received, attempts)


def main() -> None:
    bucket, seed, checksums, seconds = sys.argv[1:]
    trio.run(Reader(bucket, int(seed), json.loads(Path(checksums).read_text())).run, float(seconds))


if __name__ == "__main__":
    main()
