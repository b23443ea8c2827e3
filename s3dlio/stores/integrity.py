"""Whether what was read in pieces is one version of an object, and has its checksum."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial, reduce
from typing import TypeVar

import trio

from ..alignment.checksum import Checksum, kernel_for
from ..errors import ErrorContext, IntegrityError, ObjectChangedError
from ..model import GetResult, ObjectMeta
from ..transport.download import validators

T = TypeVar("T")

HASH_IN_THREAD_FROM = 256 << 10
"""Bytes from which hashing takes longer than a hop into a thread."""


class Digester:
    """Computes digests in a thread where that takes long. One per store."""

    def __init__(self) -> None:
        self._compiling = trio.Lock()

    async def __call__(self, digest: Callable[[memoryview], T], data: memoryview) -> T:
        """The `digest` of `data`, which must not change meanwhile.

        The first one of a process takes long, as it compiles the kernel: once for all that need it.
        """
        compiled = kernel_for.cache_info().currsize > 0
        if not len(data) or (compiled and len(data) < HASH_IN_THREAD_FROM):
            return digest(data)
        async with nullcontext() if compiled else self._compiling:
            return await trio.to_thread.run_sync(digest, data)


class Landed:
    """The pieces of `key` that have landed: what their answers say, and their checksums, where `digest` computes them.

    `metas` are in no order.
    """

    def __init__(self, key: str, digest: Digester | None = None) -> None:
        self.metas: list[ObjectMeta] = []
        self._key = key
        self._digest = digest
        self._sums: dict[int, Checksum] = {}

    async def add(self, result: GetResult, view: memoryview) -> None:
        """Take note of a piece, which is in `view`."""
        self.metas.append(result.meta)
        stored = result.meta.checksum
        if self._digest is not None and stored is not None and not result.verified:
            self._sums[result.start] = await self._digest(partial(Checksum, stored.algorithm), view)

    def check_version(self) -> None:
        """Errors: `ObjectChangedError` where the pieces are of two versions."""
        if len(set(map(validators, self.metas))) > 1:
            raise ObjectChangedError("the object was replaced while parts of it were read", self._context())

    def is_sound(self) -> bool:
        """Whether the pieces, of one version, have the object's checksum together.

        So have those that are no whole object, or one of which no checksum is known. Errors: `ObjectChangedError`.
        """
        self.check_version()
        if not self._sums:
            return True
        stored, size = self.metas[0].checksum, self.metas[0].size
        joined = reduce(Checksum.combine, (self._sums[start] for start in sorted(self._sums)))
        return joined.length != size or stored is None or joined.value == stored.value

    def error(self) -> IntegrityError:
        """That of an object that is not sound, again."""
        message = "the bytes received, twice, do not have the checksum that the store keeps of the object"
        return IntegrityError(message, self._context())

    def _context(self) -> ErrorContext:
        return ErrorContext(operation="GetObject", key=self._key)
