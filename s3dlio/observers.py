"""Who is told what goes on: the log, a file of a trace, a hook of the application's, OpenTelemetry.

Theory of operation. Most of them are *observers*: functions that are called with an event and what it is about, an
:class:`Attempt` or a :class:`Span`. That of one store comes with its requests, those of the whole process are kept
here, and the log is one while its level is DEBUG. Where there is none, an attempt costs one look at whether there is.

Who needs to know no more than what has been, as a trace does, is a *recorder*: it is told of what has ended, and of the
small objects that a batch has read in few words, once for all that came together (:class:`Read`). So these cost it a
tuple each, and no :class:`Attempt`.

Either is called on the thread where the thing happened, and should be quick. What it raises is logged, and harms
nothing else. It is never shown a query, a header or a body: they may hold secrets.

To say what somebody waited for, attempts bear a *cause*: what the task that made them works for, such as a blocking
call, or an object that is read ahead; the waiting has the same.

Ownership: each is its maker's. Fork: a child begins with none but the log.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import trio

from .errors import ErrorContext, shown

_log = logging.getLogger("s3dlio")

T = TypeVar("T")

Hook = Callable[[str, dict[str, Any]], object]
"""An application's: called with the name of an event, such as `attempt.complete`, and what it is about."""

_cause: ContextVar[Hashable] = ContextVar("s3dlio_cause", default=None)


class Span(NamedTuple):
    """Something that has taken time, in seconds of `time.monotonic()`: a `wait` for the loop, a `checksum`."""

    name: str
    cause: Hashable
    begun: float
    ended: float
    thread: int
    """By its native number."""

    def info(self) -> dict[str, Any]:
        """What a hook is told."""
        return {"seconds": self.ended - self.begun}


class Attempt:
    """One attempt of one request, at one endpoint. `begun`, `ended` and what lies between are Trio's time, in seconds.

    Where one exchange had to be repeated on another connection, the times are those of the last.
    """

    __slots__ = (
        *("_answered", "_connected", "_observers", "at", "attempt", "begun", "bucket", "cause", "ended", "endpoint"),
        *("failure", "key", "mended", "method", "operation", "received", "request_id", "sent", "status"),
    )

    def __init__(
        self,
        observers: tuple[Observer, ...],
        operation: str,
        method: str,
        bucket: str | None,
        key: str | None,
        endpoint: str,
        *,
        attempt: int = 1,
        sent: int = 0,
        cause: Hashable = None,
        asked_at: float | None = None,
    ) -> None:
        """`asked_at` is when it was asked, at once, on a connection that was there, where nobody was told then."""
        self._observers = observers
        self.operation = operation
        self.method = method
        self.bucket = bucket
        self.key = key
        self.endpoint = endpoint
        self.attempt = attempt
        self.sent = sent
        self.received = 0
        """Bytes of the answer's body, as `sent` are those of the request's."""
        self.status: int | None = None
        self.failure: str | None = None
        self.mended = False
        """Whether it was sent again within it, with newer credentials or by the server's clock."""
        self.request_id: str | None = None
        self.cause = _cause.get() if cause is None else cause
        self.begun = self.ended = trio.current_time() if asked_at is None else asked_at
        self._connected = asked_at
        self._answered: float | None = None
        self.at = 0.0
        """When it ended, by `time.monotonic()`."""
        self._tell("attempt.started")

    def connected(self) -> None:
        """It has a connection."""
        self._connected, self._answered = trio.current_time(), None

    def answered(self) -> None:
        """The head of the answer is there."""
        if self._answered is None:
            self._answered = trio.current_time()

    def complete(self, status: int, headers: Mapping[str, str], received: int) -> None:
        """It was answered as asked, with so many bytes."""
        # not Google's: it names an upload, which is a secret
        self.request_id = headers.get("x-amz-request-id") or headers.get("x-ms-request-id")
        self._end("attempt.complete", status, received)

    def failed(self, failure: str, context: ErrorContext | None = None, received: int = 0) -> None:
        """It was not; `failure` is one of :attr:`s3dlio.EndpointStats.failures`, or `cancelled`, or an error's name."""
        self.failure = failure
        self.request_id = None if context is None else context.request_id
        self._end("attempt.failed", None if context is None else context.status, received)

    def ended_by(self, error: BaseException, received: int = 0) -> None:
        """Something has ended it that is not the endpoint's doing."""
        self.failed("cancelled" if isinstance(error, trio.Cancelled) else type(error).__name__, received=received)

    def _end(self, event: str, status: int | None, received: int) -> None:
        self.status, self.received = status, received
        self.ended, self.at = trio.current_time(), time.monotonic()
        self._tell(event)

    def _tell(self, event: str) -> None:
        _tell(self._observers, event, self)

    @property
    def waited(self) -> tuple[float, float, float]:
        """Seconds it took to have a connection, then the first byte, then the rest of the answer."""
        connected = self.ended if self._connected is None else self._connected
        answered = self.ended if self._answered is None else self._answered
        return connected - self.begun, answered - connected, self.ended - answered

    def info(self) -> dict[str, Any]:
        """What a hook is told. `id` is the same for the events of one attempt; seconds are 0 while it goes on."""
        connection, first_byte, body = self.waited
        return {
            "id": id(self),
            "operation": self.operation,
            "method": self.method,
            "bucket": self.bucket,
            "key": self.key,
            "endpoint": self.endpoint,
            "attempt": self.attempt,
            "status": self.status,
            "failure": self.failure,
            "mended": self.mended,
            "request_id": self.request_id,
            "sent": self.sent,
            "received": self.received,
            "connection_seconds": connection,
            "first_byte_seconds": first_byte,
            "body_seconds": body,
        }

    def __str__(self) -> str:
        name = shown("/".join(filter(None, (self.bucket, self.key))), 1100)
        ended = " ".join(str(each) for each in (self.status, self.failure) if each is not None)
        known = "" if self.request_id is None else f", request {shown(self.request_id, 200)}"
        connection, first_byte, body = self.waited
        return (
            f"{self.operation} ({self.method}) {name} at {self.endpoint}, attempt {self.attempt}: {ended}{known}, "
            f"{self.sent} bytes sent, {self.received} received; {connection:.4f} s for a connection, "
            f"{first_byte:.4f} s for the first byte, {body:.4f} s for the body"
        )


