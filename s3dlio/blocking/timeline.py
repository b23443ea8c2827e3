"""A trace of what this process asks of stores, and of what its threads wait for, as a file that timeline viewers show.

Theory of operation. A trace is a recorder (:mod:`..observers`) that does nothing but remember; a thread of its own
writes, twice a second, and sooner where there is much. What it cannot write in time, as a disk may be slow, is counted,
and told of in the file, so that it never grows without bound in memory. The file is an array of events, complete ones
(`"ph": "X"`) and names (`"M"`), and each piece is written at once, together with the bracket that ends it, over the
bracket before. So it is valid JSON whenever somebody looks, also when the process was killed. Source: the "Trace Event
Format" of Chrome, which Perfetto reads.

Attempts stand on rows of their own, as few as do without overlaps. On the row of a thread that makes blocking calls are
its waits, each divided by :func:`attribute`, and between them the consumer's own time.

Ownership: a trace belongs to the process that began it; a forked child has none. It is closed by its maker, or when the
process ends, which for a worker of a `DataLoader` is no exit as others are.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice, pairwise
from json.encoder import encode_basestring_ascii
from multiprocessing.util import Finalize
from types import TracebackType
from typing import NamedTuple, Self

from ..observers import Attempt, Read, Span, leave, record

_PAUSE = 0.5
_MANY = 1 << 12
"""Notes that are worth writing at once."""

_MOST = 1 << 16
"""Notes that are kept till they are written; others are lost."""

_PIECE = 1 << 7
"""Notes that are made events of, and written, at a time."""

_REMEMBERED = 1 << 14
"""Most attempts, and others, that are kept for waits which have not ended yet, or never will be."""

_ROWS = 1_000_000_000
"""The first row of attempts: no thread has such a number."""

_LEAST = 1e-6
_SHOWN = 0.05
"""Part of an attempt that is not its longest phase, from which on its phases are worth events."""

_BEGIN = '{"tid":'
_END = b"\n]\n"
_RANKS = ("body", "first byte", "connection", "list", "checksum")


class Phase(NamedTuple):
    """What went on for somebody, by its name, from `begun` to `ended`, in seconds of `time.monotonic()`."""

    name: str
    begun: float
    ended: float


def phases_of(what: Attempt | Span) -> list[Phase]:
    """What an attempt consisted of, in order; that of a page of a listing is one whole, as a span is."""
    if isinstance(what, Span):
        return [Phase(what.name, what.begun, what.ended)]
    begun, phases = what.at - (what.ended - what.begun), list[Phase]()
    if what.operation.startswith("List"):
        return [Phase("list", begun, what.at)]
    for name, seconds in zip(("connection", "first byte", "body"), what.waited, strict=True):
        if seconds > _LEAST:
            phases.append(Phase(name, begun, begun + seconds))
        begun += seconds
    return phases


def attribute(begun: float, ended: float, phases: Iterable[Phase]) -> list[Phase]:
    """What was waited for from `begun` to `ended`, where `phases` went on for whoever waited.

    Of several at a time the furthest counts. After all of them comes the `hand-over`; where there is none before, it
    was a `queue`: for a turn, for room, or for the next attempt. Empty where nothing is known.
    """
    known = [each for each in phases if each.begun < ended]
    if not known:
        return []
    if (found := _in_turn(begun, ended, known)) is not None:
        return found
    last = max(each.ended for each in known)
    marks = sorted({begun, ended, *(mark for _, *both in known for mark in both if begun < mark < ended)})
    found = []
    for start, end in pairwise(marks):
        under_way = {name for name, first, stop in known if first <= start and end <= stop}
        name = next((rank for rank in _RANKS if rank in under_way), "hand-over" if start >= last else "queue")
        _add(found, name, start, end)
    return found


def _in_turn(begun: float, ended: float, phases: list[Phase]) -> list[Phase] | None:
    """The same, with less ado, of phases that came one after the other, as nearly all do; `None` for others."""
    found: list[Phase] = []
    done, before = begun, -math.inf
    for name, first, last in phases:
        if first < before or name not in _RANKS:
            return None
        before, until = last, min(last, ended)
        if done < first:
            _add(found, "queue", done, first)
            done = first
        if done < until:
            _add(found, name, done, until)
            done = until
    if done < ended:
        _add(found, "hand-over", done, ended)
    return found


def _add(found: list[Phase], name: str, begun: float, ended: float) -> None:
    if found and found[-1].name == name:
        begun = found.pop().begun
    found.append(Phase(name, begun, ended))


class _Events:
    """Makes events, as JSON, of what recorders are told; the time is counted from `begun`, on the thread of `maker`."""

    def __init__(self, begun: float, maker: int) -> None:
        self._pid = os.getpid()
        self._begun = begun
        self._rows: deque[tuple[float, int]] = deque()
        """Those of attempts, each with the end of its last one, about in that order."""
        self._known: dict[Hashable, list[Attempt | Span]] = {}
        """By causes, the one that was heard of last at the end."""
        self._count = 0
        self._read: dict[Hashable, tuple[float, float]] = {}
        """Of what came together, when each was asked for, and came, by its key."""
        self._free_since = {maker: begun}
        """Of each thread, when its last wait ended."""

    def begin(self) -> Iterator[str]:
        """The names of the process and of the maker's thread."""
        yield self._named("process_name", 0, f"process {self._pid}")
        for thread in self._free_since:
            yield self._named("thread_name", thread, _name_of(thread))

    def of(self, what: Attempt | Span | Read) -> Iterable[str]:
        """What there is to tell of it."""
        if isinstance(what, Read):
            return self.of_read(what)
        return self.of_attempt(what) if isinstance(what, Attempt) else self.of_span(what)

    def of_attempt(self, attempt: Attempt) -> Iterator[str]:
        """An attempt, and what it consisted of where that is more than one thing."""
        begun = attempt.at - (attempt.ended - attempt.begun)
        self._remember(attempt)
        if not self._rows or self._rows[0][0] > begun:
            yield self._new_row(begun)
        row = self._rows.popleft()[1]
        self._rows.append((attempt.at, row))
        yield self._complete(attempt.operation, row, begun, attempt.at, _told(attempt))
        waited = attempt.waited
        if (whole := sum(waited)) - max(waited) > _SHOWN * whole:
            for phase in phases_of(attempt):
                yield self._complete(phase.name, row, phase.begun, phase.ended)

    def of_read(self, read: Read) -> list[str]:
        """The same of objects that came together; what they have in common is made once."""
        found, rows, known, at = list[str](), self._rows, self._read, read.at
        alike, span, middle = None, (at, at), ""
        for key, operation, endpoint, asked, received in read.rows:
            if (asked, endpoint, operation) != alike:
                alike, span = (asked, endpoint, operation), (at - (read.ended - asked), at)
                middle = self._middle(operation, endpoint, *span)
            if not rows or rows[0][0] > span[0]:
                found.append(self._new_row(span[0]))
            row = rows.popleft()[1]
            rows.append((at, row))
            known[key] = span
            found.append(f'{_BEGIN}{row}{middle}{received},"key":{encode_basestring_ascii(key)}}}}}')
        if len(known) > 2 * _REMEMBERED:
            self._read = dict(islice(known.items(), len(known) - _REMEMBERED, None))
        return found

    def _middle(self, operation: str, endpoint: str, begun: float, ended: float) -> str:
        """Of an event what stands between its row and the bytes that came."""
        told = f'"endpoint":{encode_basestring_ascii(endpoint)},"attempt":1,"status":200,"sent":0,"received":'
        return self._complete(operation, 0, begun, ended, told).removeprefix(f"{_BEGIN}0").removesuffix("}}")

    def of_span(self, span: Span) -> Iterator[str]:
        """A wait, what was waited for, and what the thread did before; anything else is kept, for the wait to come."""
        if span.name != "wait":
            self._remember(span)
            return
        phases = attribute(span.begun, span.ended, self._phases_for(span.cause))
        if span.thread not in self._free_since:
            yield self._named("thread_name", span.thread, _name_of(span.thread))
        yield from self.of_consumer(span.thread, span.begun)
        self._free_since[span.thread] = span.ended
        what = f'"for":{encode_basestring_ascii(span.cause)}' if isinstance(span.cause, str) else ""
        for name, begun, ended in (Phase("wait", span.begun, span.ended), *phases):
            yield self._complete(name, span.thread, begun, ended, what if name == "wait" else "")

    def end(self, thread: int, lost: int) -> Iterator[str]:
        """The last time of the maker's own, and how much is missing, if anything is."""
        now = time.monotonic()
        yield from self.of_consumer(thread, now)
        if lost:
            yield self._complete(f"{lost} notes lost", thread, now, now)

    def of_consumer(self, thread: int, until: float) -> Iterator[str]:
        """The time of a thread's own, from the last time it waited."""
        since = self._free_since.get(thread, until)
        if until - since > _LEAST:
            yield self._complete("consumer", thread, since, until)

    def _phases_for(self, cause: Hashable) -> list[Phase]:
        """What was done for it, which is told of once."""
        read = self._read.pop(cause, None)
        found = [] if read is None else [Phase("first byte", *read)]
        return [*found, *chain(*map(phases_of, self._take(cause)))]

    def _new_row(self, free: float) -> str:
        """Have another row for attempts, which is free from then on, be the first; the event that names it."""
        row = _ROWS + len(self._rows)
        self._rows.appendleft((free, row))
        return self._named("thread_name", row, f"attempts {row - _ROWS}")

    def _remember(self, what: Attempt | Span) -> None:
        known = self._take(what.cause)
        known.append(what)
        self._known[what.cause] = known
        self._count += len(known)
        while self._count > _REMEMBERED:
            self._take(next(iter(self._known)))

    def _take(self, cause: Hashable) -> list[Attempt | Span]:
        known = self._known.pop(cause, [])
        self._count -= len(known)
        return known

    def _complete(self, name: str, row: int, begun: float, ended: float, args: str = "") -> str:
        start, end = round((begun - self._begun) * 1e9), round((ended - self._begun) * 1e9)
        return (
            f'{_BEGIN}{row},"ph":"X","pid":{self._pid},"ts":{start / 1000:.3f},"dur":{(end - start) / 1000:.3f},'
            f'"name":"{name}","args":{{{args}}}}}'
        )

    def _named(self, kind: str, row: int, name: str) -> str:
        named = encode_basestring_ascii(name)
        return f'{{"ph":"M","pid":{self._pid},"tid":{row},"name":"{kind}","args":{{"name":{named}}}}}'


