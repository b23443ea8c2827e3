"""Safetensors objects in a store: what is in them, and their bytes, of one version, in memory that tensors keep.

The first request of an object brings its first MiB, with the header unless that is longer; what lies within is not
asked for again, except of a larger object that is read whole, as its checksum is of all its bytes. Every other request
is held to the version of the first. Who waits for bytes and fails cancels all that were begun; their memory is kept by
those who fill it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..alignment.allocator import CachingAllocator
from ..alignment.buffers import fresh_bytes
from ..blocking.portal import Job
from ..blocking.store import BlockingStore, locate
from ..config import Config, MiB
from ..errors import ErrorContext, FormatError, ObjectChangedError, RangeError, shown
from ..model import BoundedRange, GetOptions, GetResult, ObjectMeta
from ..slices import pin_of
from ..stores.store import BytesSink
from ..transfer import ParallelStore
from ..transport.download import validators
from .header import LENGTH, Header, TensorInfo, header_end, parse_header, parse_index

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FIRST = 1 * MiB
_ALIGNMENT = 64
_INDEX = ".index.json"
_memory = CachingAllocator(0)  # weights stay: there is nothing to keep for later


class Arrival:
    """Bytes of an object of version `meta` that `job` receives; without one they are there."""

    def __init__(self, meta: ObjectMeta, job: Job[GetResult] | None = None) -> None:
        self._meta = meta
        self._job = job

    def wait(self) -> None:
        """Wait for the bytes, once. Errors: `ObjectChangedError`, `StoreError`."""
        if self._job is not None and validators(self._job.result().meta) != validators(self._meta):
            context = ErrorContext("GetObject", key=self._meta.key)
            raise ObjectChangedError("the object was replaced while it was read", context)


def give_up(arrivals: Iterable[Arrival]) -> None:
    """Cancel what has not come yet, and wait a moment for it to let go."""
    jobs = [each._job for each in arrivals if each._job is not None]
    for job in jobs:
        job.cancel()
    for job in jobs:
        job.let_go()


@dataclass(frozen=True, eq=False, slots=True)
class Shard:
    """The object `key` of `store`, of the version `meta`, with its `header`. `head` is its beginning."""

    store: BlockingStore
    key: str
    meta: ObjectMeta
    header: Header
    head: bytes

    def begin(self, start: int, view: memoryview) -> Arrival:
        """Begin to fill `view` with the object's bytes from `start`."""
        end = start + len(view)
        if end <= len(self.head) or not len(view):
            view[:] = self.head[start:end]
            return Arrival(self.meta)
        job = self.store.begin_get_into(self.key, view, start=start, if_match=pin_of(self.meta))
        return Arrival(self.meta, job)

    def read(self, start: int, end: int) -> NDArray[np.uint8]:
        """Bytes `start` to `end` of the object, in memory of their own. Errors: as of :meth:`Arrival.wait`."""
        data = _memory.allocate(end - start)
        arrival = self.begin(start, data.data)
        try:
            arrival.wait()
        except BaseException:
            give_up([arrival])
            raise
        return data


class Located(NamedTuple):
    """A tensor, and the object that it is in."""

    shard: Shard
    info: TensorInfo


def open_shards(uris: str | Sequence[str], config: Config | None) -> list[Shard]:
    """The objects at `uris`, looked at all at once. One URI may be that of an index, `….index.json`.

    Errors: `NotFoundError`; `FormatError`, also for a tensor that the index names and no object has; `StoreError`.
    """
    if not isinstance(uris, str):
        return _look_at(uris, config)
    if not uris.endswith(_INDEX):
        return _look_at([uris], config)
    store, key = locate(uris, config)
    named = parse_index(store.get(key), _context(key))
    folder = uris.rpartition("/")[0]
    shards = _look_at([f"{folder}/{name}" for name in sorted(set(named.values()))], config)
    if absent := named.keys() - locate_tensors(shards).keys():
        raise FormatError(f"the index names tensors that no object has, such as {shown(min(absent))!r}", _context(key))
    return shards


def locate_tensors(shards: Sequence[Shard]) -> dict[str, Located]:
    """All tensors of `shards`, in the order of the objects and of their bytes.

    Errors: `FormatError` for a tensor that is in two objects.
    """
    found: dict[str, Located] = {}
    for shard in shards:
        for name, info in shard.header.tensors.items():
            if name in found:
                raise FormatError(f"{found[name].shard.key!r} has the tensor {shown(name)!r}, too", _context(shard.key))
            found[name] = Located(shard, info)
    return found


def _look_at(uris: Sequence[str], config: Config | None) -> list[Shard]:
    places = [locate(uri, config) for uri in uris]
    jobs = [store.begin(partial(_beginning, key=key)) for store, key in places]
    try:
        return [_shard(store, key, *job.result()) for (store, key), job in zip(places, jobs, strict=True)]
    finally:
        for job in jobs:
            job.cancel()
        for job in jobs:
            job.let_go()


def _shard(store: BlockingStore, key: str, meta: ObjectMeta, head: bytes) -> Shard:
    end = header_end(head, meta.size, _context(key))
    return Shard(store, key, meta, parse_header(head[LENGTH:end], meta.size, _context(key)), head)


async def _beginning(store: ParallelStore, key: str) -> tuple[ObjectMeta, bytes]:
    """The beginning of an object, with all of its header."""
    sink = BytesSink()
    try:
        meta = (await store.fetch(key, sink, GetOptions(BoundedRange(0, _FIRST)))).meta
    except RangeError:
        raise FormatError("no safetensors object: it is empty", _context(key)) from None
    head, end = sink.data, header_end(sink.data, meta.size, _context(key))
    if end <= len(head):
        return meta, head
    data, view = fresh_bytes(end)
    view[: len(head)] = head
    await store.get_into(key, view[len(head) :], start=len(head), if_match=pin_of(meta))
    return meta, data


def _context(key: str) -> ErrorContext:
    return ErrorContext("GetObject", key=key)


def read_whole(shards: Sequence[Shard]) -> list[NDArray[np.uint8]]:
    """All bytes of each object, all at once; those of its tensors begin at an aligned place.

    Errors: as of :meth:`Arrival.wait`; `ChecksumError`.
    """
    arrays, arrivals = list["NDArray[np.uint8]"](), list[Arrival]()
    try:
        for shard in shards:
            before = -shard.header.data_start % _ALIGNMENT
            arrays.append(_memory.allocate(before + shard.meta.size)[before:])
            arrivals.append(shard.begin(0, arrays[-1].data))
        for arrival in arrivals:
            arrival.wait()
    except BaseException:
        give_up(arrivals)
        raise
    return arrays
