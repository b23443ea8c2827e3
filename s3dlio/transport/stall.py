"""A limit on silence: no wait for a peer lasts longer than it without a byte moving.

Theory of operation. A cancel scope around every wait would be a good part of what a small request costs. So waits are
only noted, with their time, and one task of the run looks after them: it sleeps till the first is due, and ends when
there is nothing to look after. A stream that was silent for half the limit is asked to be content with less (see
:meth:`.stream.Stream.accept_any`), since few bytes are progress too; after the whole limit it is given up, which
ends its waits. So a peer is given up after one limit, or one and a half where it fell silent in the middle of a body.
After ten seconds the log says, once, what is waited for.

A process may be stopped, and its loop be held up: what arrived meanwhile is still to be looked at. So a watch that
wakes late has not seen silence, but nothing, and begins to count anew.

Invariant: a stream is noted while a task waits for it, with the time of its newest wait: two tasks may wait, one to
send and one for an early answer, and the progress of either is progress. Ownership: one watch per pool, in one Trio
run. Cancellation: a cancelled wait takes its note back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import trio

from ..errors import ErrorContext

_log = logging.getLogger("s3dlio")

_LATE = 1.0
"""Seconds by which a loop that is merely busy does not wake late."""

_NOTABLE = 10.0
"""Seconds of silence that are worth a line."""


class Waiting(Protocol):
    """What is looked after."""

    waits: int
    """How many tasks wait for it."""
    purpose: Callable[[], ErrorContext] | None
    """Says what they wait for."""

    @property
    def moved(self) -> int:
        """How many bytes have moved during a wait that goes on while they do."""

    def accept_any(self) -> None:
        """Wake up for fewer bytes than were asked for."""

    def give_up(self) -> None:
        """End all waits."""


class StallWatch:
    """Looks after streams that wait; `limit` is in seconds."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._since: dict[Waiting, tuple[float, int, bool]] = {}
        """And what had moved then, and whether the log has said so."""
        self._looking = False

    def begin(self, stream: Waiting) -> None:
        """A task begins to wait."""
        stream.waits += 1
        self._since.pop(stream, None)
        self._since[stream] = trio.current_time(), stream.moved if stream.waits > 1 else 0, False
        if not self._looking:
            self._looking = True
            trio.lowlevel.spawn_system_task(self._look_on, name="s3dlio stall watch")

    def end(self, stream: Waiting) -> None:
        """A task has stopped waiting."""
        stream.waits -= 1
        if not stream.waits:
            self._since.pop(stream, None)

    async def _look_on(self) -> None:
        try:
            while self._since:
                due = min(self._due(since, told) for since, _, told in self._since.values())
                await trio.sleep_until(due)
                now = trio.current_time()
                if now - due > _LATE:
                    self._since = {stream: (now, moved, told) for stream, (_, moved, told) in self._since.items()}
                self._look(now)
        finally:
            self._looking = False

    def _due(self, since: float, told: bool) -> float:
        half = since + self.limit / 2
        due = half if trio.current_time() < half else since + self.limit
        return due if told else min(due, since + _NOTABLE)

    def _look(self, now: float) -> None:
        for stream, (since, moved, told) in list(self._since.items()):
            if stream.moved != moved:
                self._since[stream] = now, stream.moved, False
                continue
            if now >= since + self.limit:
                stream.give_up()
            elif now >= since + self.limit / 2:
                stream.accept_any()
            if not told and now >= since + _NOTABLE:
                self._since[stream] = since, moved, True
                _tell(stream, now - since)


def _tell(stream: Waiting, seconds: float) -> None:
    what = "" if stream.purpose is None else f" ({stream.purpose()})"
    _log.warning("no byte has moved for %.0f seconds, and it is still waited for one%s", seconds, what)