def _told(attempt: Attempt) -> str:
    key, endpoint = encode_basestring_ascii(attempt.key or ""), encode_basestring_ascii(attempt.endpoint)
    told = f'"key":{key},"endpoint":{endpoint},"attempt":{attempt.attempt},"status":{attempt.status or 0}'
    failure = "" if attempt.failure is None else f',"failure":{encode_basestring_ascii(attempt.failure)}'
    return f'{told}{failure},"sent":{attempt.sent},"received":{attempt.received}'


def _name_of(thread: int) -> str:
    return next((each.name for each in threading.enumerate() if each.native_id == thread), f"thread {thread}")


class Trace:
    """What is being written to the file `path`, see :func:`trace`. Errors of its making: `OSError`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._pid, self._maker = os.getpid(), threading.get_native_id()
        self._events = _Events(time.monotonic(), self._maker)
        self._news: deque[Attempt | Span | Read] = deque()
        self._lost = 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._place = 0
        self._closed = False
        self._error: OSError | None = None
        try:
            self._write(self._events.begin())
        except BaseException:
            os.close(self._file)
            raise
        self._stop = False
        self._due = threading.Event()
        self._writer = threading.Thread(target=self._work, name="s3dlio-trace", daemon=True)
        self._writer.start()
        self._at_exit = Finalize(None, self._close_quietly, exitpriority=10)
        record(self._note)

    def _note(self, what: Attempt | Span | Read) -> None:
        count = len(self._news)
        if count < _MOST:
            self._news.append(what)
        else:
            self._lost += 1
        if count == _MANY:
            self._due.set()

    def _work(self) -> None:
        try:
            while not self._stop:
                self._due.wait(_PAUSE)
                self._due.clear()
                self._drain()
            self._drain()
        except OSError as error:
            self._error = error
            leave(self._note)

    def _drain(self) -> None:
        while self._news:
            noted = [self._news.popleft() for _ in range(min(len(self._news), _PIECE))]
            self._write(chain.from_iterable(map(self._events.of, noted)))

    def _write(self, events: Iterable[str]) -> None:
        """Write `events` over the end of those before, with an end of their own."""
        piece = ",\n".join(events).encode()
        if not piece:
            return
        rest = memoryview((b",\n" if self._place else b"[\n") + piece + _END)
        while rest:  # nearly always once: who looks should not find half of it
            written = os.pwrite(self._file, rest, self._place)
            rest, self._place = rest[written:], self._place + written
        self._place -= len(_END)

    def close(self) -> None:
        """Write what is left. May be called again; does nothing in a forked child. Errors: `OSError`, as of a disk."""
        if self._closed or self._pid != os.getpid():
            return
        leave(self._note)
        self._stop = True
        self._due.set()
        self._writer.join()
        self._at_exit.cancel()
        self._closed = True
        try:
            if self._error is not None:
                raise self._error
            self._write(self._events.end(self._maker, self._lost))
        finally:
            os.close(self._file)

    def _close_quietly(self) -> None:
        with suppress(OSError):
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def trace(path: str | os.PathLike[str]) -> Trace:
    """Write what this process asks of stores, and waits for, to the file `path`, from now on.

    For `with`; or kept, and closed by :meth:`Trace.close`, or by the end of the process. It is JSON for
    https://ui.perfetto.dev or `chrome://tracing`, of this process alone: each worker of a `DataLoader` may begin its
    own, in its `worker_init_fn`. Errors: `OSError` where the file cannot be written.
    """
    return Trace(path)
