"""The verbs of blocking calls, to be awaited by programs that run on asyncio.

    from s3dlio import aio

    content = await aio.get("s3://bucket/key")
    async for entry in aio.list("s3://bucket/train/"):
        ...

Each has the name, the arguments and the errors of the one in :mod:`s3dlio`; `list`, `glob` and `walk` are gone through
by `async for`. A verb runs in a thread, up to 64 of them at once, and its requests where those of all blocking calls
do. When the task that awaits it is cancelled, they are cancelled, too: nothing is left behind.
"""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache, partial, wraps
from itertools import islice
from typing import ParamSpec, TypeVar

from . import blocking
from .blocking.portal import Interruption

P = ParamSpec("P")
T = TypeVar("T")

_AT_ONCE = 64
_AHEAD = 1000
"""Entries that are taken at a time, as a listing's page has so many."""


@cache
def _threads(_process: int) -> ThreadPoolExecutor:
    """Those of this process: a forked child inherits none."""
    return ThreadPoolExecutor(_AT_ONCE, "s3dlio-aio")


async def _in_thread(call: Callable[[], T]) -> T:
    interruption = Interruption()
    running = _threads(os.getpid()).submit(copy_context().run, interruption.run, call)
    future = asyncio.wrap_future(running)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        interruption.interrupt()
        if not running.cancel():  # it has begun
            await asyncio.wait([future])
            future.exception()  # asked for, as asyncio complains of errors that nobody looks at
        raise


def _awaited(verb: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """`verb`, to be awaited."""

    @wraps(verb)
    async def awaited(*arguments: P.args, **named: P.kwargs) -> T:
        return await _in_thread(partial(verb, *arguments, **named))

    return awaited


def _followed(verb: Callable[P, Iterable[T]]) -> Callable[P, AsyncGenerator[T]]:
    """`verb`, whose results are gone through by `async for`."""

    @wraps(verb)
    async def followed(*arguments: P.args, **named: P.kwargs) -> AsyncGenerator[T]:
        results = iter(await _in_thread(partial(verb, *arguments, **named)))
        while some := await _in_thread(lambda: builtins.list(islice(results, _AHEAD))):
            for each in some:
                yield each

    return followed


get = _awaited(blocking.get)
get_range = _awaited(blocking.get_range)
get_into = _awaited(blocking.get_into)
get_many = _awaited(blocking.get_many)
put = _awaited(blocking.put)
put_bytes = _awaited(blocking.put_bytes)
put_many = _awaited(blocking.put_many)
stat = _awaited(blocking.stat)
exists = _awaited(blocking.exists)
presign = _awaited(blocking.presign)
delete = _awaited(blocking.delete)
delete_many = _awaited(blocking.delete_many)
copy = _awaited(blocking.copy)
move = _awaited(blocking.move)
upload = _awaited(blocking.upload)
download = _awaited(blocking.download)
sync = _awaited(blocking.sync)
list = _followed(blocking.list)
glob = _followed(blocking.glob)
walk = _followed(blocking.walk)

__all__ = [
    "copy",
    "delete",
    "delete_many",
    "download",
    "exists",
    "get",
    "get_into",
    "get_many",
    "get_range",
    "glob",
    "move",
    "presign",
    "put",
    "put_bytes",
    "put_many",
    "stat",
    "sync",
    "upload",
    "walk",
]
