"""New connections to one endpoint, and the pool that keeps them."""

from __future__ import annotations

import ssl

import trio

from ..config import Config
from ..errors import ConnectionFailedError, ConnectTimeoutError, ErrorContext
from .connection import Connection
from .endpoint import Endpoint
from .pool import ConnectionPool
from .stall import StallWatch
from .stream import connect, tls_context


class Dialer:
    """Opens connections to `endpoint`. The TLS context is made once, when it is first needed."""

    def __init__(self, endpoint: Endpoint, config: Config) -> None:
        self._endpoint = endpoint
        self._config = config
        self._context: ssl.SSLContext | None = None
        self._watch = StallWatch(config.stall_timeout)

    async def __call__(self) -> Connection:
        """A new connection. Errors: `ConnectionFailedError`, with the reason as its cause; `ConfigError`."""
        try:
            with trio.fail_after(self._config.connect_timeout):
                stream = await connect(self._endpoint, self._tls(), self._watch)
        except trio.TooSlowError:
            message = f"no connection within {self._config.connect_timeout:g} seconds"
            raise ConnectTimeoutError(message, self._where()) from None
        except OSError as error:
            raise ConnectionFailedError(f"cannot connect: {reason(error)}", self._where()) from error
        return Connection(stream)

    def _tls(self) -> ssl.SSLContext | None:
        if self._endpoint.tls and self._context is None:
            self._context = tls_context(self._config.ca_bundle, verify=self._config.verify_tls)
        return self._context

    def _where(self) -> ErrorContext:
        return ErrorContext(endpoint=str(self._endpoint))


def reason(error: BaseException) -> str:
    """What went wrong at the bottom of a failed race of connection attempts."""
    cause: BaseException | None = error
    while cause is not None:
        error = cause
        cause = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
    return str(error) or type(error).__name__


def open_pool(endpoint: Endpoint, config: Config) -> ConnectionPool:
    """An empty pool of connections to `endpoint`."""
    return ConnectionPool(Dialer(endpoint, config), config.connections)
