"""The addresses of an endpoint's name: several are several servers, and each is an endpoint of its own.

Theory of operation. Until the name has been looked up it is asked as such, and its addresses race for each connection.
Then those at its addresses are asked in its stead, if there are several. It is looked up again every half minute while
there are requests. A service that has hundreds of addresses tells some of them each time: one that is not told any
more is therefore asked for five more minutes, unless it is out. Where there are IPv4 and IPv6 addresses they may well
be of the same servers: then those of IPv4 count.

An address that falls silent is left alone for a long while: it takes connections, so a probe would not see it.

Host header, SNI and signature keep the name. Ownership: a name owns what is asked in its stead, and retires it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import trio

from .balance import Health
from .dial import AVOIDED
from .retry import Failure
from .upstream import Upstream

LOOKED_UP_AFTER = 30.0
"""Seconds between two looks."""

_KEPT = 300.0
_MOST = 64
"""Addresses of one name."""


class Name:
    """An endpoint as it was given, and those at its addresses, of which `at` makes one."""

    def __init__(self, own: Upstream, at: Callable[[str], Upstream]) -> None:
        self.own = own
        """What is asked while no several addresses are known. It has the counts of all that are not asked any more."""
        self._at = at
        self._there: dict[str, tuple[Upstream, float]] = {}
        """By address, and when it was told last, in Trio's time."""

    @property
    def asked(self) -> list[Upstream]:
        """The endpoints that stand for this one."""
        return [upstream for upstream, _ in self._there.values()] or [self.own]

    @property
    def known(self) -> list[Upstream]:
        """These, and its own."""
        return [self.own, *(upstream for upstream, _ in self._there.values())]

    def __contains__(self, upstream: Upstream) -> bool:
        return upstream is self.own or any(each is upstream for each, _ in self._there.values())

    def spent(self, upstream: Upstream, failure: Failure) -> list[Upstream]:
        """Whom a request that has failed so at `upstream` need not be sent to without a pause.

        What one address of a service refuses the others do, and to ask each would be to send it more often than was
        allowed; but an address that took no connection, or is late, says nothing of the others.
        """
        return [upstream] if failure in (Failure.NOT_SENT, Failure.LATE) else self.known

    def shun_silent(self, upstream: Upstream, now: float) -> None:
        """Ask none of the addresses that `upstream` has found silent."""
        for address, (there, _) in self._there.items():
            if there.load.health is not Health.OUT and upstream.pool.distrusts(address):
                there.load.shun(now + AVOIDED)

    async def look_up(self) -> None:
        """Ask whoever is at the addresses that it has now. What cannot be looked up stays as it was."""
        endpoint = self.own.endpoint
        if not endpoint.has_name:
            return
        try:
            found = await trio.socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        except OSError:
            return
        self._take(of_one_family([str(where[0]) for *_, where in found]), trio.current_time())

    def _take(self, told: Sequence[str], now: float) -> None:
        if len(told) < 2 and not self._there:
            return
        for address in told:
            upstream = self._there[address][0] if address in self._there else self._at(address)
            self._there[address] = upstream, now
        self.shun_silent(self.own, now)
        for address, (upstream, last) in list(self._there.items()):
            if last < now and (upstream.load.health is Health.OUT or now - last > _KEPT):
                del self._there[address]
                self._dismiss(upstream)

    def _dismiss(self, upstream: Upstream) -> None:
        upstream.pool.retire()
        self.own.inherit(upstream)


def of_one_family(addresses: Sequence[str]) -> list[str]:
    """The IPv4 ones where there are any, else all, each once."""
    old = [address for address in addresses if ":" not in address]
    return list(dict.fromkeys(old or addresses))[:_MOST]
