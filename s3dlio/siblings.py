"""Tasks that are parts of one operation: the first failure ends the others, and comes out by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def sibling_tasks() -> AsyncIterator[trio.Nursery]:
    """A nursery for parts of one operation: the first failure comes out by itself."""
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        error = first_error(group.exceptions)
    if error is not None:  # here, as the group would be its context, and notebooks stumble over that
        raise error from error.__cause__


def first_error(errors: Sequence[BaseException]) -> BaseException:
    """The one that stands for all: one that is no error of the operation (Ctrl-C) goes first, a cancellation last."""
    return min(errors, key=lambda error: (isinstance(error, trio.Cancelled), isinstance(error, Exception)))
