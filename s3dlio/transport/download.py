"""One object, or one range of it, received into one view, over as many answers as it takes.

Pure but for the call of the caller's sink. The first answer says which version of the object this is and which bytes
come; every later one must continue that version at exactly the byte where the last one broke off. Anything else is an
error: `ObjectChangedError` for another version, `ProtocolError` for an answer that is not what was asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..errors import ErrorContext, ObjectChangedError, ProtocolError, RangeError, StoreError
from ..model import BoundedRange, GetRange, GetResult, ObjectMeta, OffsetRange, Sink, SuffixRange, resolve
from .http1 import Head, parse_size, quote_etag

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-(-?[0-9]{1,19})/([0-9]+)")

Describe = Callable[[Mapping[str, str], int], ObjectMeta]
"""Makes the metadata of the answered object from the answer's headers and the object's size."""


class Pin(NamedTuple):
    """How a service is held to one version of an object."""

    ask: Callable[[str], tuple[Mapping[str, str], str]]
    """From an etag, the headers and the piece of the query that ask for its version alone."""
    refusal: int
    """The status by which the service says that it has no such version."""


IF_MATCH = Pin(lambda etag: ({"if-match": quote_etag(etag)}, ""), 412)


def range_header(byte_range: GetRange) -> str:
    """A range as the `Range` header spells it (RFC 9110 section 14.2)."""
    match byte_range:
        case BoundedRange(start, end):
            return f"bytes={start}-{end - 1}"
        case OffsetRange(offset):
            return f"bytes={offset}-"
        case SuffixRange(length):
            return f"bytes=-{length}"


class Download:
    """The landing of a GET. `filled` counts the bytes of the current answer, `received` those of earlier ones."""

    def __init__(
        self,
        key: str,
        sink: Sink,
        describe: Describe,
        byte_range: GetRange | None = None,
        if_match: str | None = None,
        pin: Pin = IF_MATCH,
    ) -> None:
        self.key = key
        self.filled = 0
        self.received = 0
        self.result: GetResult | None = None
        self._sink = sink
        self._describe = describe
        self._range = byte_range
        self._if_match = if_match
        self._pin = pin
        self._view = memoryview(b"")

    def narrow(self, headers: Mapping[str, str], query: str) -> tuple[dict[str, str], str]:
        """A request's headers and query, asking for what is still missing, of the version that has begun to arrive."""
        missing, etag = self._range, self._if_match
        if self.result is not None:
            first = self.result.start + self.received
            missing = BoundedRange(first, self.result.end) if first or self._range else None
            etag = self.result.meta.etag or self._if_match
        asked, piece = self._pin.ask(etag) if etag else ({}, "")
        ranged = {} if missing is None else {"range": range_header(missing)}
        return {**headers, **ranged, **asked}, "&".join(filter(None, (query, piece)))

    def tells_change(self, status: int) -> bool:
        """Whether an error answer means that the object was replaced: another etag, or an end before our place."""
        if self.result is None:
            return status == self._pin.refusal and self._if_match is not None
        return status in (self._pin.refusal, 416)

    def broke_off(self) -> bool:
        """Note that the current answer ended early; whether it had brought anything."""
        progress, self.filled = self.filled, 0
        self.received += progress
        return progress > 0

    def place(self, head: Head, length: int) -> memoryview | None:
        """Where this answer's body goes. Errors: `ObjectChangedError`, `ProtocolError`, `RangeError`."""
        if head.status not in (200, 206):
            return None
        start, end, size = self._answered_range(head, length)
        meta = self._describe(head.headers, size)
        if self.result is None:
            return self._begin(meta, start, end)
        return self._continue(meta, start, end)

    def _answered_range(self, head: Head, length: int) -> tuple[int, int, int]:
        text = head.headers.get("content-range")
        if text is None:
            if head.status == 206:
                raise self._wrong("a partial answer does not say its range")
            return 0, length, length
        match = _CONTENT_RANGE.fullmatch(text.strip())
        size = parse_size(match[3]) if match else None
        if match is None or size is None:
            raise self._wrong(f"the answer's range makes no sense: {text!r}")
        start, end = int(match[1]), int(match[2]) + 1
        if start == end and start == size:
            raise RangeError(f"the range begins at or past the object's end, {size}", self._context())
        if not (start < end <= size and end - start == length):
            raise self._wrong(f"the answer's range {text!r} does not fit its {length} bytes")
        return start, end, size

    def _begin(self, meta: ObjectMeta, start: int, end: int) -> memoryview:
        wanted_start, wanted_end = resolve(self._range, meta.size)
        if self._range is not None and wanted_start >= meta.size:
            raise RangeError(f"the range begins at or past the object's end, {meta.size}", self._context())
        if (start, end) != (wanted_start, wanted_end):
            raise self._wrong(f"asked for bytes {wanted_start} to {wanted_end}, the answer has {start} to {end}")
        if self._if_match and meta.etag and quote_etag(meta.etag) != quote_etag(self._if_match):
            raise self._changed(self._if_match, meta.etag)
        coming = GetResult(meta, start, end)
        self._view = self._open_sink(coming)
        self.result = coming
        return self._view

    def _open_sink(self, coming: GetResult) -> memoryview:
        """The sink's view. A failure of the sink's own must not pass for one of the connection."""
        try:
            view = self._sink(coming)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"there is no place for the body: {error}", self._context()) from error
        if len(view) != coming.end - coming.start:
            raise ValueError(f"the sink gave a view of {len(view)} bytes for {coming.end - coming.start}")
        return view

    def _continue(self, meta: ObjectMeta, start: int, end: int) -> memoryview:
        assert self.result is not None
        known = self.result
        if _version(meta) != _version(known.meta):
            raise self._changed(known.meta.etag, meta.etag)
        if (start, end) != (known.start + self.received, known.end):
            raise self._wrong(f"the answer continues at byte {start}, not at {known.start + self.received}")
        return self._view[self.received :]

    def _changed(self, old: str | None, new: str | None) -> ObjectChangedError:
        message = f"the object was replaced while it was read: etag {old} became {new}"
        return ObjectChangedError(message, self._context())

    def _wrong(self, message: str) -> ProtocolError:
        return ProtocolError(message, self._context())

    def _context(self) -> ErrorContext:
        return ErrorContext(operation="GET", key=self.key)


def _version(meta: ObjectMeta) -> tuple[object, ...]:
    """What two versions of an object differ in. The time counts only where there is no etag: replicas may disagree."""
    return meta.size, meta.etag or meta.last_modified
