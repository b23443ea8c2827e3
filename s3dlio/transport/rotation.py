"""The endpoints of a service: which one is asked, and who looks after those that are out.

Ownership: a rotation owns its upstreams. While one is out a system task probes it, and ends when none is: it opens a
connection, which an ordinary request uses then, so that no request waits for an endpoint that may be dead. Another one
looks names up (:mod:`.names`) while there are requests.
"""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import trio

from ..errors import StoreError
from .balance import Health, choose
from .connection import Connection
from .endpoint import Endpoint
from .late import LateWatch
from .names import LOOKED_UP_AFTER, Name
from .retry import Failure
from .upstream import Upstream

_log = logging.getLogger("s3dlio")

_PROBE_TIME = 5.0
"""Longest that a probe waits for its connection, in seconds."""


class Rotation:
    """One or more endpoints that have the same objects, reached by `reach`. Belongs to one Trio run."""

    def __init__(self, endpoints: Sequence[Endpoint], reach: Callable[[Endpoint], Upstream]) -> None:
        self._names = [Name(reach(each), partial(_reach_at, each, reach)) for each in endpoints]
        self._all = [name.own for name in self._names]
        self._random = random.Random()  # not the module's: forked processes would all choose alike
        self.late = LateWatch() if len(self._all) > 1 else None
        """Gives up requests that another endpoint would answer sooner. Once there it stays: what began may go on."""
        self._look_up_at = -math.inf if any(each.has_name for each in endpoints) else math.inf
        self._probing = self._closed = False
        self._goes_out = trio.Event()

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self._all)

    @property
    def known(self) -> list[Upstream]:
        """All whose counts are those of the service."""
        return [upstream for name in self._names for upstream in name.known]

    def __len__(self) -> int:
        return len(self._all)

    def of(self, connection: Connection) -> Upstream | None:
        """The one that `connection` leads to, if it is one of these."""
        return next((each for each in self.known if each.pool is connection.pool), None)

    @property
    def first(self) -> Upstream:
        """The one that was named first."""
        return self._names[0].own

    def choose(self, size: int, tried: Sequence[Upstream] = ()) -> Upstream:
        """Whom to ask for about `size` bytes; not all were `tried`."""
        if self._look_up_at < math.inf:
            self._see_to_names()
        if len(self._all) == 1:
            return self._all[0]
        return choose(self._all, tried, size, trio.current_time(), self._random)

    def untried(self, tried: Sequence[Upstream]) -> bool:
        """Whether there is one that was not."""
        return any(each not in tried for each in self._all)

    def spent(self, upstream: Upstream, failure: Failure) -> list[Upstream]:
        """Whom not to ask at once for what has failed so at `upstream`: see :meth:`.names.Name.spent`."""
        return next((name.spent(upstream, failure) for name in self._names if upstream in name), [upstream])

    def _see_to_names(self) -> None:
        now = trio.current_time()
        if now >= self._look_up_at:
            self._look_up_at = now + LOOKED_UP_AFTER
            trio.lowlevel.spawn_system_task(self._look_up, name="s3dlio addresses of endpoints")

    async def _look_up(self) -> None:
        for name in self._names:
            await name.look_up()
        self._all = [upstream for name in self._names for upstream in name.asked]
        if len(self._all) > 1 and self.late is None:
            self.late = LateWatch()
        self._begin_probing()
        if self._closed:
            self.close()

    def spread(self, count: int, size: int) -> dict[Upstream, int]:
        """How many of `count` requests of `size` bytes each go where."""
        if len(self._all) == 1:
            return {self.choose(size): count}
        shares: Counter[Upstream] = Counter()
        for _ in range(count):
            shares[chosen := self.choose(size)] += 1
            chosen.load.owed += size
        for chosen, share in shares.items():
            chosen.load.owed -= share * size
        return shares

    def answered(self, upstream: Upstream, owed: int, begun: float) -> None:
        """It has answered what it was asked at the time `begun`, one of several requests, of `owed` bytes together."""
        upstream.counts.requests += 1
        if len(self._all) == 1:
            return
        now = trio.current_time()
        if upstream.load.answered(owed, now - begun, now):
            _log.warning("%s is asked again", upstream.endpoint)

    def failed(self, upstream: Upstream, failure: Failure, size: int, begun: float, why: object) -> None:
        """What it was asked at the time `begun`, for `size` bytes, has failed so."""
        upstream.counts.failures[failure.value] += 1
        if len(self._all) == 1:
            return
        now = trio.current_time()
        if upstream.load.failed(failure, size, now - begun, now, self._random.random()):
            _log.warning("%s is not asked for a while: %s", upstream.endpoint, why)
        if failure is Failure.STALLED:
            for name in self._names:
                name.shun_silent(upstream, now)
        self._begin_probing()

    def _begin_probing(self) -> None:
        self._goes_out.set()
        if not self._probing and any(each.load.health is Health.OUT for each in self._all):
            self._probing = True
            trio.lowlevel.spawn_system_task(self._probe_those_out, name="s3dlio probes of endpoints")

    async def _probe_those_out(self) -> None:
        try:
            while not self._closed and (out := [each for each in self._all if each.load.health is Health.OUT]):
                with trio.move_on_at(min(each.load.probe_at for each in out)):
                    await self._goes_out.wait()
                self._goes_out = trio.Event()
                async with trio.open_nursery() as nursery:
                    for each in out:
                        if each.load.probe_at <= trio.current_time():
                            nursery.start_soon(self._probe, each)
        finally:
            self._probing = False

    async def _probe(self, upstream: Upstream) -> None:
        upstream.load.put_out(trio.current_time(), self._random.random())
        with trio.move_on_after(_PROBE_TIME), suppress(StoreError, trio.ClosedResourceError):
            connection = await upstream.pool.acquire(fresh=True)
            upstream.pool.release(connection, reusable=True)
            if upstream.load.health is Health.OUT:
                upstream.load.health = Health.TRIED

    def retire(self) -> None:
        """Keep no connection from now on; requests that are under way may still finish."""
        for each in self.known:
            each.pool.retire()

    def close(self) -> None:
        """Close the connections, and look after none."""
        self._closed = True
        for each in self.known:
            each.pool.close()

    def __repr__(self) -> str:
        return repr(self._all)


def _reach_at(endpoint: Endpoint, reach: Callable[[Endpoint], Upstream], address: str) -> Upstream:
    return reach(replace(endpoint, at=address))
