"""The bytes of one object, from its store or from a stream somebody gives, and the group it is read in.

Objects of a dataset are rarely read alone. A :class:`StoredObject` may belong to an iteration over a dataset
(:class:`Iteration`: bodies are read ahead of the consumer) or to a batch (:class:`Batch`: the first body asked for
starts all of them). The bytes are the same, they only come sooner.

Objects that are not read yet travel between processes, as in a `DataLoader` whose workers hand unread readers to the
main process. Their group does not, but those that arrive in one pickle form a batch there: pickle keeps the identity
of what they share, which unpickles as an empty batch, and each of them joins it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import tee
from typing import Any, Protocol

from ...alignment.buffers import fresh_bytes
from ...blocking.portal import Job
from ...blocking.prefetch import Want
from ...blocking.readahead import ReadAhead
from ...blocking.store import BlockingStore
from ...model import GetResult, ObjectMeta
from ...versions import check_size
from .errors import OBJECT_ABSENT, translated
from .objects import HasSize, HeadObjectResult, HeldObjectInfo, known_meta

GetObjectInfo = Callable[[], HasSize]
GetStream = Callable[..., Iterator[bytes]]
"""`get_stream(start=None, end=None)`: the bytes from `start` to `end` (exclusive), in pieces."""


class ReadGroup(Protocol):
    """Objects that are read together."""

    small: bool
    """Whether an object of unknown size is expected to fit in one part, as those read before it did."""
    begun: bool
    """Whether bodies may be on their way that nobody has asked for yet."""

    def join(self, member: StoredObject) -> None:
        """Take `member` in, where that is still possible."""

    def body(self, position: int, want: Want) -> bytes:
        """The whole body of the member at `position`, which is `want`."""


class StoredObject:
    """One object of a store; where `info` is from a manifest, that version alone. Errors come out as `S3Exception`."""

    __slots__ = ("_group", "_info", "_position", "bucket", "key", "known", "store")

    def __init__(self, store: BlockingStore, bucket: str, key: str, info: HasSize | None = None) -> None:
        self.store = store
        self.bucket = bucket
        self.key = key
        self.known = known_meta(key, info)
        self._info = info
        self._group: ReadGroup | None = None
        self._position = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self.store, self.bucket, self.key, self._info, self._group)

    def read_with(self, group: ReadGroup, position: int) -> None:
        """Get the whole body from `group` from now on, as its member at `position`."""
        self._group, self._position = group, position

    @property
    def root(self) -> str:
        """The bucket's URI."""
        return self.store.root

    @property
    def want(self) -> Want:
        """This object, for read-ahead."""
        return Want(self.store, self.key, self.known, held=isinstance(self._info, HeldObjectInfo))

    @property
    def part_size(self) -> int:
        return self.store.config.part_size

    @property
    def read_ahead(self) -> bool:
        """Whether it comes by its group, unless that is not begun, and the object can keep the store busy alone."""
        config, group = self.store.config, self._group
        return group is not None and (group.begun or self.want.cost < config.parts_in_flight * config.part_size)

    def info(self) -> HasSize:
        """What a listing told, or else a HEAD, which is sent once."""
        if self._info is None:
            self._info = HeadObjectResult.of(self.head())
        return self._info

    def stream(self, start: int | None = None, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` to `end` (exclusive), by default all of them, in pieces of at most one part."""
        position, stop, etag = start or 0, end, None
        while stop is None or position < stop:
            data, version = self._piece(position, stop, etag)
            yield data
            position += len(data)
            stop, etag = min(end or version.size, version.size), version.etag

    def head(self) -> ObjectMeta:
        with translated(OBJECT_ABSENT):
            return self.store.head(self.key)

    def whole(self) -> bytes:
        with translated():
            if self._group is not None:
                return self._group.body(self._position, self.want)
            return self.want.read()

    def first_part(self) -> tuple[bytes, ObjectMeta]:
        if self._group is not None and self._group.small:
            data = self.whole()
            return data, ObjectMeta(key=self.key, size=len(data))
        data, version = self._piece(0, None, None)
        if self._group is not None:
            self._group.small = version.size <= self.part_size
        return data, version

    def part(self, start: int, end: int, etag: str | None) -> tuple[bytes, ObjectMeta]:
        if end - start <= self.part_size:
            return self._piece(start, end, etag)
        data, view = fresh_bytes(end - start)
        return data, self.fill(view, start, etag)

    def begin_fill(self, view: memoryview, start: int, etag: str | None) -> Job[GetResult]:
        """Begin to receive the bytes from `start` straight into `view`. Errors of the job: `StoreError`."""
        return self.store.begin_get_into(self.key, view, start=start, if_match=etag or self.want.pin)

    def fill(self, view: memoryview, start: int, etag: str | None) -> ObjectMeta:
        with translated():
            return self._checked(self.store.get_into(self.key, view, start=start, if_match=etag or self.want.pin))

    def _piece(self, start: int, end: int | None, etag: str | None) -> tuple[bytes, ObjectMeta]:
        stop = start + self.part_size if end is None else min(end, start + self.part_size)
        with translated():
            data, result = self.store.read_range(self.key, start, stop, if_match=etag or self.want.pin)
            return data, self._checked(result)

    def _checked(self, result: GetResult) -> ObjectMeta:
        if self.known is not None and self.want.held:
            check_size(self.known, result.meta.size, self.bucket)
        return result.meta


def _arrive(store: BlockingStore, bucket: str, key: str, info: HasSize | None, group: ReadGroup | None) -> StoredObject:
    arrived = StoredObject(store, bucket, key, info)
    if group is not None:
        group.join(arrived)
    return arrived


class Batch:
    """Objects whose bodies are fetched together, as soon as the body of one of them is asked for."""

    def __init__(self) -> None:
        self.small, self.begun = False, True
        self._wants: list[Want] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return Batch, ()

    def join(self, member: StoredObject) -> None:
        if "_ahead" not in self.__dict__:
            member.read_with(self, len(self._wants))
            self._wants.append(member.want)

    def body(self, position: int, want: Want) -> bytes:
        ahead: ReadAhead | None = self.__dict__.get("_ahead")
        if ahead is None:
            # of threads that come here at once one wins, and the other's has fetched nothing yet. A lock would do as
            # well, but for a process that is forked while it is held
            ahead = self.__dict__.setdefault("_ahead", _eager(self._wants))
        return ahead.body(position, want)


def in_one_batch(members: Iterable[StoredObject]) -> list[StoredObject]:
    """`members`, from now on in one batch."""
    together, batch = list(members), Batch()
    for member in together:
        batch.join(member)
    return together


def _eager(wants: list[Want]) -> ReadAhead:
    ahead = ReadAhead(wants, eager=True)
    for _ in ahead:  # only positions that were yielded have bodies
        pass
    return ahead


class Iteration:
    """One iteration over the objects of a dataset, in order. Once bodies are read, those to come are read ahead."""

    def __init__(self, objects: Iterable[StoredObject]) -> None:
        self.small = self.begun = False
        wanted, self._objects = tee(objects)
        self._ahead = ReadAhead(each.want for each in wanted)

    def __reduce__(self) -> tuple[Any, ...]:
        return Batch, ()

    def __iter__(self) -> Iterator[StoredObject]:
        # _ahead first: it meets a source's error, and keeps it until the objects before are out
        for (position, _), member in zip(self._ahead, self._objects, strict=False):
            member.read_with(self, position)
            yield member

    def join(self, member: StoredObject) -> None:
        """Do nothing: a copy of a member stands alone."""

    def body(self, position: int, want: Want) -> bytes:
        self.begun = True
        return self._ahead.body(position, want)


class StreamedObject:
    """One object, from whatever two functions say about it. All of it is read at once."""

    part_size = sys.maxsize
    root = ""
    known = None
    read_ahead = False

    def __init__(self, key: str, get_object_info: GetObjectInfo, get_stream: GetStream) -> None:
        self.key = key
        self._get_object_info = get_object_info
        self._get_stream = get_stream
        self._meta: ObjectMeta | None = None

    def head(self) -> ObjectMeta:
        if self._meta is None:
            self._meta = ObjectMeta(key=self.key, size=self._get_object_info().size)
        return self._meta

    def whole(self) -> bytes:
        return b"".join(self._get_stream())

    def first_part(self) -> tuple[bytes, ObjectMeta]:
        data = self.whole()
        return data, ObjectMeta(key=self.key, size=len(data))

    def part(self, start: int, end: int, etag: str | None) -> tuple[bytes, ObjectMeta]:
        return b"".join(self._get_stream(start, end)), self.head()

    def fill(self, view: memoryview, start: int, etag: str | None) -> ObjectMeta:
        view[:], version = self.part(start, start + len(view), etag)
        return version


def source_of(key: str, get_object_info: GetObjectInfo, get_stream: GetStream) -> StoredObject | StreamedObject:
    """The object behind the two functions a reader is made of: our own where they are its methods."""
    # a constructor gets functions alone, as in the original: this is how our readers come to the store all the same
    owner = getattr(get_stream, "__self__", None)
    return owner if isinstance(owner, StoredObject) else StreamedObject(key, get_object_info, get_stream)
