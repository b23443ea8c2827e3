"""Whether what was read has the checksum that the store tells of it, and is of one version where it came in pieces."""

from __future__ import annotations

import binascii
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from functools import partial, reduce
from typing import Literal, TypeVar

import trio

from ..alignment.checksum import ALGORITHMS, Checksum, Fold, checksum_of, kernel_for
from ..errors import ChecksumError, ErrorContext, ObjectChangedError, shown
from ..model import BoundedRange, GetOptions, GetResult, ObjectMeta, Sink, StoredChecksum
from ..observers import span_ended
from ..transport.download import validators

T = TypeVar("T")

Look = Callable[[str], Awaitable[ObjectMeta | None]]
"""Asks the store for an object's metadata, with its checksum; `None` where nothing more can be learned so."""

HASH_IN_THREAD_FROM = 256 << 10
"""Bytes from which hashing takes longer than a hop into a thread."""


def read_checksum(algorithm: str, text: str, order: Literal["big", "little"] = "big") -> StoredChecksum | None:
    """A checksum as base64 of its bytes in `order`; `None` for anything else. `algorithm` is one of `ALGORITHMS`."""
    try:
        digest = binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return None
    fits = len(digest) * 8 == ALGORITHMS[algorithm].width
    return StoredChecksum(algorithm, int.from_bytes(digest, order)) if fits else None


_TELLING = ("x-amz-checksum-", "x-goog-hash", "x-ms-content-crc64", "content-md5")


def told_instead(headers: Mapping[str, str]) -> str:
    """What an answer says of checksums that cannot be compared: for an error."""
    told = [f"{name}: {value}" for name, value in headers.items() if name.startswith(_TELLING)]
    return shown(", ".join(told), 200) or "nothing"


class Digester:
    """Computes digests in a thread where that takes long. One per store."""

    def __init__(self) -> None:
        self._compiling = trio.Lock()
        self.algorithm: str | None = None
        """That of the object's checksum that was told last."""

    async def __call__(self, digest: Callable[[memoryview], T], data: memoryview) -> T:
        """The `digest` of `data`, which must not change meanwhile.

        The first one of a process takes long, as it compiles the kernel: once for all that need it.
        """
        compiled = _is_compiled()
        if not len(data) or (compiled and len(data) < HASH_IN_THREAD_FROM):
            return digest(data)
        begun = time.monotonic()
        async with nullcontext() if compiled else self._compiling:
            result = await trio.to_thread.run_sync(digest, data)
        span_ended("checksum", begun)
        return result

    def begin(self, told: StoredChecksum | None) -> Fold | None:
        """One to go on with while bytes come: such as is `told` of them, or probably will be.

        `None` where no checksum was ever told, and before the first one of a process.
        """
        algorithm = self.algorithm if told is None else told.algorithm
        return Fold(algorithm) if algorithm is not None and _is_compiled() else None

    async def matches(
        self, told: StoredChecksum | None, data: memoryview, computed: StoredChecksum | None = None
    ) -> bool:
        """Whether `data` has the checksum that is `told` of it, if one is. One may have been `computed` of it."""
        return told is None or await self.value(told.algorithm, data, computed) == told.value

    async def value(self, algorithm: str, data: memoryview, computed: StoredChecksum | None) -> int:
        """The checksum of `data`: the one that was `computed` of it, if that is by this `algorithm`."""
        if computed is not None and computed.algorithm == algorithm:
            return computed.value
        return await self(partial(checksum_of, algorithm), data)


def _is_compiled() -> bool:
    """Whether this process has computed a checksum."""
    return kernel_for.cache_info().currsize > 0


class RememberedView:
    """A sink that remembers where the body goes."""

    def __init__(self, sink: Sink) -> None:
        self.view = memoryview(b"")
        self._sink = sink

    def __call__(self, coming: GetResult) -> memoryview:
        self.view = self._sink(coming)
        return self.view


def same_bytes(result: GetResult, options: GetOptions) -> GetOptions:
    """How to ask again for what was read by `options`, of the same version."""
    byte_range = BoundedRange(result.start, result.end) if options.byte_range is not None else None
    return GetOptions(byte_range, result.meta.etag or options.if_match)


class Landed:
    """The pieces of `key` that have landed: what their answers say, and their checksums, where `digest` computes them.

    `metas` are in no order; `whole` is whether the pieces will be the object. Where their answers tell no checksum of
    it, `look` is asked, once. `on_error` hears of the version whose :meth:`error` is told.
    """

    on_error: Callable[[ObjectMeta], None] | None = None

    def __init__(
        self, key: str, digest: Digester | None = None, look: Look | None = None, *, required: bool = False
    ) -> None:
        self.metas: list[ObjectMeta] = []
        self._versions: set[tuple[object, ...]] = set()
        self.whole = digest is not None
        self._key = key
        self._digest = digest
        self._look = look
        self._required = required
        self._verified = 0
        self._looking = trio.Lock()
        self._seen: ObjectMeta | None = None
        self._sums: dict[int, Checksum] = {}

    async def look(self) -> None:
        """Learn the object's checksum, before pieces land if possible: they are in the cache then."""
        async with self._looking:
            if self.whole and self._look is not None:
                look, self._look = self._look, None
                self._seen = await look(self._key)

    async def add(self, result: GetResult, view: memoryview) -> None:
        """Take note of a piece, which is in `view`."""
        self.metas.append(result.meta)
        self._versions.add(validators(result.meta))
        if self._digest is None or not self.whole:
            return
        if result.verified:
            self._verified += len(view)
            return
        stored = result.meta.checksum
        if stored is None and len(view) < result.meta.size:
            await self.look()
            stored = None if self._seen is None else self._seen.checksum
        if stored is not None:
            value = await self._digest.value(stored.algorithm, view, result.computed)
            self._sums[result.start] = Checksum.known(stored.algorithm, value, len(view))

    def check_version(self) -> None:
        """Errors: `ObjectChangedError` where the pieces are of two versions."""
        if len(self._versions) > 1:
            raise ObjectChangedError("the object was replaced while parts of it were read", self._context())

    def is_sound(self) -> bool:
        """Whether the pieces, of one version, have the object's checksum together.

        So have those that are no whole object, or one of which no checksum is known, unless one is required. Errors:
        `ObjectChangedError`; `ChecksumError` where none is known that has to be.
        """
        self.check_version()
        stored = self.checksum()
        joined = [self._sums[start] for start in sorted(self._sums)]
        if joined and stored is not None and sum(each.length for each in joined) == self.metas[0].size:
            return reduce(Checksum.combine, joined).value == stored.value
        if self._required and self.whole and self.metas and self._verified < self.metas[0].size:
            message = (
                "checksums are required, and the store tells none of the whole object, which was read in parts; "
                "checksums='when_there' reads such an object all the same"
            )
            raise ChecksumError(message, self._context())
        return True

    def checksum(self) -> StoredChecksum | None:
        """The object's, which all answers agree on: what they do not can only be that of their own part."""
        metas = self.metas
        if metas and self._seen is not None and validators(self._seen) == validators(metas[0]):
            metas = [*metas, self._seen]
        told = {meta.checksum for meta in metas if meta.checksum is not None}
        return told.pop() if len(told) == 1 else None

    def error(self, received: str = "received, twice,") -> ChecksumError:
        """That of an object that is not sound."""
        if self.on_error is not None:
            self.on_error(self.metas[0])
        message = f"the bytes {received} do not have the checksum that the store keeps of the object"
        return ChecksumError(message, self._context())

    def _context(self) -> ErrorContext:
        return ErrorContext(operation="GetObject", key=self._key)
