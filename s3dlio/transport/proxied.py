"""By way of an HTTP proxy: a tunnel for what is encrypted, absolute targets for what is not.

An https endpoint is reached by CONNECT (RFC 9110 section 9.3.6): what follows the proxy's answer is TLS with the
endpoint, which proves its own name, and the proxy sees no more than that name. Requests to an http endpoint are sent to
the proxy itself, with the whole URL as their target (RFC 9112 section 3.2.2); what is signed stays the endpoint's host
and path. `Proxy-Authorization` is for the proxy alone: in a tunnel it is part of the CONNECT, elsewhere of every
request, added after the signature.
"""

from __future__ import annotations

from typing import NamedTuple

import trio

from ..errors import ErrorContext, ProtocolError, ProxyError
from ..proxy import Proxy
from .endpoint import Endpoint
from .http1 import HEAD_END, MAX_HEAD, SecretHeaders, SecretText, parse_head, request_head

_PIECE = 4096
_SUCCESS = range(200, 300)


class Forwarding(NamedTuple):
    """How requests are sent to a proxy that reads them: what goes before their targets, and their further headers."""

    proxy: Proxy
    origin: str
    headers: SecretHeaders

    def address(self, target: str, headers: dict[str, str]) -> SecretText:
        """The absolute form of `target`; what the proxy asks of the signed `headers` is added to them."""
        headers.update(self.headers)
        return SecretText(self.origin + target)

    def told(self, status: int) -> str:
        """What is to be said of an error answer, which is the proxy's or the server's: only 407 tells."""
        return refusal(self.proxy, status) if status == 407 else f"the server, or {self.proxy}, answered {status}"


def forwarding(endpoint: Endpoint) -> Forwarding | None:
    """`None` where no proxy reads the requests to `endpoint`."""
    if endpoint.proxy is None or endpoint.tls:
        return None
    return Forwarding(endpoint.proxy, f"{endpoint.scheme}://{endpoint.authority}", _headers(endpoint.proxy))


def refusal(proxy: Proxy, status: int) -> str:
    """What a proxy means by an answer that is no success."""
    if status == 407:
        return f"the proxy {proxy} answered 407: it asks for a user and a password, or refuses those of its URL"
    return f"the proxy {proxy} does not lead there: it answered {status}"


async def open_tunnel(stream: trio.SocketStream, endpoint: Endpoint, proxy: Proxy) -> None:
    """Have `proxy`, at the other end of `stream`, lead on to `endpoint`. The stream is closed where it does not.

    How long that may take is for the caller to say. Errors: `ProxyError`.
    """
    try:
        answered = await _ask(stream, _connect_request(endpoint, proxy))
        if answered not in _SUCCESS:
            status = answered if isinstance(answered, int) else None
            message = refusal(proxy, status) if status else f"the proxy {proxy} does not answer as one: {answered}"
            raise ProxyError(message, ErrorContext(endpoint=str(endpoint), status=status))
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


def _connect_request(endpoint: Endpoint, proxy: Proxy) -> memoryview:
    """As a view, whose `repr` shows nothing of it."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    target = f"{host}:{endpoint.port}"
    return memoryview(request_head("CONNECT", target, SecretHeaders({"host": target, **_headers(proxy)})))


def _headers(proxy: Proxy) -> SecretHeaders:
    return SecretHeaders({"proxy-authorization": proxy.authorization} if proxy.authorization else {})


async def _ask(stream: trio.SocketStream, request: memoryview) -> int | str:
    """The status of the answer, or what is wrong with it. Nothing raises that has the answer in its frames."""
    try:
        await stream.send_all(request)
        return await _final_status(stream)
    except trio.BrokenResourceError as error:
        return f"the connection broke: {error.__cause__ or error}"
    except ProtocolError as error:
        return error.message


async def _final_status(stream: trio.SocketStream) -> int:
    """Receives no more than the head: in a tunnel it is for us to begin. Errors: `ProtocolError`."""
    received, total = bytearray(), 0
    while total < MAX_HEAD:
        piece = await stream.receive_some(_PIECE)
        if not piece:
            raise ProtocolError("it ended the connection before it had answered")
        received += piece
        total += len(piece)
        status = take_final(received)
        if status is not None:
            if received and status in _SUCCESS:
                raise ProtocolError("something follows its answer before TLS has begun")
            return status
    raise ProtocolError(f"the head of its answer has more than {MAX_HEAD} bytes")


def take_final(received: bytearray) -> int | None:
    """The status of the final head, once it is there; it and the informational ones before it are taken away.

    Errors: `ProtocolError`.
    """
    while (end := received.find(HEAD_END) + len(HEAD_END)) >= len(HEAD_END):
        status = parse_head(bytes(received[:end])).status
        del received[:end]
        if status >= 200:
            return status
    return None
