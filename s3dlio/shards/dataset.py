"""A data set of the samples in shards, to index: for PyTorch's `DataLoader`, and without PyTorch."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from ..alignment.buffers import fresh_bytes
from ..archives import content_of
from ..blocking.portal import Job
from ..blocking.store import BlockingStore, locate
from ..config import Config
from ..model import ObjectMeta
from ..transfer import ParallelStore
from ..versions import pin_of
from .indexing import context_of, index
from .members import Index
from .samples import Samples, find_samples, place_of, split_name

_IN_FLIGHT = 64
_INDEXED_AT_ONCE = 8


@dataclass(frozen=True)
class _Shard:
    store: BlockingStore
    key: str
    index: Index
    samples: Samples

    @property
    def pin(self) -> str | None:
        """The etag that reads are held to."""
        return pin_of(ObjectMeta(self.key, self.index.size, self.index.etag))

    def begin(self, number: int) -> Job[bytes]:
        """Begin to fetch all of sample `number`, which lies in one piece."""
        start = self.index[self.samples.firsts[number]].start
        end = self.index[self.samples.stops[number] - 1].end

        async def fetch(store: ParallelStore) -> bytes:
            data, view = fresh_bytes(end - start)
            if end > start:
                await store.get_into(self.key, view, start=start, if_match=self.pin)
            return data

        return self.store.begin(fetch)

    def sample(self, number: int, body: bytes) -> dict[str, Any]:
        """The parts of sample `number`, of which `body` is what lies there."""
        first, stop = self.samples.firsts[number], self.samples.stops[number]
        start, context, view = self.index[first].start, context_of(self.store, self.key), memoryview(body)
        found: dict[str, Any] = {}
        for member in self.index[first:stop]:
            if (name := split_name(member.name)) is not None:
                data = view[member.start - start : member.end - start]
                found["__key__"] = name[0]
                found[name[1]] = bytes(content_of(member, data, context, _memory))
        return found


def _memory(size: int) -> memoryview:
    return memoryview(bytearray(size))


class ShardDataset:
    """The samples of the shards at `uris`, tars and zips, one after the other: `len(samples)`, `samples[i]`.

    A sample is a dictionary of what neighbouring members of one key hold, as bytes by extension (`jpg`, `seg.png`), and
    of the key, `__key__`; `transform` makes an item of it. The indexes are read when they are first needed, or made,
    and kept beside the shards where `save` says so: see :func:`s3dlio.shards.index`. `config` has the settings, by
    default the environment's.

    A sample is one request, and those of a batch that a `DataLoader` asks for are under way together. The data set can
    be pickled, with its indexes, and is good in a forked child, as workers need; its sampler shuffles. Shards are held
    to the versions that the indexes are of.

    Errors, from `len` and indexing: `IndexError`; `FormatError`; `ObjectChangedError` for a shard that was replaced;
    `ChecksumError` in a zip; `NotFoundError`, `StoreError`; what `transform` raises.
    """

    def __init__(
        self,
        uris: str | Iterable[str],
        transform: Callable[[dict[str, Any]], Any] | None = None,
        *,
        save: bool = True,
        config: Config | None = None,
    ) -> None:
        self._uris = [uris] if isinstance(uris, str) else list(uris)
        self._transform = transform
        self._save = save
        self._config = config
        self._shards: Sequence[_Shard] | None = None
        self._ends: Sequence[int] = ()

    def __len__(self) -> int:
        self._opened()
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, i: int) -> Any:
        return self.__getitems__([i])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The items of one batch, `indices`; `DataLoader` calls this."""
        shards = self._opened()
        places = [place_of(operator.index(i), self._ends) for i in indices]
        wanted = [(shards[shard], number) for shard, number in places]
        samples = (shard.sample(number, body) for (shard, number), body in zip(wanted, _bodies(wanted), strict=True))
        return [sample if self._transform is None else self._transform(sample) for sample in samples]

    def _opened(self) -> Sequence[_Shard]:
        if self._shards is None:
            with ThreadPoolExecutor(_INDEXED_AT_ONCE) as threads:
                shards = list(threads.map(self._open, self._uris))
            self._ends = list(accumulate(len(shard.samples.firsts) for shard in shards))
            self._shards = shards
        return self._shards

    def _open(self, uri: str) -> _Shard:
        store, key = locate(uri, self._config)
        found = index(uri, save=self._save, config=self._config)
        return _Shard(store, key, found, find_samples(found.names, context_of(store, key)))

    def __repr__(self) -> str:
        return f"<ShardDataset of {len(self._uris)} shards>"


def _bodies(wanted: Iterable[tuple[_Shard, int]]) -> Iterator[bytes]:
    """What lies where the samples do, in order; some are under way."""
    coming: deque[Job[bytes]] = deque()
    try:
        for shard, number in wanted:
            coming.append(shard.begin(number))
            if len(coming) == _IN_FLIGHT:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:
        for job in coming:
            job.cancel()
