"""Multipart uploads into files.

A part is written where it will lie in the object, in one draft that all parts share, so that completing an upload is a
rename. Where it will lie is known once the sizes of all parts before it are, and each is known when its writing begins.
What has no place yet, as parts come in any order and may come again, goes to the end of a second draft, and is copied
to its place when the upload is completed. If by then others lie in the wrong place, since parts were left out or came
again with another size, all are copied into a third.

An upload lives in the process that began it. One that is dropped while parts are being written is closed by the last
of these.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, count

import trio

from ...errors import ErrorContext, RequestError
from ...model import Part, Upload
from ..store import check_parts
from .files import Draft, copy_range


@dataclass(frozen=True, slots=True)
class _WrittenPart:
    """A part, and where it was written."""

    part: Part
    draft: Draft
    offset: int


@dataclass
class LocalUpload:
    """An upload in progress. What is not async blocks on files where its docstring says so."""

    upload: Upload
    make_draft: Callable[[], Draft]
    main: Draft
    writing: int = 0
    """Parts under way."""
    dropped: bool = False
    _spill: Draft | None = None
    _spill_end: int = 0
    _spill_lock: threading.Lock = field(default_factory=threading.Lock)
    _parts: dict[int, _WrittenPart] = field(default_factory=dict)
    _sizes: dict[int, int] = field(default_factory=dict)
    _starts: list[int] = field(default_factory=lambda: [0])
    """Offsets of the parts from 1 on, as far as they are known."""
    _serials: count[int] = field(default_factory=lambda: count(1))

    async def start_of(self, number: int, size: int) -> int | None:
        """Where a part that now begins goes in the main draft; None if it does not."""
        first = number not in self._sizes
        self._sizes.setdefault(number, size)
        await trio.lowlevel.checkpoint()  # the sizes of parts that begin together are all known after this
        while len(self._starts) in self._sizes:
            self._starts.append(self._starts[-1] + self._sizes[len(self._starts)])
        return self._starts[number - 1] if first and number <= len(self._starts) else None

    def spill(self, size: int) -> tuple[Draft, int]:
        """A place in the second draft. Blocks."""
        with self._spill_lock:
            self._spill = self._spill or self.make_draft()
            start, self._spill_end = self._spill_end, self._spill_end + size
            return self._spill, start

    def written(self, number: int, size: int, draft: Draft, offset: int) -> Part:
        """Note a part, instead of an older one of this number."""
        part = Part(number, f'"{number}-{next(self._serials)}"', size)
        self._parts[number] = _WrittenPart(part, draft, offset)
        return part

    def check(self, parts: Sequence[Part], context: ErrorContext) -> None:
        """Errors: `RequestError` where no object can be made of these."""
        check_parts(parts, {number: written.part for number, written in self._parts.items()}, context)
        if self.writing:
            raise RequestError("parts are still being written", context)

    def assemble(self, parts: Sequence[Part]) -> Draft:
        """A draft of exactly these parts. Blocks."""
        *starts, end = accumulate((part.size for part in parts), initial=0)
        chosen = list(zip((self._parts[part.number] for part in parts), starts, strict=True))
        misplaced = any(written.draft is self.main and written.offset != start for written, start in chosen)
        target = self.make_draft() if misplaced else self.main
        try:
            for written, start in chosen:
                if written.draft is not target:
                    _move(written, target, start)
            os.ftruncate(target.file.fd, end)  # parts that were left out may lie behind
        except BaseException:
            if target is not self.main:
                target.close()
            raise
        return target

    def close(self) -> None:
        """Remove what was not published. Blocks."""
        try:
            self.main.close()
        finally:
            if self._spill is not None:
                self._spill.close()


def _move(written: _WrittenPart, target: Draft, start: int) -> None:
    size = written.part.size
    if copy_range(written.draft.file.fd, written.offset, target.file.fd, start, size) != size:
        raise OSError(errno.EIO, "somebody has cut a file short that is being written")
