"""Multipart uploads into files.

A part is written where it will lie in the object, in one draft that all parts share, so that completing an upload is a
rename. Where it will lie is known once all parts before it have said their sizes, which each does when its writing
begins. What this cannot place, as parts come in any order and may come again, goes to the end of a second draft, and is
copied to its place when the upload is completed. If by then others lie in the wrong place, since parts were left out or
came again with another size, all are copied into a third.

An upload lives in the process that began it. One that is dropped while parts are being written is closed by the last
of these.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, count

import trio

from ..errors import ErrorContext, RequestError
from ..model import Part, Upload
from .local_files import Draft, copy_range


@dataclass(frozen=True, slots=True)
class _Placed:
    """Where a part was written."""

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
    _placed: dict[int, _Placed] = field(default_factory=dict)
    _sizes: dict[int, int] = field(default_factory=dict)
    _starts: list[int] = field(default_factory=lambda: [0])
    """Offsets of the parts from 1 on, as far as they are known."""
    _serials: count[int] = field(default_factory=lambda: count(1))

    async def start_of(self, number: int, size: int) -> int | None:
        """Where a part that now begins goes in the main draft; None if it does not."""
        first = number not in self._sizes
        self._sizes.setdefault(number, size)
        await trio.lowlevel.checkpoint()  # parts that begin together all say their sizes first
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
        self._placed[number] = _Placed(part, draft, offset)
        return part

    def check(self, parts: Sequence[Part], context: ErrorContext) -> None:
        """Errors: `RequestError` where no object can be made of these."""
        numbers = [part.number for part in parts]
        known = [self._placed[number].part for number in numbers if number in self._placed]
        if not parts or known != list(parts) or numbers != sorted(set(numbers)):
            raise RequestError("the parts are not those that were uploaded, in order", context)
        if self.writing:
            raise RequestError("parts are still being written", context)

    def assemble(self, parts: Sequence[Part]) -> Draft:
        """A draft of exactly these parts. Blocks."""
        chosen = [self._placed[part.number] for part in parts]
        *starts, end = accumulate((part.size for part in parts), initial=0)
        moved = [(placed, start) for placed, start in zip(chosen, starts, strict=True) if placed.offset != start]
        target = self.make_draft() if any(placed.draft is self.main for placed, _ in moved) else self.main
        try:
            for placed, start in zip(chosen, starts, strict=True):
                if placed.draft is not target:
                    copy_range(placed.draft.file.fd, placed.offset, target.file.fd, start, placed.part.size)
            os.ftruncate(target.file.fd, end)
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
