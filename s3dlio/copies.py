"""Copies on the server, in parts, of objects that are too large for one request.

All parts are pinned to the version that the copy began with. The first failure cancels the others; then, and when the
copy is cancelled, its upload is aborted, so no object appears and no parts are left to pay for.

Source: "Copying an object using multipart upload" in the Amazon S3 User Guide.
"""

from __future__ import annotations

from functools import partial

import trio

from .config import MiB
from .model import BoundedRange, Part, PartCopy, PutResult
from .parts import part_size_for, plan_ranges
from .siblings import sibling_tasks
from .stores.store import ObjectStore, discard

COPY_PART = 128 * MiB
"""Bytes of a part that is copied, at least: none of them come here, so only requests are saved by larger ones."""


def plan_copy(size: int, part_size: int) -> list[BoundedRange]:
    """The ranges, of at least `part_size` bytes and as S3 limits parts, that an object of `size` bytes is copied in."""
    return [BoundedRange(*ends) for ends in plan_ranges(0, size, part_size_for(size, part_size))]


async def copy_in_parts(store: ObjectStore, copy: PartCopy, part_size: int, limiter: trio.CapacityLimiter) -> PutResult:
    """End a `copy` that `store` has begun, with as many parts at once as `limiter` lets: see :func:`plan_copy`.

    Errors: `ObjectChangedError` where the source was replaced meanwhile; `StoreError`. Then there is no copy.
    """
    try:
        parts = await _parts(store, copy, plan_copy(copy.size, part_size), limiter)
        return await store.complete_upload(copy.upload, parts)
    except BaseException as error:
        await discard(store, copy.upload, error)
        raise


async def _parts(
    store: ObjectStore, copy: PartCopy, ranges: list[BoundedRange], limiter: trio.CapacityLimiter
) -> list[Part]:
    parts: list[Part] = []

    async def one(number: int, piece: BoundedRange, release: partial[None]) -> None:
        try:
            parts.append(await store.copy_part(copy, number, piece))
        finally:
            release()

    async with sibling_tasks() as nursery:
        for number, piece in enumerate(ranges, 1):
            await limiter.acquire_on_behalf_of(token := object())
            nursery.start_soon(one, number, piece, partial(limiter.release_on_behalf_of, token))
    return sorted(parts, key=lambda part: part.number)
