"""Requests that are late to be answered are asked elsewhere, but few of them.

Theory of operation. Of the times to a first byte the 95th percentile is kept. A read that has waited clearly longer is
given up and asked of another endpoint: what is left of its wait is unknown, and may be long, while another endpoint is
as quick as most, most of the time. Each request earns a fiftieth of such a change, so that there are at most two more
requests in a hundred, also where everything has become slow at once; a late one waits till there is one for it.
Source: Dean and Barroso, "The Tail at Scale", 2013.

As in :mod:`.stall`, waits are only noted, and one task of the run looks after them, and ends with the last.

Ownership: one per service of several endpoints, in one Trio run. Cancellation: a cancelled wait takes its note back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable

import trio

_PART = 0.95
_STEP = 0.1
_ENOUGH = 20
"""Waits to have seen before any is called late."""

_EARNS = 0.02
_MOST_EARNED = 8.0
_SHORTEST = 0.005
_MARGIN = 1.25
"""A wait is late when it is so much longer: one in twenty is beyond the percentile by nature, and soon over."""


class Percentile:
    """The 95th percentile of what is seen, in steps of the logarithm: up by 19 where one was above it, else down by 1.

    Source: Robbins and Monro, "A Stochastic Approximation Method", 1951.
    """

    def __init__(self) -> None:
        self.seen = 0
        """How many."""
        self._value = 0.0

    def see(self, value: float) -> None:
        """Take one more into account."""
        self.seen += 1
        if self.seen <= _ENOUGH:
            self._value = max(self._value, value)
        else:
            self._value *= math.exp(_STEP * (_PART - (value <= self._value)))

    @property
    def value(self) -> float:
        """What it is; infinite while too few were seen."""
        return max(self._value, _SHORTEST) if self.seen >= _ENOUGH else math.inf


class LateWatch:
    """Looks after waits for a first byte."""

    def __init__(self) -> None:
        self.first_byte = Percentile()
        """In seconds."""
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
        return oldest + self._limit if self._earned >= 1 else math.inf

    @property
    def _limit(self) -> float:
        """What is late, in seconds."""
        return self.first_byte.value * _MARGIN

    def _give_up_late(self) -> None:
        now, limit = trio.current_time(), self._limit
        for wait, (since, give_up) in list(self._since.items()):
            if since + limit > now or self._earned < 1:
                return
            self._earned -= 1
            self.end(wait)
            give_up()
