"""`s3dlio bench`: how fast a place is from here. What it writes there is removed at the end."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import NamedTuple
from uuid import uuid4

from .. import blocking
from ..endpoint_stats import size_text
from .output import emit
from .places import is_folder, uri_of


class Timed(NamedTuple):
    """What was done with how many objects and bytes, in how many seconds."""

    what: str
    objects: int
    bytes: int
    seconds: float

    def __str__(self) -> str:
        rate = f"{size_text(self.bytes / self.seconds)}/s" if self.bytes else ""
        return f"{self.what:8} {self.objects / self.seconds:>10,.0f} objects/s {rate:>12}"


def bench(arguments: Namespace) -> None:
    """Write, list, read and remove objects below the place, and tell how long each took."""
    root = uri_of(arguments.uri)
    folder = f"{root}{'' if is_folder(root) else '/'}.s3dlio-bench-{uuid4().hex}/"
    try:
        for timed in measured(folder, arguments.count, arguments.size):
            emit(timed._asdict(), str(timed), as_json=arguments.json)
    finally:
        if left := blocking.list(folder).uris:
            blocking.delete_many(left, progress=False)


def measured(folder: str, count: int, size: int) -> Iterator[Timed]:
    """Each verb, with `count` objects of `size` bytes."""
    body = os.urandom(size)
    uris = [f"{folder}{number:06}" for number in range(count)]
    yield _timed("write", count, count * size, lambda: blocking.put_many([(u, body) for u in uris], progress=False))
    yield _timed("list", count, 0, lambda: blocking.list(folder).uris)
    for what in ("read", "again"):
        yield _timed(what, count, count * size, lambda: blocking.get_many(uris, progress=False))
    yield _timed("remove", count, 0, lambda: blocking.delete_many(uris, progress=False))


def _timed(what: str, objects: int, size: int, work: Callable[[], object]) -> Timed:
    begun = time.perf_counter()
    work()
    return Timed(what, objects, size, time.perf_counter() - begun)
