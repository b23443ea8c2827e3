"""Which of several endpoints gets a request, and which get none for a while: pure decisions, no I/O.

Theory of operation. Four endpoints are taken at random, and the one is asked that would be done soonest: where the
bytes that are owed, those of this request included, take least time at the pace it has had lately. So parts of one
object spread, a slow endpoint gets as much as it can do, and clients that know nothing of each other do not all turn to
the same one; with two, a slow one would be the better of a pair too often. To refuse (429, 503) is quick, and counts as
slow. Sources: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.

The pace is believed at once where it is bad news, and slowly where it is good: a batch is as late as the last of its
requests, so what a slow endpoint adds when all goes well is soon lost again. What was seen is forgotten, the sooner the
less is seen, and one that nothing is known of passes for as quick as the other, so that an endpoint that was slow once
is tried anew: by one request, while it owes nothing. Source: the load metric "peak EWMA" of Finagle.

An endpoint that takes no connection, or fails three times in a row, is out. It is probed after a second, then at longer
and longer intervals; once a probe has got through it is given one request, and when that is answered more and more of
them, all of its share after ten seconds. Where fewer than half are left none is passed over: what has befallen so many
is hardly theirs, and who asks none of them learns nothing. Source: the outlier detection, panic threshold and slow
start of Envoy.

Times are seconds of one clock, which the caller reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from random import Random
from typing import Protocol, TypeVar

from .retry import Failure

LEAST = 64 << 10
"""Bytes that a request counts at least: there is more to it than its body."""

_USUAL = 1e-8
"""Seconds a byte, where nothing is known of any endpoint."""

_CHOICES = 4
_BAD_NEWS, _GOOD_NEWS = 0.5, 0.05
_FORGETS, _FORGOTTEN = 20.0, 120.0
_MOMENT = 1e-6
_THROTTLED = 5.0
"""Seconds for which a refusal counts that came at once."""

_IN_A_ROW = 3
_PROBED_AFTER, _PROBED_WITHIN = 1.0, 30.0
_RETURNS = 10.0
_BEGINS_WITH = 0.1


class Health(Enum):
    """Whether an endpoint is asked. One that is `TRIED` has taken a connection, and has to answer one request."""

    IN = "in"
    OUT = "out"
    TRIED = "tried"


class Load:
    """What one endpoint owes, how soon it pays, and whether it is asked at all."""

    def __init__(self) -> None:
        self.health = Health.IN
        self.owed = 0
        """Bytes of the requests under way."""
        self.probe_at = -math.inf
        self._pace, self._seen_at = math.inf, -math.inf
        self._failed = self._probes = 0
        self._back_at = -math.inf

    def owe(self, size: int) -> int:
        """A request of `size` bytes begins; how many are owed with it."""
        self.owed += size
        return self.owed

    def settle(self, size: int, then: int) -> int:
        """It has ended; of how many bytes it was one, where they were `then` at its beginning.

        Where requests are answered one after the other, the last one has waited for all that were owed when it began,
        though few are by now; where they are answered side by side, the first one for all that came later.
        """
        most = max(then, self.owed)
        self.owed -= size
        return most

    def wait(self, size: int, now: float, other: Load) -> float:
        """Seconds for a request of `size` bytes, as far as can be told, and in comparison with `other`."""
        known, age = min(self._pace, other._pace), now - self._seen_at
        usual = _USUAL if known == math.inf else known
        pace = self._pace if self.owed and self._pace < math.inf else usual
        if not self.owed and age <= _FORGOTTEN:
            pace += (self._pace - usual) * math.exp(-age / _FORGETS)
        back = (now - self._back_at) / _RETURNS
        return (self.owed + size) * pace / min(max(back, _BEGINS_WITH), 1.0)

    def answered(self, owed: int, seconds: float, now: float) -> bool:
        """It has answered in that time, as one of several requests, of `owed` bytes; whether it is back by that.

        They had to wait for each other: to divide by one of them would make a busy endpoint pass for a slow one.
        """
        self._see(owed, seconds, now)
        self._failed = 0
        if self.health is Health.IN:
            return False
        self.health, self._probes, self._back_at = Health.IN, 0, now
        return True

    def failed(self, failure: Failure, size: int, seconds: float, now: float, jitter: float) -> bool:
        """A request of `size` bytes has failed so in that time; whether that puts it out. `jitter` is in [0, 1)."""
        if failure is Failure.FINAL:
            return False
        if failure in (Failure.THROTTLED, Failure.LATE):
            self._see(size, max(seconds, _THROTTLED) if failure is Failure.THROTTLED else seconds, now)
            return False
        self._failed += 1
        if self.health is Health.OUT or (self._bears(failure) and self.health is Health.IN):
            return False
        news = self.health is Health.IN
        self.put_out(now, jitter)
        return news

    def _bears(self, failure: Failure) -> bool:
        return failure is not Failure.NOT_SENT and self._failed < _IN_A_ROW

    def put_out(self, now: float, jitter: float) -> None:
        """It is out until another probe, which is due after a while."""
        longest = min(math.ldexp(_PROBED_AFTER, min(self._probes, 16)), _PROBED_WITHIN)
        self.health, self.probe_at = Health.OUT, now + longest * (1 + jitter) / 2
        self._probes += 1

    def shun(self, until: float) -> None:
        """It is out, and not even probed before `until`."""
        self.health, self.probe_at = Health.OUT, until

    def _see(self, size: int, seconds: float, now: float) -> None:
        seen, forgotten = max(seconds, _MOMENT) / max(size, LEAST), 1 - math.exp((self._seen_at - now) / _FORGETS)
        weight = max(_GOOD_NEWS, forgotten) if seen < self._pace else _BAD_NEWS
        self._pace = seen if self._pace == math.inf else self._pace + (seen - self._pace) * weight
        self._seen_at = now

    @property
    def _may_be_asked(self) -> bool:
        return self.health is Health.IN or (self.health is Health.TRIED and not self.owed)

    def __repr__(self) -> str:
        return f"<Load {self.health.value}, {self.owed} bytes owed, {1e-6 / self._pace:.0f} MB/s>"


class Loaded(Protocol):
    """What has a load."""

    @property
    def load(self) -> Load:
        """Its own."""


T = TypeVar("T", bound=Loaded)


def choose(endpoints: Sequence[T], tried: Sequence[T], size: int, now: float, random: Random) -> T:
    """The endpoint to ask for `size` bytes; not all were `tried`."""
    asked = [endpoint for endpoint in endpoints if endpoint.load._may_be_asked]
    if 2 * len(asked) < len(endpoints):
        asked = list(endpoints)
    rest = [endpoint for endpoint in asked if endpoint not in tried]
    rest = rest or [endpoint for endpoint in endpoints if endpoint not in tried]
    if len(rest) < 2:
        return rest[0]
    best, *others = random.sample(rest, min(_CHOICES, len(rest)))
    for other in others:
        if other.load.wait(size, now, best.load) < best.load.wait(size, now, other.load):
            best = other
    return best
