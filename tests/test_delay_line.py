"""What passes packets on between the hosts of `benchmarks.hosts`, here with sockets in the place of devices."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from benchmarks.delay_line import Line, Link, Settings

FIRST, SECOND = "198.18.0.1", "198.18.0.2"


class Network:
    """Two hosts, by address, and the line between them."""

    def __init__(self, kept: ExitStack) -> None:
        pairs = {host: socket.socketpair(type=socket.SOCK_DGRAM) for host in (FIRST, SECOND)}
        for end in (end for pair in pairs.values() for end in pair):
            kept.enter_context(end).setblocking(False)
        self.hosts = {host: own for host, (own, _) in pairs.items()}
        self._ends = {host: end.fileno() for host, (_, end) in pairs.items()}
        devices = {socket.inet_aton(host): end for host, end in self._ends.items()}
        self.line = Line(Settings({}, delay=0.0, loss=0.0, rate=1e12), devices)

    def arrives(self, source: str, target: str) -> bool:
        """Whether a packet from there gets there, with all that it has."""
        packet = bytes([0x45, *range(1, 12)]) + socket.inet_aton(source) + socket.inet_aton(target) + b"content"
        self.hosts[source].send(packet)
        self.line.take(self._ends[source])
        while self.line.give() < math.inf:
            pass
        with suppress(BlockingIOError, KeyError):
            return self.hosts[target].recv(100) == packet
        return False


@pytest.fixture
def network() -> Iterator[Network]:
    with ExitStack() as kept:
        yield Network(kept)


def test_packets_go_where_they_are_sent(network: Network) -> None:
    assert network.arrives(FIRST, SECOND)
    assert network.arrives(SECOND, FIRST)
    assert not network.arrives(FIRST, "198.18.0.3")


def test_a_host_that_is_cut_off_neither_sends_nor_receives(network: Network) -> None:
    network.line.obey(f"cut {SECOND}")
    assert not network.arrives(FIRST, SECOND)
    assert not network.arrives(SECOND, FIRST)
    network.line.obey(f"join {SECOND}")
    assert network.arrives(FIRST, SECOND)


def test_a_link_sends_one_packet_after_another_and_says_when_it_takes_more() -> None:
    link = Link(rate=1000)
    assert link.wait(now=5.0) == 0
    assert link.sent_at(20, now=5.0) == pytest.approx(5.02)
    assert link.sent_at(20, now=5.01) == pytest.approx(5.04)
    assert link.wait(now=5.02) == pytest.approx(0.015)
    assert link.wait(now=5.04) == 0
    assert link.sent_at(20, now=9.0) == pytest.approx(9.02)
