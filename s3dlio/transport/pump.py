"""Exchanges that are worked on outside the interpreter: Python's side of the pump.

Theory of operation. A :class:`Pump` has a thread that runs the compiled loop of :mod:`.pump_kernel` from its start to
its end without taking the interpreter's lock. A task hands it a row, that is what to send and where to receive, and
sleeps; what is done comes back several at a time, by one system task, which wakes the tasks. So the lock is taken once
for a batch, not several times for each exchange.

Invariant: the memory of a row is kept, in :attr:`Pump._rows`, until the pump has said that it is done with it.
Ownership: a pump belongs to one Trio run, ends with it, and never touches a descriptor that it has not been given a row
of. Cancellation: the pump is asked to let go of the row, and the task goes on when it has, a moment later. Fork: the
child's run makes pumps of its own; it has neither the parent's thread nor its rows.

Where the compiled code is not there, or not yet, :func:`pump_of_run` gives none, and streams do it themselves.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import select
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple, cast

import outcome
import trio

from . import pump_table as t
from .pump_code import PumpCode, pump_code

_MOST = 1024
_CORES_A_PUMP = 2
_MOST_PUMPS = 8
_EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class Moved(NamedTuple):
    """What became of a row: one of the outcomes of :mod:`.pump_table`, its detail, and bytes sent and received.

    `wanted` is how many bytes an answer has that was found to be plain; below two, it was not.
    """

    outcome: int
    detail: int
    sent: int
    received: int
    wanted: int


class _Row:
    """A task that waits, and what must not go while it does."""

    __slots__ = ("kept", "raise_cancel", "task")

    def __init__(self, kept: tuple[object, ...]) -> None:
        self.task = trio.lowlevel.current_task()
        self.kept = kept
        self.raise_cancel: trio.lowlevel.RaiseCancelT | None = None

    def end(self, fd: int, moved: Moved) -> None:
        if moved.outcome == t.CANCELLED and self.raise_cancel is not None:
            trio.lowlevel.reschedule(self.task, outcome.capture(self.raise_cancel))
        else:
            trio.lowlevel.reschedule(self.task, outcome.Value(moved))


class _Posted(NamedTuple):
    """Rows that no task waits for, one by one."""

    kept: tuple[object, ...]
    end: Callable[[int, Moved], None]


class Pump(trio.abc.Instrument):
    """A thread that works on rows. Belongs to the Trio run it is made in, which ends it.

    It is an instrument of the run, as that tells when all tasks have had their turn: then the thread is woken, once.
    """

    def __init__(self, code: PumpCode) -> None:
        self.attached = 0
        """How many streams use it."""
        self._code = code
        self._rows: dict[int, _Row | _Posted] = {}
        self._has_news = False
        self._memory = mmap.mmap(-1, 8 * t.WORDS, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._words = memoryview(self._memory).cast("q")
        self._events = ctypes.create_string_buffer(16 * t.MAX_EVENTS)
        self._asked = (ctypes.c_int64 * (t.ASKED * _MOST))()
        self._told = (ctypes.c_int64 * (t.TOLD * _MOST))()
        self._asked_at, self._told_at = ctypes.addressof(self._asked), ctypes.addressof(self._told)
        self._epoll = select.epoll()
        self._bells = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2)]
        self._set_up()
        self._thread = threading.Thread(target=self._run, name="s3dlio-pump", daemon=True)
        self._thread.start()
        trio.lowlevel.spawn_system_task(self._wake_tasks, name="s3dlio pump")
        trio.lowlevel.add_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        """All tasks have had their turn."""
        if self._has_news:
            self._has_news = False
            self._code.wake(self._base)

    def _set_up(self) -> None:
        words = self._words
        words[t.BELL_IN], words[t.BELL_OUT] = self._bells
        words[t.EPOLL], words[t.EVENTS] = self._epoll.fileno(), ctypes.addressof(self._events)
        packed = os.uname().machine == "x86_64"  # epoll_event: 4 bytes and 8, which elsewhere are aligned
        words[t.EVENT_WORDS], words[t.EVENT_DATA] = (3, 1) if packed else (4, 2)
        words[t.ONE] = 1
        self._epoll.register(self._bells[0], select.EPOLLIN | select.EPOLLET)

    def _run(self) -> None:
        self._code.pump(self._base)

    def attach(self, fd: int) -> bool:
        """Look after a descriptor from now on, if there is a row for it."""
        if fd >= t.ROWS:
            return False
        self._words[t.TABLE + fd * t.COLUMNS + t.EVENT] = 0
        self._epoll.register(fd, _EDGES)
        self.attached += 1
        return True

    def detach(self, fd: int) -> None:
        """Forget a descriptor, which has no row under way; before it is closed."""
        self.attached -= 1
        with suppress(OSError):
            self._epoll.unregister(fd)

    def has_event(self, fd: int) -> bool:
        """Whether something to read, or the peer's end, has come since the last row of `fd` was done."""
        return bool(self._words[t.TABLE + fd * t.COLUMNS + t.EVENT])

    def moved(self, fd: int) -> int:
        """How many bytes of the row under way have moved, but for a request's head, which just goes out."""
        at = t.TABLE + fd * t.COLUMNS
        request = self._words[at + t.OUT_SIZE] + self._words[at + t.BODY_SIZE]
        sent = self._words[at + t.OUT_DONE] if request > t.FIRST_READ else 0
        return sent + self._words[at + t.IN_DONE]

    def let_go(self, fd: int) -> None:
        """End the row under way, as CANCELLED."""
        if fd in self._rows:
            self._code.cancel(self._base, fd)
            self._has_news = True

    async def work(
        self,
        fd: int,
        tls: int,
        send: tuple[int, int],
        receive: tuple[int, int],
        want: int,
        kept: tuple[object, ...],
        early: int = t.ANYHOW,
        body: tuple[int, int] = (0, 0),
        fold: int = 0,
    ) -> Moved:
        """Send and receive; `send` and `receive` are addresses and sizes in bytes, of memory that `kept` keeps.

        `body`, which goes after `send`, is the address of a list of such pairs, and the bytes of all together. `fold`
        is that of a checksum's words, of the received bytes (:class:`~s3dlio.alignment.checksum.Fold`).

        Reception ends when `want` bytes are there, or as ANSWER and ANYTHING say. `early` is one of ANYHOW, WATCHED,
        REUSED; `tls` is an `SSL *`, or 0.
        """
        row = self._rows[fd] = _Row(kept)
        self._submit([fd, tls, *send, *receive, want, early, *body, 0, 0, fold])

        def abort(raise_cancel: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
            row.raise_cancel = raise_cancel
            self.let_go(fd)
            return trio.lowlevel.Abort.FAILED

        return await trio.lowlevel.wait_task_rescheduled(abort)  # type: ignore[no-any-return]

    def post(self, asked: list[int], kept: tuple[object, ...], end: Callable[[int, Moved], None]) -> None:
        """Begin several rows, each of the words that :data:`.pump_table.ASKED` counts. `kept` keeps their memory.

        `end` is called with the descriptor of each, and what became of it.
        """
        posted = _Posted(kept, end)
        self._rows.update(dict.fromkeys(asked[:: t.ASKED], posted))
        for first in range(0, len(asked), len(self._asked)):
            self._submit(asked[first : first + len(self._asked)])

    def _submit(self, asked: list[int]) -> None:
        self._asked[: len(asked)] = cast("list[ctypes.c_int64 | int]", asked)
        self._code.submit(self._base, self._asked_at, len(asked) // t.ASKED)
        self._has_news = True

    async def _wake_tasks(self) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(self._bells[1])
                self._wake_done()
        finally:
            with trio.CancelScope(shield=True):
                while self._rows:
                    await trio.lowlevel.wait_readable(self._bells[1])
                    self._wake_done()
            self._end()

    def _wake_done(self) -> None:
        count = _MOST
        while count == _MOST:
            self._code.collect(self._base, self._told_at, _MOST)
            count = self._words[t.FOUND]
            told = self._told[: count * t.TOLD]
            for place in range(0, len(told), t.TOLD):
                self._rows.pop(told[place]).end(told[place], Moved(*told[place + 1 : place + t.TOLD]))

    def _end(self) -> None:
        trio.lowlevel.remove_instrument(self)
        self._words[t.STOP] = 1
        os.eventfd_write(self._bells[0], 1)
        self._thread.join()
        self._epoll.close()
        for bell in self._bells:
            os.close(bell)


_pumps: trio.lowlevel.RunVar[dict[bool, list[Pump]]] = trio.lowlevel.RunVar("s3dlio pumps")


def pump_of_run(openssl: Mapping[str, int] | None = None) -> Pump | None:
    """The pump of this run that has the fewest streams; `None` while there is no code for one.

    `openssl` are the addresses of OpenSSL's functions, for one that speaks TLS.
    """
    code = pump_code(openssl)
    if code is None:
        return None
    try:
        pumps = _pumps.get()
    except LookupError:
        _pumps.set(pumps := {})
    mine = pumps.setdefault(openssl is not None, [])
    if len(mine) < min(max((os.cpu_count() or 1) // _CORES_A_PUMP, 1), _MOST_PUMPS):
        mine.append(Pump(code))
    return min(mine, key=lambda pump: pump.attached)
