"""One object, or one range of it, received into one view, over as many answers as it takes.

Pure but for the call of the caller's sink. The first answer says which version of the object this is and which bytes
come; every later one must continue that version at exactly the byte where the last one broke off. Anything else is an
error: `ObjectChangedError` for another version, `ProtocolError` for an answer that does not have what was asked. One
that has more (a server that knows no ranges sends the whole object) is used: what comes before is skipped, and what
comes after is left to the connection to drop, unless the sink wants it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..alignment.checksum import Fold
from ..errors import ErrorContext, ObjectChangedError, ProtocolError, RangeError, StoreError, shown
from ..model import (
    BoundedRange,
    GetRange,
    GetResult,
    ObjectMeta,
    OffsetRange,
    Sink,
    StoredChecksum,
    SuffixRange,
    resolve,
)
from .connection import Connection
from .endpoint import Endpoint
from .http1 import Head, is_weak, parse_size, quote_etag

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-(-?[0-9]{1,19})/([0-9]+)")

Describe = Callable[[Mapping[str, str], int], ObjectMeta]
"""Makes the metadata of the answered object from the answer's headers and the object's size."""


class Pin(NamedTuple):
    """How a service is held to one version of an object."""

    ask: Callable[[str], tuple[Mapping[str, str], str]]
    """From an etag, the headers and the piece of the query that ask for its version alone, if there is such a way."""
    refusal: int
    """The status by which the service says that it has no such version."""


def _if_match(etag: str) -> tuple[Mapping[str, str], str]:
    """No version matches a weak etag (RFC 9110 section 13.1.1): the answers themselves have to be compared."""
    return {} if is_weak(etag) else {"if-match": quote_etag(etag)}, ""


IF_MATCH = Pin(_if_match, 412)


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
    """The landing of a GET. `filled` counts the bytes of the current answer, `received` those of earlier ones.

    `skip` is how many bytes of the current answer come before those that are wanted.
    """

    def __init__(
        self,
        key: str,
        sink: Sink,
        describe: Describe,
        byte_range: GetRange | None = None,
        if_match: str | None = None,
        pin: Pin = IF_MATCH,
        begin: Callable[[Mapping[str, str]], Fold | None] = lambda headers: None,
    ) -> None:
        self.key = key
        self.asked: Connection | None = None
        """A connection of the download's own, on which it has been asked for."""
        self.filled = self.skip = 0
        self.received = 0
        self.fold: Fold | None = None
        """A checksum of what lands, from the first byte on, if `begin` gave one for the headers of the first answer."""
        self.result: GetResult | None = None
        self.on_answer: Callable[[], object] | None = None
        """Called when an answer with bytes of the object has begun."""
        self.endpoint: Endpoint | None = None
        """The one that is being asked."""
        self.endpoints: list[Endpoint] = []
        """Those whose answers were used."""
        self.avoid: Sequence[Endpoint] = ()
        """Those that are asked last, where there are others."""
        self._sink = sink
        self._describe = describe
        self._range = byte_range
        self._if_match = if_match
        self._pin = pin
        self._begin_fold = begin
        self._view = memoryview(b"")

    def folded(self, result: GetResult) -> GetResult:
        """`result`, with a checksum where one was computed of all that landed."""
        fold = self.fold
        if fold is None or fold.length != result.end - result.start:
            return result
        return replace(result, computed=StoredChecksum(fold.algorithm, fold.value))

    def take_asked(self) -> Connection | None:
        """The connection on which it has been asked for, once."""
        asked, self.asked = self.asked, None
        return asked

    @property
    def missing(self) -> int:
        """How many bytes are still to come, as far as that is known; else 0."""
        if self.result is not None:
            return self.result.end - self.result.start - self.received
        asked = self._range
        return asked.end - asked.start if isinstance(asked, BoundedRange) else 0

    def narrow(self, headers: Mapping[str, str], query: str) -> tuple[dict[str, str], str]:
        """A request's headers and query, asking for what is still missing, of the version that has begun to arrive."""
        missing, etag = self._range, self._if_match
        if self.result is not None:
            first = self.result.start + self.received
            missing = BoundedRange(first, self.result.end) if first or self._range else None
            etag = self.result.meta.etag or self._if_match
        if missing is None and not etag:
            return {**headers}, query
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

    def place(self, head: Head, length: int) -> memoryview:
        """Where the body of a 200 or 206 goes. Errors: `ObjectChangedError`, `ProtocolError`, `RangeError`."""
        if self.on_answer is not None:
            self.on_answer()
        start, end, size = self._answered_range(head, length)
        meta = self._describe(head.headers, size)
        wanted_start, wanted_end = self._begin(meta) if self.result is None else self._continue(meta, self.result)
        if not start <= wanted_start <= wanted_end <= end:
            raise self._wrong(f"asked for bytes {wanted_start} to {wanted_end}, the answer has {start} to {end}")
        self.skip = wanted_start - start
        if self.result is None:
            self._view = self._open_sink(GetResult(meta, wanted_start, wanted_end, end - wanted_end))
            self.fold = self._begin_fold(head.headers)
            self.result = GetResult(meta, wanted_start, wanted_start + len(self._view))
        if self.endpoint is not None and self.endpoint not in self.endpoints:
            self.endpoints.append(self.endpoint)
        return self._view[self.received :]

    def _answered_range(self, head: Head, length: int) -> tuple[int, int, int]:
        text = head.headers.get("content-range")
        if text is None:
            if head.status == 206:
                raise self._wrong("a partial answer does not say its range")
            return 0, length, length
        match = _CONTENT_RANGE.fullmatch(text.strip())
        size = parse_size(match[3]) if match else None
        if match is None or size is None:
            raise self._wrong(f"the answer's range makes no sense: {shown(text, 100)!r}")
        start, end = int(match[1]), int(match[2]) + 1
        if start == end and start == size:
            raise RangeError(f"the range begins at or past the object's end, {size}", self._context())
        if not (start < end <= size and end - start == length):
            raise self._wrong(f"the answer's range {shown(text, 100)!r} does not fit its {length} bytes")
        return start, end, size

    def _begin(self, meta: ObjectMeta) -> tuple[int, int]:
        """The bytes that are wanted of the first answer."""
        start, end = resolve(self._range, meta.size)
        if self._range is not None and start >= meta.size:
            raise RangeError(f"the range begins at or past the object's end, {meta.size}", self._context())
        pin = self._if_match and quote_etag(self._if_match)
        told = meta.etag and quote_etag(meta.etag)
        if pin and told != pin and (told or is_weak(pin)):
            raise self._changed(self._if_match, meta.etag)
        return start, end

    def _continue(self, meta: ObjectMeta, known: GetResult) -> tuple[int, int]:
        """The bytes that are wanted of a later answer."""
        if validators(meta) != validators(known.meta):
            raise self._changed(known.meta.etag, meta.etag)
        return known.start + self.received, known.end

    def _open_sink(self, coming: GetResult) -> memoryview:
        """The sink's view. A failure of the sink's own must not pass for one of the connection."""
        try:
            view = self._sink(coming)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"there is no place for the body: {error}", self._context()) from error
        except MemoryError as error:
            message = f"there is no memory for the object, which the server says has {coming.meta.size} bytes"
            raise StoreError(message, self._context()) from error
        if not 0 <= len(view) - (coming.end - coming.start) <= coming.excess:
            raise ValueError(f"the sink gave a view of {len(view)} bytes for {coming.end - coming.start}")
        return view

    def _changed(self, old: str | None, new: str | None) -> ObjectChangedError:
        became = f"etag {shown(old or 'None', 100)} became {shown(new or 'None', 100)}"
        message = f"the object was replaced while it was read: {became}"
        return ObjectChangedError(message, self._context())

    def _wrong(self, message: str) -> ProtocolError:
        return ProtocolError(message, self._context())

    def _context(self) -> ErrorContext:
        return ErrorContext(operation="GET", key=self.key)


def validators(meta: ObjectMeta) -> tuple[object, ...]:
    """What two versions of an object differ in.

    The time counts only where no etag tells the bytes apart: replicas may disagree about it.
    """
    strong = meta.etag is not None and not is_weak(meta.etag)
    return meta.size, meta.etag, None if strong else meta.last_modified