Row = tuple[str, str, str, float, int]
"""Of an object that was read: its key, operation and endpoint, when it was asked for, and its bytes."""


class Read(NamedTuple):
    """Whole objects that came together, each by a GET that was answered with 200 on a connection that was there.

    Each is an attempt, the first one, whose cause is its key, and all of whose time is that to the first byte.
    """

    rows: Sequence[Row]
    ended: float
    """When they came, in Trio's time, as that in each row."""
    at: float
    """The same by `time.monotonic()`."""


Observer = Callable[[str, Attempt | Span], object]
"""Called with an event, such as `attempt.started`, `attempt.complete`, `attempt.failed`, `wait.complete`."""

Recorder = Callable[[Attempt | Span | Read], object]
"""Called with what has ended."""

_everybody: tuple[Observer, ...] = ()
_recorders: tuple[Recorder, ...] = ()


def observe(observer: Observer) -> None:
    """Tell `observer`, from now on, of all that goes on in this process."""
    global _everybody
    _everybody = (*_everybody, observer)


def record(recorder: Recorder) -> None:
    """Tell `recorder`, from now on, of all that has ended in this process."""
    global _recorders
    _recorders = (*_recorders, recorder)


def leave(who: Observer | Recorder) -> None:
    """Tell them no more."""
    global _everybody, _recorders
    _everybody = tuple(each for each in _everybody if each != who)
    _recorders = tuple(each for each in _recorders if each != who)


def observers(own: Observer | None) -> tuple[Observer, ...]:
    """Who is told of a request, whose store may have an observer of its `own`."""
    found = witnesses(own)
    return (*found, _record_end) if _recorders else found


def witnesses(own: Observer | None) -> tuple[Observer, ...]:
    """Those of :func:`observers` that have to be told of each attempt, also of a batch's: all but recorders."""
    found = _everybody if own is None else (*_everybody, own)
    return (*found, _write_line) if _log.isEnabledFor(logging.DEBUG) else found


def recording() -> bool:
    """Whether there are recorders."""
    return bool(_recorders)


def have_read(rows: Sequence[Row]) -> None:
    """These have come now, and there were no witnesses: recorders are told."""
    if rows:
        _tell((_record_end,), "read.complete", Read(rows, trio.current_time(), time.monotonic()))


def observer_of(hook: Hook) -> Observer:
    """The observer that `hook` is to be called by."""
    return lambda event, what: hook(event, what.info())


def caused_by(cause: Hashable) -> None:
    """What this task does from now on, and those that it starts, is for `cause`."""
    if _everybody or _recorders:
        _cause.set(cause)


def span_ended(name: str, begun: float, cause: Hashable = None) -> None:
    """A span `name` has ended, which began at the time `begun`, of `time.monotonic()`."""
    if _everybody or _recorders:
        span = Span(name, _cause.get() if cause is None else cause, begun, time.monotonic(), threading.get_native_id())
        _tell((*_everybody, _record_end), f"{name}.complete", span)


def _tell(observers: Sequence[Callable[[str, T], object]], event: str, what: T) -> None:
    for observer in observers:
        try:
            observer(event, what)
        except Exception:
            _log.warning("an observer failed", exc_info=True)


def _write_line(event: str, what: Attempt | Span) -> None:
    if event != "attempt.started":
        _log.debug("%s", what)


def _record_end(event: str, what: Attempt | Span | Read) -> None:
    if event != "attempt.started":
        for recorder in _recorders:
            recorder(what)


def _forget() -> None:
    """In a forked child."""
    global _everybody, _recorders
    _everybody, _recorders = (), ()


os.register_at_fork(after_in_child=_forget)
