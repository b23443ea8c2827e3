"""Objects and whole trees from one store to another.

Theory of operation. Both trees are listed in the order of their keys, a page ahead of what is looked at, and walked
side by side (:func:`pairs`); what has to be sent is sent as it is found, several objects at once. Within one service
the server copies; else an object comes through this process: into a buffer, and from there to the target. A large one
comes piece after piece, each in parallel ranges, while the pieces before are being sent in parts. Buffers come from a
pool, whose limit bounds the memory whatever the trees hold. Each target appears whole, with the content type and the
metadata of its source, or not at all; a source that is replaced meanwhile is begun anew, once.

Failure: one object's does not end the others; an outage does (:data:`s3dlio.errors.OUTAGES`), when what is under way is
over. Cancellation ends all, and leaves no upload behind; sent again, what was sent already is passed over.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple

import trio

from .alignment.buffers import BufferPool
from .config import Config
from .endpoint_stats import size_text
from .errors import OUTAGES, BucketNotFoundError, ErrorContext, ObjectChangedError, StoreError, UnsupportedError
from .model import GetResult, ObjectMeta, PutOptions
from .siblings import sibling_tasks
from .transfer import ParallelStore
from .trees import differs, is_folder_marker
from .urls import Uri
from .versions import pin_of

_PARTS_PER_PIECE = 4
_DELETE_BATCH = 1000

Report = Callable[[int, int], object]
"""Told of so many bytes and objects more."""


class Tree(NamedTuple):
    """What lies below `place`, whose key is a prefix, in `store`, its bucket, which is reached by `config`."""

    store: ParallelStore
    place: Uri
    config: Config

    @property
    def is_files(self) -> bool:
        """Whether objects are files here."""
        return self.place.scheme in ("file", "direct")

    def key(self, name: str) -> str:
        """The key of what is called `name` below the prefix."""
        return self.place.key + name

    def uri(self, name: str) -> str:
        """Its URI."""
        return f"{self.place}{name}"

    def beside(self, other: Tree) -> bool:
        """Whether the server may copy from here to `other`."""
        return (self.place.scheme, self.config) == (other.place.scheme, other.config)

    async def objects(self) -> AsyncGenerator[tuple[str, ObjectMeta]]:
        """Names and objects, in order. Errors: `UnsupportedError` where the store lists in no order."""
        last = ""
        async with aclosing(self.store.list(self.place.key)) as pages:
            async for page in pages:
                for meta in page.objects:
                    name = meta.key.removeprefix(self.place.key)
                    if name < last:
                        where = ErrorContext(operation="list", bucket=self.place.bucket, key=meta.key)
                        raise UnsupportedError("trees cannot be compared: this store lists keys in no order", where)
                    last = name
                    if name:
                        yield name, meta

    async def objects_if_any(self) -> AsyncGenerator[tuple[str, ObjectMeta]]:
        """The same; none where there is no such directory, as one is made with its first file."""
        try:
            async with aclosing(self.objects()) as found:
                async for each in found:
                    yield each
        except BucketNotFoundError:
            if not self.is_files:
                raise


async def pairs(
    source: AsyncGenerator[tuple[str, ObjectMeta]], target: AsyncGenerator[tuple[str, ObjectMeta]]
) -> AsyncGenerator[tuple[str, ObjectMeta | None, ObjectMeta | None]]:
    """Names that are in either, in order, with what they are in both."""
    left, right = await anext(source, None), await anext(target, None)
    while left is not None or right is not None:
        name = min(each[0] for each in (left, right) if each is not None)
        here = left[1] if left is not None and left[0] == name else None
        there = right[1] if right is not None and right[0] == name else None
        yield name, here, there
        left = await anext(source, None) if here is not None else left
        right = await anext(target, None) if there is not None else right


@dataclass(frozen=True, slots=True)
class Transferred:
    """What was sent: how many objects and bytes, and in how many seconds; and how many objects were the `same` already,
    and how many were `removed`.
    """

    objects: int = 0
    bytes: int = 0
    same: int = 0
    removed: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        rate = f", {size_text(self.bytes / self.seconds)}/s" if self.seconds else ""
        others = [f"{count:,} {what}" for count, what in ((self.same, "the same"), (self.removed, "removed")) if count]
        sent = f"{self.objects:,} objects, {size_text(self.bytes)} in {self.seconds:.1f} s{rate}"
        return "; ".join([sent, *others])

    def _repr_html_(self) -> str:
        return f"<p>{self}</p>"


@dataclass
class Outcome:
    """What became of a tree so far; `failures` by the URIs of the sources."""

    same: int = 0
    removed: int = 0
    failures: dict[str, Exception] = field(default_factory=dict)
    outage: bool = False

    def fail(self, uri: str, error: StoreError) -> None:
        """It was not sent."""
        self.failures[uri] = error
        self.outage = self.outage or isinstance(error, OUTAGES)


class Mover:
    """Sends objects from `source` to `target`; `report` is told as they are sent."""

    def __init__(self, source: Tree, target: Tree, report: Report) -> None:
        self.source = source
        self._target = target
        self._report = report
        self._on_server = source.beside(target)
        most = max(min(source.config.memory_limit, target.config.memory_limit), source.config.part_size)
        self._piece = min(_PARTS_PER_PIECE * source.config.part_size, most)
        self._pool = BufferPool(most)

    def close(self) -> None:
        """Let go of the buffers."""
        self._pool.close()

    async def send(self, name: str, target_name: str, meta: ObjectMeta | None = None) -> None:
        """Have `name` at the target as `target_name`; `meta`, from a listing, saves asking. Errors: `StoreError`."""
        key = self.source.key(name)
        if self._on_server and await self._copied(key, target_name):
            self._report((meta or await self.source.store.head(key)).size, 1)
            return
        try:
            await self._stream(meta or await self.source.store.head(key), target_name)
        except ObjectChangedError:
            await self._stream(await self.source.store.head(key), target_name)
        self._report(0, 1)

    async def _copied(self, key: str, target_name: str) -> bool:
        """Whether the server has copied it."""
        source, target = self.source.place, self._target
        other = source.bucket if source.bucket != target.place.bucket else None
        try:
            await target.store.copy(key, target.key(target_name), source_bucket=other)
        except UnsupportedError:
            self._on_server = False
        return self._on_server

    async def _stream(self, meta: ObjectMeta, target_name: str) -> None:
        key, target = self._target.key(target_name), self._target.store
        async with self._pool.lease(min(meta.size, self._piece)) as lease:
            first = await self._read(meta, lease.view, 0)
            options = PutOptions(first.meta.content_type, first.meta.metadata)
            if meta.size <= self._piece:
                await target.put(key, lease.view, options)
                self._report(meta.size, 0)
                return
            async with target.open_writer(key, options) as writer:
                await writer.write(lease.view)
                for start in range(self._piece, meta.size, self._piece):
                    self._report(self._piece, 0)
                    view = lease.view[: meta.size - start]
                    await self._read(meta, view, start)
                    await writer.write(view)
            self._report(meta.size - start, 0)

    async def _read(self, meta: ObjectMeta, view: memoryview, start: int) -> GetResult:
        result = await self.source.store.get_into(meta.key, view, start=start, if_match=pin_of(meta))
        if result.meta.size != meta.size:
            raise ObjectChangedError("the object was replaced while it was sent", ErrorContext("GET", key=meta.key))
        return result


async def send_object(source: Tree, target: Tree, report: Report, meta: ObjectMeta | None = None) -> Outcome:
    """Have the object at `source` at the place `target`; `meta`, from a listing, saves asking. Errors: `StoreError`."""
    mover = Mover(source, target, report)
    try:
        await mover.send("", "", meta)
    finally:
        mover.close()
    return Outcome()


class Change(NamedTuple):
    """What a synchronisation would do: `copy` an object of `size` bytes from `source`, or `delete` one."""

    action: Literal["copy", "delete"]
    source: str | None
    target: str
    size: int


async def changes(source: Tree, target: Tree, *, remove: bool) -> AsyncGenerator[Change]:
    """What :func:`send_tree` would do of what is differing, with `remove` or without. Errors: `StoreError`."""
    async with aclosing(planned(source, target, differing=True)) as plan:
        async for name, here, there in plan:
            if here is None and there is not None:
                if remove:
                    yield Change("delete", None, target.uri(name), there.size)
            elif here is not None and differs(here, there) and not (target.is_files and is_folder_marker(here)):
                yield Change("copy", source.uri(name), target.uri(name), here.size)


async def send_tree(
    source: Tree,
    target: Tree,
    report: Report,
    expect: Callable[[int], object],
    *,
    differing: bool,
    remove: bool = False,
    max_in_flight: int,
) -> Outcome:
    """Have all that is below `source` below `target`, or what is `differing`: see :func:`.trees.differs`.

    With `remove`, what the source has not is removed from the target at the end, unless something failed; that takes
    `differing`. `expect` is told of bytes that are to be sent. Errors: `StoreError` of a listing, and of the removal.
    """
    outcome, extra, mover = Outcome(), list[str](), Mover(source, target, report)
    try:
        async with aclosing(planned(source, target, differing=differing)) as plan, sibling_tasks() as nursery:
            limit = trio.CapacityLimiter(max_in_flight)
            async for name, here, there in plan:
                if here is None:
                    extra.append(target.key(name))
                elif differing and not differs(here, there):
                    outcome.same += 1
                elif not (target.is_files and is_folder_marker(here)):
                    expect(here.size)
                    await limit.acquire_on_behalf_of(token := object())
                    if outcome.outage:
                        break
                    nursery.start_soon(_send, mover, name, here, outcome, partial(limit.release_on_behalf_of, token))
    finally:
        mover.close()
    if remove and not outcome.failures:
        await target.store.delete_many(extra)
        outcome.removed = len(extra)
    return outcome


async def planned(
    source: Tree, target: Tree, *, differing: bool
) -> AsyncGenerator[tuple[str, ObjectMeta | None, ObjectMeta | None]]:
    """What is in the trees, side by side; the target's is looked at only where what is `differing` is wanted."""
    async with aclosing(source.objects()) as here:
        if not differing:
            async for name, meta in here:
                yield name, meta, None
            return
        async with aclosing(target.objects_if_any()) as there, aclosing(pairs(here, there)) as both:
            async for pair in both:
                yield pair


async def _send(mover: Mover, name: str, meta: ObjectMeta, outcome: Outcome, let: Callable[[], None]) -> None:
    try:
        await mover.send(name, name, meta)
    except StoreError as error:
        outcome.fail(mover.source.uri(name), error)
    finally:
        let()
