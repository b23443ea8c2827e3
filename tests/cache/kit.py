"""A cached store in front of a memory that takes notes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from s3dlio.cache.folder import Folder
from s3dlio.cache.store import CachedStore
from s3dlio.stores.store import ObjectStore
from s3dlio.transfer import ParallelStore


@asynccontextmanager
async def opened(
    inner: ObjectStore, folder: Path, limit: int = 1 << 30, part_size: int = 100
) -> AsyncIterator[CachedStore]:
    """As `open_store` puts them together."""
    driven = {"part_size": part_size, "parts_in_flight": 3, "memory_limit": 1 << 20}
    within = inner if isinstance(inner, ParallelStore) else ParallelStore(inner, **driven)
    async with CachedStore(within, Folder(str(folder), limit), "place", **driven, threads=4) as store:
        yield store


def chunk_files(folder: Path) -> Iterator[Path]:
    """All files, in some order that is always the same."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
