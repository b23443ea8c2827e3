"""A network between namespaces, with latency, loss and a rate: `python -m benchmarks.delay_line SETTINGS`.

Each host is a network namespace whose one device is a TUN. This process has the other ends of all of them, and passes
packets on by their IPv4 destination: one waits for its sender's link, then for the way, and one in so many is lost.
What a host cannot send yet stays with it, as its kernel knows, so nothing is dropped for want of room. A host that is
cut off neither sends nor receives, and nobody is told, as when a cable is pulled.

SETTINGS is JSON, a :class:`Settings`. `up` is printed when all devices are there. On standard input `cut ADDRESS` and
`join ADDRESS` are lines; its end ends the process, and with it the devices. It has to be root's.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import json
import math
import os
import random
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

_TUNSETIFF, _TUN_WITHOUT_HEADER = 0x400454CA, 0x1001
"""Source: linux/if_tun.h."""
_NEW_NETWORK = 0x40000000
_MTU = 9000
_AHEAD = 0.005
"""Seconds of packets that are taken from a host before its link is free."""
_TURN = 64
_DESTINATION = slice(16, 20)


@dataclass(frozen=True)
class Settings:
    """Addresses by namespace; seconds of one way; the share of packets that is lost; bytes a second of a sender."""

    hosts: Mapping[str, str]
    delay: float
    loss: float
    rate: float


@dataclass
class Link:
    """What a host sends by: `rate` bytes a second."""

    rate: float
    free_at: float = 0.0

    def wait(self, now: float) -> float:
        """Seconds until it takes a packet."""
        return max(0.0, self.free_at - now - _AHEAD)

    def sent_at(self, size: int, now: float) -> float:
        """When a packet of `size` bytes that comes now is on its way."""
        self.free_at = max(self.free_at, now) + size / self.rate
        return self.free_at


@dataclass
class Line:
    """The packets on their way. `devices` are the hosts' by address."""

    settings: Settings
    devices: Mapping[bytes, int]
    cut: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._addresses = {device: address for address, device in self.devices.items()}
        self._links = {address: Link(self.settings.rate) for address in self.devices}
        self._order = count()
        self._on_their_way: list[tuple[float, int, bytes, bytes]] = []

    def take(self, device: int) -> None:
        """Put what a host sends on its way."""
        source = self._addresses[device]
        with contextlib.suppress(BlockingIOError):
            for _ in range(_TURN):
                if self.wait(device):
                    break
                self._begin(source, os.read(device, _MTU + 100), time.monotonic())

    def wait(self, device: int) -> float:
        """Seconds until its host may send."""
        return self._links[self._addresses[device]].wait(time.monotonic())

    def _begin(self, source: bytes, packet: bytes, now: float) -> None:
        target = packet[_DESTINATION]
        arrives_at = self._links[source].sent_at(len(packet), now) + self.settings.delay
        known = packet[0] >> 4 == 4 and target in self.devices
        if known and source not in self.cut and random.random() >= self.settings.loss:
            heapq.heappush(self._on_their_way, (arrives_at, next(self._order), target, packet))

    def give(self) -> float:
        """Hand over what has arrived. Seconds until more has; infinite where nothing is on its way."""
        while self._on_their_way:
            wait = self._on_their_way[0][0] - time.monotonic()
            if wait > 0:
                return wait
            *_, target, packet = heapq.heappop(self._on_their_way)
            if target not in self.cut:
                with contextlib.suppress(BlockingIOError):
                    os.write(self.devices[target], packet)
        return math.inf

    def obey(self, order: str) -> None:
        verb, address = order.split()
        (self.cut.add if verb == "cut" else self.cut.discard)(socket.inet_aton(address))


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """In that network namespace. Errors: `OSError`."""
    with open("/proc/self/ns/net") as before, open(f"/run/netns/{namespace}") as place:
        _enter(place.fileno())
        try:
            yield
        finally:
            _enter(before.fileno())


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "entering a network namespace")


def device(namespace: str, address: str) -> int:
    """The other end of a new device there, whose network is all hosts'. Errors: `OSError`, `CalledProcessError`."""
    with inside(namespace):
        end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH14x", b"line", _TUN_WITHOUT_HEADER))
    for order in (f"addr add {address}/24 dev line", f"link set line mtu {_MTU} txqueuelen 500 up"):
        subprocess.run(["ip", "-n", namespace, *order.split()], check=True)
    return end


def run(line: Line) -> None:
    """Until standard input ends."""
    poll, resting = select.epoll(), set[int]()
    for end in (*line.devices.values(), sys.stdin.fileno()):
        poll.register(end, select.EPOLLIN)
    while True:
        for rested in [end for end in resting if not line.wait(end)]:
            poll.modify(rested, select.EPOLLIN)
            resting.discard(rested)
        wait = min(line.give(), *(line.wait(end) for end in resting), math.inf)
        for ready, _ in poll.poll(wait if wait < math.inf else -1):
            if ready != sys.stdin.fileno():
                line.take(ready)
                if line.wait(ready):
                    poll.modify(ready, 0)
                    resting.add(ready)
            elif orders := os.read(ready, 4096):
                for order in orders.decode().splitlines():
                    line.obey(order)
            else:
                return


def main() -> None:
    settings = Settings(**json.loads(sys.argv[1]))
    devices = {socket.inet_aton(address): device(name, address) for name, address in settings.hosts.items()}
    print("up", flush=True)
    run(Line(settings, devices))


if __name__ == "__main__":
    main()
