"""Requests that are late to be answered are asked elsewhere, but few of them.

Theory of operation. A read that has waited much longer for its first byte than reads have lately is given up and asked
of another endpoint: what is left of its wait is unknown, and may be long, while another endpoint is as quick as most,
most of the time. Each request earns a fiftieth of such a change, so that there are at most two more requests in a
hundred, also where everything has become slow at once; a late one waits till there is one for it.
Source: Dean and Barroso, "The Tail at Scale", 2013.

What is late is told by the median and the 95th percentile: whatever is twice as far from the median as that one. A read
that was late takes as long as it was waited for, and then as long as one does. That is hardly more than twice the usual
time where all take the same; it cannot be less, as hardly any may be given up that would have been answered. Where
times differ much, a bound that was nearer would use up the changes for reads that are not late, and slow these down.

As in :mod:`.stall`, waits are only noted, and one task of the run looks after them, and ends with the last.

Ownership: one per service of several endpoints, in one Trio run. Cancellation: a cancelled wait takes its note back.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Hashable

import trio

_LATELY = 200
"""Waits that count."""

_ENOUGH = 20
"""Waits to have seen before any is called late."""

_EARNS = 0.02
_MOST_EARNED = 8.0
_SHORTEST = 0.005
_MARGIN = 1.05
"""A late wait is at least so much longer than the 95th percentile: all may take the same, but not quite."""


class Lately:
    """How long waits have been lately, in seconds."""

    def __init__(self) -> None:
        self._seen: deque[float] = deque()
        self._in_order: list[float] = []

    @property
    def seen(self) -> int:
        """How many count."""
        return len(self._seen)

    def see(self, seconds: float) -> None:
        """Take one more into account."""
        if self.seen == _LATELY:
            del self._in_order[bisect_left(self._in_order, self._seen.popleft())]
        self._seen.append(seconds)
        insort(self._in_order, seconds)

    @property
    def late(self) -> float:
        """From when on one is late; infinite while too few were seen."""
        if self.seen < _ENOUGH:
            return math.inf
        median, most = self._part(0.5), self._part(0.95)
        return max(most + (most - median), most * _MARGIN, _SHORTEST)

    def _part(self, part: float) -> float:
        return self._in_order[math.ceil(part * self.seen) - 1]


class LateWatch:
    """Looks after waits for a first byte."""

    def __init__(self) -> None:
        self.first_byte = Lately()
        self._earned = 0.0
        self._since: dict[Hashable, tuple[float, Callable[[], object]]] = {}
        self._looking = False
        self._news = trio.Event()

    def begin(self, wait: Hashable, give_up: Callable[[], object]) -> None:
        """A wait begins, which `give_up` ends when it is late; :meth:`end` has to follow in any case."""
        before, self._earned = self._earned, min(self._earned + _EARNS, _MOST_EARNED)
        self._since[wait] = trio.current_time(), give_up
        if not self._looking:
            self._looking = True
            trio.lowlevel.spawn_system_task(self._look_on, name="s3dlio late requests")
        elif before < 1 <= self._earned:
            self._news.set()

    def end(self, wait: Hashable) -> None:
        """It is over, by a first byte or otherwise. Also again."""
        noted = self._since.pop(wait, None)
        if noted is not None:
            self.first_byte.see(trio.current_time() - noted[0])
            if not self._since or self.first_byte.seen == _ENOUGH:
                self._news.set()

    async def _look_on(self) -> None:
        try:
            while self._since:
                with trio.move_on_at(self._due()):
                    await self._news.wait()
                self._news = trio.Event()
                self._give_up_late()
        finally:
            self._looking = False

    def _due(self) -> float:
        """When the oldest wait may be given up, in Trio's time; never before a change has been earned."""
        oldest, _ = next(iter(self._since.values()))
        return oldest + self.first_byte.late if self._earned >= 1 else math.inf

    def _give_up_late(self) -> None:
        now, limit = trio.current_time(), self.first_byte.late
        for wait, (since, give_up) in list(self._since.items()):
            if since + limit > now or self._earned < 1:
                return
            self._earned -= 1
            self.end(wait)
            give_up()
