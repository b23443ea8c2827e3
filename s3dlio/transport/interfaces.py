"""The network interfaces of this machine that connections go by, where there are several and it matters which."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from itertools import cycle

import trio

from ..endpoints import separated
from ..errors import ConfigError
from .endpoint import is_address


def taking_turns(bind: str | None) -> Iterator[str | None]:
    """Interfaces for one connection after the other, of `bind`: names and addresses with commas between them.

    They begin anywhere, or all processes would begin with the same one. Errors: `ConfigError` where this machine has
    no such interface.
    """
    if bind is None:
        return cycle((None,))
    interfaces = separated(bind)
    known = {name for _, name in socket.if_nameindex()}
    for interface in interfaces:
        if not is_address(interface) and interface not in known:
            there = ", ".join(sorted(known))
            raise ConfigError(
                f"bind: {interface!r} is neither an address nor a network interface of this machine: {there}"
            )
    return cycle(random.sample(interfaces, len(interfaces)))


async def open_stream(host: str, port: int, interface: str | None) -> trio.SocketStream:
    """A connection to `host`, a name or an address, by `interface`, a name or an address as well.

    The addresses of the host race (RFC 8305), but where the interface is named: then they are tried in turn.
    Errors: `OSError`.
    """
    if interface is None or is_address(interface):
        return await trio.open_tcp_stream(host, port, local_address=interface)
    failure: OSError | None = None
    for family, kind, protocol, _, address in await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = trio.socket.socket(family, kind, protocol)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
            await sock.connect(address)
            return trio.SocketStream(sock)
        except OSError as error:
            failure = error
            sock.close()
        except BaseException:
            sock.close()
            raise
    raise failure or OSError(f"{host} has no address")
