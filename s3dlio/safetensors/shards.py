"""Safetensors objects in a store: what is in them, and their bytes, of one version, in memory that tensors keep.

The first request of an object brings its first MiB, with the header unless that is longer; what lies within is not
asked for again, except of a larger object that is read whole, as its checksum is of all its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ..alignment.buffers import fresh_bytes
from ..blocking.memory import allocator
from ..blocking.store import BlockingStore, locate
from ..config import Config, MiB
from ..errors import ErrorContext, FormatError, RangeError, shown
from ..model import BoundedRange, GetOptions, ObjectMeta
from ..stored import Arrival, StoredObject, give_up
from ..stores.store import BytesSink
from ..transfer import ParallelStore
from ..versions import pin_of
from .header import LENGTH, Header, TensorInfo, header_end, parse_header, parse_index

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FIRST = 1 * MiB
_ALIGNMENT = 64
_INDEX = ".index.json"


class Shard(NamedTuple):
    """An object, and its header."""

    stored: StoredObject
    header: Header


class Located(NamedTuple):
    """A tensor, and the object that it is in."""

    stored: StoredObject
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
    for stored, header in shards:
        for name, info in header.tensors.items():
            if name in found:
                other = found[name].stored.meta.key
                raise FormatError(f"{other!r} has the tensor {shown(name)!r}, too", stored.context)
            found[name] = Located(stored, info)
    return found


def _look_at(uris: Sequence[str], config: Config | None) -> list[Shard]:
    places = [locate(uri, config) for uri in uris]
    jobs = [store.begin(partial(_beginning, key=key)) for store, key in places]
    try:
        return [_shard(store, *job.result()) for (store, _), job in zip(places, jobs, strict=True)]
    finally:
        for job in jobs:
            job.cancel()
        for job in jobs:
            job.let_go()


def _shard(store: BlockingStore, meta: ObjectMeta, head: bytes) -> Shard:
    stored = StoredObject(store, meta, head)
    end = header_end(head, meta.size, stored.context)
    return Shard(stored, parse_header(head[LENGTH:end], meta.size, stored.context))


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
        for stored, header in shards:
            before = -header.data_start % _ALIGNMENT
            arrays.append(allocator().allocate(before + stored.meta.size)[before:])
            arrivals.append(stored.begin(0, arrays[-1].data))
        for arrival in arrivals:
            arrival.wait()
    except BaseException:
        give_up(arrivals)
        raise
    return arrays
