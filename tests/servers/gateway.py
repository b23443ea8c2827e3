"""A gateway to a server on this host, in a process of its own, which can be slow, refuse, and be killed.

`python -m tests.servers.gateway PORT BEHIND [--rate BYTES] [--refuse]` passes bytes on; with `--rate` so many of them a
second, to all clients together; with `--refuse` it answers every request with SlowDown at once.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import weakref
from functools import partial
from pathlib import Path

import trio

from .process import HOST, keep_port, running

_PIECE = 64 << 10
_BODY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_SLOW_DOWN = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%b"


class Gateway:
    """A gateway to port `behind`, as a process: killed and started again at will. Ended by :meth:`stop`."""

    def __init__(self, behind: int, log: Path, *options: str) -> None:
        kept = keep_port()
        weakref.finalize(self, kept.close)
        self.port = int(kept.getsockname()[1])
        self._command = [sys.executable, "-m", "tests.servers.gateway", str(self.port), str(behind), *options]
        self._log = log
        self._running = contextlib.ExitStack()

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        root = str(Path(__file__).parents[2])
        self._running.enter_context(running(self._command, self.port, self._log, {"PYTHONPATH": root}))

    def stop(self) -> None:
        """By SIGKILL."""
        self._running.close()


class _Tap:
    """Lets `rate` bytes a second through, of all that ask."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0

    async def take(self, size: int) -> None:
        now = trio.current_time()
        self._free_at = max(self._free_at, now) + size / self._rate
        await trio.sleep_until(self._free_at)


async def _pass(source: trio.SocketStream, sink: trio.SocketStream, tap: _Tap | None) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            if tap is not None:
                await tap.take(len(data))
            await sink.send_all(data)
        await sink.send_eof()


async def _forward(behind: int, tap: _Tap | None, client: trio.SocketStream) -> None:
    async with client, await trio.open_tcp_stream(HOST, behind) as server, trio.open_nursery() as nursery:
        nursery.start_soon(_pass, client, server, None)
        await _pass(server, client, tap)
        nursery.cancel_scope.cancel()


async def _refuse(client: trio.SocketStream) -> None:
    """Requests without bodies; `GET /` is answered as if all were well."""
    received = b""
    async with client:
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in client:
                received += data
                while b"\r\n\r\n" in received:
                    head, _, received = received.partition(b"\r\n\r\n")
                    well = head.startswith(b"GET / HTTP")
                    await client.send_all(
                        b"HTTP/1.1 204 No Content\r\n\r\n" if well else _SLOW_DOWN % (len(_BODY), _BODY)
                    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.servers.gateway", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("behind", type=int)
    parser.add_argument("--rate", type=float, help="bytes a second (as many as come)")
    parser.add_argument("--refuse", action="store_true", help="answer SlowDown")
    options = parser.parse_args()
    tap = None if options.rate is None else _Tap(options.rate)
    handler = _refuse if options.refuse else partial(_forward, options.behind, tap)
    trio.run(partial(trio.serve_tcp, handler, options.port, host=HOST))


if __name__ == "__main__":
    main()
