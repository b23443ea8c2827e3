"""Requests to a store: sent, repeated, resumed, moved to another endpoint, until there is an answer or nothing is left.

Theory of operation. :meth:`Service.send` is a loop of attempts, each at one endpoint (:mod:`.upstream`), which
:mod:`.balance` chooses. What failed there and may be repeated goes to the other endpoints at once, to each of them
once. When all have failed, :mod:`.retry` decides whether there is another round, which is what counts as an attempt of
the caller's, and :mod:`.circuit` when.
A GET carries a :class:`.download.Download`, which knows what has landed: the next attempt asks for the rest of the same
version only, and an attempt that brought bytes starts the count anew, since the transfer moves.

Ownership: the service owns its endpoints. Cancellation: at any await; nothing is held but what an attempt holds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial

import trio

from ..endpoint_stats import Stats
from ..errors import ErrorContext, RequestTimeoutError, StallError, StoreError
from ..observers import Observer, observers
from .balance import LEAST
from .circuit import CircuitBreaker
from .connection import Answer, Connection
from .download import Download
from .endpoint import Endpoint
from .retry import Failure, RetryPolicy
from .rotation import Rotation
from .upstream import Failed, Request, Upstream

_most: ContextVar[int | None] = ContextVar("most attempts of a request", default=None)


@contextmanager
def impatient(attempts: int) -> Iterator[None]:
    """Have requests of this task, and of tasks it starts, be sent so often at most, as somebody else can be asked.

    One that nobody took, or that was met with silence, is not sent again.
    """
    token = _most.set(attempts)
    try:
        yield
    finally:
        _most.reset(token)


@dataclass(slots=True)
class _Progress:
    """Of one request: the number of the attempt, how often it was sent, and to whom in this attempt."""

    attempt: int = 1
    sent: int = 1
    tried: list[Upstream] = field(default_factory=list)


class Service:
    """What a store is asked of: one endpoint, or several that have the same objects. Belongs to one Trio run."""

    def __init__(self, rotation: Rotation, policy: RetryPolicy, jitter: Callable[[], float] = random.random) -> None:
        self.rotation = rotation
        self.policy = policy
        self.circuit = CircuitBreaker(policy, jitter)

    @property
    def endpoint(self) -> Endpoint:
        """The one that was named first."""
        return self.rotation.first.endpoint

    async def send(self, request: Request, download: Download | None = None, *, retry: bool = True) -> Answer:
        """The answer to `request`: a 2xx one. Errors: a `StoreError`, after the attempts the policy allows.

        Without `retry` there is one attempt, at one endpoint.
        """
        progress = _Progress(tried=self._last(download))
        with self._time_limit():
            while True:
                try:
                    answer = await self._attempt(request, download, progress)
                except Failed as failed:
                    if self._has_moved(failed, download):
                        progress.attempt = 1
                    if not (retry and await self._goes_on(request, progress, failed)):
                        raise failed.error from failed.error.__cause__
                    progress.sent += 1
                else:
                    self.circuit.answered()
                    return answer
        message = f"not done within {self.policy.time_limit:g} seconds, the limit on all attempts together"
        where = ErrorContext(request.operation, request.bucket, request.key, str(self.endpoint), attempts=progress.sent)
        raise RequestTimeoutError(message, where)

    def _last(self, download: Download | None) -> list[Upstream]:
        """Those that are to be avoided, unless they are all there are."""
        avoided = [each for each in self.rotation if download is not None and each.endpoint in download.avoid]
        return avoided if len(avoided) < len(self.rotation) else []

    async def _attempt(self, request: Request, download: Download | None, progress: _Progress) -> Answer:
        """One attempt. Errors: `Failed`."""
        size, begun = _size(request, download), trio.current_time()
        asked = download.asked if download is not None else None
        upstream = (asked and self.rotation.of(asked)) or self.rotation.choose(size, progress.tried)
        then = upstream.load.owe(size)
        told = observers(request.observer)
        ask = partial(self._observe, told) if told else self._ask
        if download is not None:
            download.endpoint = upstream.endpoint
        try:
            answer = await ask(upstream, request, download, progress)
        except Failed as failed:
            progress.tried += self.rotation.spent(upstream, failed.failure)
            self.rotation.failed(upstream, failed.failure, size, begun, failed.error)
            raise
        finally:
            owed = upstream.load.settle(size, then)
            _count(upstream, request, download)
        upstream.counts.received += len(answer.body)
        self.rotation.answered(upstream, owed, begun)
        return answer

    async def _observe(
        self,
        told: tuple[Observer, ...],
        upstream: Upstream,
        request: Request,
        download: Download | None,
        progress: _Progress,
    ) -> Answer:
        """As :meth:`_ask`; the attempt, which may have begun on a connection that has been asked, is `told`."""
        asked = download.asked if download is not None else None
        begun = asked.attempt if asked is not None else None
        attempt = begun or upstream.observed(told, request, request.key, progress.sent)
        try:
            answer = await self._ask(upstream, request._replace(attempt=attempt), download, progress)
        except Failed as failed:
            attempt.failed(failed.failure.value, failed.error.context, _received(download))
            raise
        except BaseException as error:
            attempt.ended_by(error, _received(download))
            raise
        attempt.complete(answer.status, answer.headers, len(answer.body) + _received(download))
        return answer

    async def _ask(
        self, upstream: Upstream, request: Request, download: Download | None, progress: _Progress
    ) -> Answer:
        """The answer of `upstream`. A read that is late to be answered is given up where another one can be asked.

        One that was asked before was looked after then.
        """
        watch = self.rotation.late
        alone = not self.rotation.untried([*progress.tried, upstream])
        if watch is None or download is None or download.asked is not None or alone:
            return await upstream.attempt(request, download, progress.sent)
        with trio.CancelScope() as scope:
            download.on_answer = partial(watch.end, scope)
            watch.begin(scope, scope.cancel)
            try:
                return await upstream.attempt(request, download, progress.sent)
            finally:
                watch.end(scope)
        where = ErrorContext(request.operation, request.bucket, request.key, str(upstream.endpoint))
        raise Failed(Failure.LATE, StallError("not answered while others would have been", where))

    async def _goes_on(self, request: Request, progress: _Progress, failed: Failed) -> bool:
        """Whether it is sent again: now to an endpoint that was not tried, or after a wait to whichever."""
        untried = self.rotation.untried(progress.tried)
        attempt = 0 if untried else progress.attempt
        if not self.policy.may_retry(failed.failure, attempt, idempotent=request.idempotent):
            return False
        most, silent = _most.get(), failed.failure in (Failure.NOT_SENT, Failure.STALLED)
        if most is not None and not untried and (silent or attempt >= most):
            return False
        if not untried:
            progress.attempt = await self.circuit.wait(failed.failure, attempt, failed.error, failed.server_asks)
            progress.tried.clear()
        return True

    async def get_whole(self, request: Request) -> tuple[Answer | None, Connection | None, Endpoint]:
        """A GET's plain answer that comes at once, whole, with none of the rest's ceremony; and whose it is.

        Where that is not what happens, the connection on which it was asked, for the `asked` of a download to go on
        with; where nothing was, neither. Never raises `StoreError`.
        """
        taken = self.take(1, LEAST)
        if not taken:
            return None, None, self.endpoint
        ((upstream, (connection,)),) = taken
        begun, told = trio.current_time(), observers(request.observer)
        if told:
            request = request._replace(attempt=upstream.observed(told, request, request.key))
        upstream.entrust(connection, request)
        then = upstream.load.owe(LEAST)
        try:
            head = await upstream.signed_head(request, None, expect=False)
            late = await self._ask_in_time(connection, head)
            answer = connection.take_whole()
        except BaseException as error:
            if request.attempt is not None:
                request.attempt.ended_by(error)
            connection.give_back(reusable=False)
            if isinstance(error, StoreError):  # who goes on meets it again, and says where
                return None, None, upstream.endpoint
            raise
        finally:
            owed = upstream.load.settle(LEAST, then)
        if answer is not None:
            connection.give_back(reusable=connection.reusable)
            self.answered(upstream, len(answer.body), owed, begun)
        elif late:
            if request.attempt is not None:
                request.attempt.failed(Failure.LATE.value)
            connection.give_back(reusable=False)
            self.rotation.failed(upstream, Failure.LATE, LEAST, begun, "late")
        return answer, None if answer is not None or late else connection, upstream.endpoint

    async def _ask_in_time(self, connection: Connection, head: memoryview) -> bool:
        """As :meth:`.connection.Connection.ask`; whether it was given up as late."""
        watch, late = self.rotation.late, False
        if watch is None:
            await connection.ask(head)
            return False

        def give_up() -> None:
            nonlocal late
            late = True
            connection.stream.give_up()

        watch.begin(connection, give_up)
        try:
            await connection.ask(head)
        finally:
            watch.end(connection)
        return late

    def answered(self, upstream: Upstream, size: int, owed: int, begun: float) -> None:
        """What `upstream` was asked at the time `begun`, of Trio's clock, it has answered, with `size` bytes.

        `owed` is as in :meth:`.rotation.Rotation.answered`.
        """
        upstream.counts.received += size
        self.circuit.answered()
        self.rotation.answered(upstream, owed, begun)

    @property
    def pumped(self) -> bool:
        """Whether there is a pump for connections to the first endpoint, as to others of its kind."""
        return self.rotation.first.pumped

    def take(self, most: int, size: int) -> list[tuple[Upstream, list[Connection]]]:
        """Up to `most` idle connections, to where requests of `size` bytes each should go, to ask without ceremony.

        There are none where there is a limit on time, which would be such.
        """
        if self.policy.time_limit != math.inf:
            return []
        shares = self.rotation.spread(most, size).items()
        return [(upstream, taken) for upstream, share in shares if (taken := upstream.pool.take(share))]

    def _time_limit(self) -> AbstractContextManager[object]:
        """A scope that ends with the policy's limit. One without a limit would cost as much as a lease does."""
        limit = self.policy.time_limit
        return nullcontext() if limit == math.inf else trio.move_on_after(limit)

    def _has_moved(self, failed: Failed, download: Download | None) -> bool:
        """Whether the attempt brought a part of the body; any sign of life closes the circuit."""
        moved = download is not None and download.broke_off()
        if moved or (failed.failure is Failure.FINAL and failed.error.status is not None):
            self.circuit.answered()
        return moved

    @property
    def stats(self) -> Stats:
        """What was asked of the endpoints so far."""
        return Stats(tuple(upstream.stats for upstream in self.rotation.known))

    def retire(self) -> None:
        """Keep no connection from now on; requests that are under way may still finish."""
        self.rotation.retire()

    def close(self) -> None:
        """Close the connections."""
        self.rotation.close()

    def __repr__(self) -> str:
        return f"<Service {self.rotation!r} {self.circuit!r}>"


def _count(upstream: Upstream, request: Request, download: Download | None) -> None:
    """Account for bodies, also of what has failed: of a request's, all that was to be sent."""
    upstream.counts.sent += sum(map(len, request.body))
    upstream.counts.received += _received(download)


def _received(download: Download | None) -> int:
    """How many bytes the current answer has brought."""
    return download.filled if download is not None else 0


def _size(request: Request, download: Download | None) -> int:
    """About how many bytes an exchange has."""
    body = sum(map(len, request.body))
    return max(body, download.missing if download is not None else 0, LEAST)
