"""New connections to one endpoint, and the pool that keeps them.

The addresses of a name race for each connection (RFC 8305), so one that does not answer costs nothing. One that takes
connections and then says nothing may win the race: it is avoided for a while, as long as the name has others. Where a
proxy leads to the endpoint, the addresses are the proxy's.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial

import trio

from ..config import Config
from ..errors import ConnectionFailedError, ConnectTimeoutError, ErrorContext, ProxyError
from .connection import Connection
from .endpoint import Endpoint
from .interfaces import open_stream, taking_turns
from .pool import ConnectionPool
from .stall import StallWatch
from .stream import connect
from .tls import TlsContext, tls_context

AVOIDED = 600.0
"""Seconds for which a silent address comes last."""


Secure = Callable[[], TlsContext]
"""What endpoints of one store have in common for TLS: its context, made when it is first needed."""


class Dialer:
    """Opens connections to `endpoint`."""

    def __init__(self, endpoint: Endpoint, config: Config, secure: Secure) -> None:
        self._endpoint = endpoint
        self._config = config
        self._secure = secure
        self._way = "" if endpoint.proxy is None else f" by way of the proxy {endpoint.proxy}"
        self._watch = StallWatch(config.stall_timeout)
        self._interfaces = taking_turns(config.bind)
        self._avoided: dict[str, float] = {}
        """Addresses, and until when, in Trio's time."""

    async def __call__(self) -> Connection:
        """A new connection. Errors: `ConnectionFailedError`, with the reason as its cause; `ConfigError`.

        A proxy's refusal is a `ProxyError`.
        """
        try:
            with trio.fail_after(self._config.connect_timeout):
                context = self._secure() if self._endpoint.tls else None
                host, port = await self._address(), self._endpoint.peer[1]
                opened = await open_stream(host, port, next(self._interfaces))
                stream = await connect(opened, self._endpoint, context, self._watch)
        except trio.TooSlowError:
            message = f"no connection{self._way} within {self._config.connect_timeout:g} seconds"
            raise ConnectTimeoutError(message, self._where()) from None
        except ProxyError:
            raise
        except OSError as error:
            raise ConnectionFailedError(f"cannot connect{self._way}: {reason(error)}", self._where()) from error
        return Connection(stream)

    def avoid(self, connection: Connection) -> None:
        """Prefer other addresses of the name to that of `connection`, which has fallen silent."""
        with suppress(OSError):  # the kernel has given it up as well, and forgotten whose it was
            self._avoided[connection.peer] = trio.current_time() + AVOIDED

    def avoids(self, address: str) -> bool:
        """Whether `address` has fallen silent lately."""
        return self._avoided.get(address, -math.inf) > trio.current_time()

    async def _address(self) -> str:
        """What to connect to: the name, or one of its addresses where others are avoided. Errors: `OSError`."""
        (name, port), now = self._endpoint.peer, trio.current_time()
        self._avoided = {address: until for address, until in self._avoided.items() if until > now}
        if not self._avoided:
            return name
        found = await trio.socket.getaddrinfo(name, port, type=trio.socket.SOCK_STREAM)
        others = [str(where[0]) for *_, where in found if where[0] not in self._avoided]
        return random.choice(others) if others else name

    def _where(self) -> ErrorContext:
        return ErrorContext(endpoint=str(self._endpoint))


def reason(error: BaseException) -> str:
    """What went wrong at the bottom of a failed race of connection attempts."""
    cause: BaseException | None = error
    while cause is not None:
        error = cause
        cause = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
    return str(error) or type(error).__name__


def secure(config: Config) -> Secure:
    """How connections are encrypted and servers checked, by `config`."""
    return cache(partial(tls_context, config.ca_bundle, verify=config.verify_tls))


def open_pool(endpoint: Endpoint, config: Config, tls: Secure) -> ConnectionPool:
    """An empty pool of connections to `endpoint`."""
    return ConnectionPool(Dialer(endpoint, config, tls), config.connections)
