"""Whole objects for a thread that waits for each of them in turn, read ahead by one prefetcher.

They are asked for together, or when one has to be waited for: to wake the loop costs as much as a small object, and
what is asked for together is signed together.

Ownership: :class:`Bodies` is the caller's, and :meth:`Bodies.close` ends all that is under way.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from ..fetcher import Outage
from ..observers import span_ended
from .portal import as_shown, portal
from .prefetch import Prefetcher, Want

_TOGETHER = 32


class Bodies:
    """The bodies under way. For one thread."""

    def __init__(self) -> None:
        self._prefetcher: Prefetcher | None = None
        self._drawn: list[tuple[int, Want]] = []
        self._count = 0

    def begin(self, want: Want) -> Body:
        """Put one more under way."""
        body = Body(self, self._count, want.key)
        self._drawn.append((self._count, want))
        self._count += 1
        if len(self._drawn) == _TOGETHER:
            self._ask()
        return body

    def _ask(self) -> Prefetcher:
        if self._prefetcher is None:
            self._prefetcher = Prefetcher(portal())
        if self._drawn:
            self._prefetcher.submit(self._drawn)
            self._drawn = []
        return self._prefetcher

    def wait(self, body: Body, timeout: float) -> bool:
        """Whether `body` is over, now or after at most `timeout` seconds."""
        if self._prefetcher is not None and body.position in self._prefetcher.done:
            return True
        begun = time.monotonic()
        over = self._ask().wait(body.position, timeout)
        span_ended("wait", begun, body.key)
        return over

    def take(self, body: Body) -> bytes:
        """What `body` is, once. Errors: its `StoreError`; `CancelledError` where all are closed meanwhile."""
        outcome = self._ask().take(body.position)
        if isinstance(outcome, bytes):
            return outcome
        raise as_shown(outcome.error if isinstance(outcome, Outage) else outcome)

    def close(self) -> None:
        """Cancel what is under way, and wait a moment until nothing of it is left."""
        self._drawn = []
        if self._prefetcher is not None:
            self._prefetcher.let_go()


class Body(NamedTuple):
    """One of `bodies`: what is to be in the object `key`. They are given up together."""

    bodies: Bodies
    position: int
    key: str

    def wait(self, timeout: float) -> bool:
        """Whether it is over, now or after at most `timeout` seconds."""
        return self.bodies.wait(self, timeout)

    def result(self) -> bytes:
        """The content, once. Errors: as :meth:`Bodies.take`."""
        return self.bodies.take(self)

    def cancel(self) -> None:
        """Give all up."""
        self.bodies.close()

    def let_go(self) -> None:
        """The same: nothing is left of any."""
        self.bodies.close()
