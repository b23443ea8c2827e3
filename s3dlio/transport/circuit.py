"""Whether an endpoint answers, as all its requests together see it: a circuit breaker.

Theory of operation. A request that fails while others are answered is retried on a schedule of its own. Where nobody
takes a connection, or the first attempts of several requests fail in a row, the endpoint is down: the circuit opens,
and that is one failure, however many requests stand behind it. From then on turns come on the schedule that one request
alone would have. At each turn one request is sent again, to probe; for those that wait it counts like an attempt of
their own, so that all together are as patient as one, and send little more. Any answer closes the circuit: all who wait
go at once.

A first attempt is never held back, nor is a last one: nobody fails without having asked. A turn is not held either: a
probe that hangs delays no other, and one that is cancelled leaves nothing behind.

Ownership: one per endpoint, in one Trio run. Cancellation: at any wait, nothing is left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from ..errors import StoreError
from .retry import Failure, RetryPolicy

_log = logging.getLogger("s3dlio")

_OPENS_AFTER = 8
"""Requests whose first attempts failed in a row. Fewer are the lot of those who are throttled beside others."""

_NOTABLE = 3
"""The failed attempt of one request from which a person should know, unless silence says so at the first."""


class _Outage:
    """From the opening of the circuit to the next answer. `turn` is the number of the attempt that is due next."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.turn = 0
        self.due = 0.0


class CircuitBreaker:
    """Says when requests may be sent again; `jitter` is random in [0, 1)."""

    def __init__(self, policy: RetryPolicy, jitter: Callable[[], float]) -> None:
        self._policy = policy
        self._jitter = jitter
        self._failed = 0
        self._outage: _Outage | None = None
        self._warned = False

    def answered(self) -> None:
        """The endpoint has answered, or sent a part of an answer."""
        self._failed, self._warned = 0, False
        if self._outage is not None:
            self._outage.over.set()
            self._outage = None

    async def wait(self, failure: Failure, attempt: int, error: StoreError, server_asks: float | None = None) -> int:
        """Wait until a request may be sent again, whose attempt ended in `failure`; the next attempt's number."""
        delay = self._policy.delay(failure, attempt, self._jitter(), server_asks)
        self._failed += attempt == 1
        if self._outage is None and (failure is Failure.NOT_SENT or self._failed >= _OPENS_AFTER):
            self._outage = _Outage()
            self._take_turn(self._outage, attempt, delay)
        self._warn(failure, attempt, error)
        if self._outage is not None:
            return await self._turn(self._outage, failure, attempt)
        await trio.sleep(delay)
        return attempt + 1

    async def _turn(self, outage: _Outage, failure: Failure, attempt: int) -> int:
        for number in range(attempt + 1, self._policy.max_attempts + 1):
            turn = outage.turn
            with trio.move_on_at(outage.due):
                await outage.over.wait()
                return attempt + 1
            if outage.turn == turn:
                self._take_turn(outage, turn + 1, self._policy.delay(failure, turn + 1, self._jitter()))
                return number
        return self._policy.max_attempts

    def _take_turn(self, outage: _Outage, turn: int, delay: float) -> None:
        outage.turn = turn
        outage.due = trio.current_time() + delay

    def _warn(self, failure: Failure, attempt: int, error: StoreError) -> None:
        """One line for each time without an answer."""
        silent = failure in (Failure.NOT_SENT, Failure.STALLED)
        if not self._warned and (silent or attempt >= _NOTABLE or self._outage is not None):
            self._warned = True
            _log.warning("attempt %d of %d failed, others follow: %s", attempt, self._policy.max_attempts, error)

    def __repr__(self) -> str:
        return f"<CircuitBreaker {'closed' if self._outage is None else f'open, attempt {self._outage.turn}'}>"
