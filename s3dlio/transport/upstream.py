"""One endpoint: requests to it are signed, sent on a connection of its pool, and fail with what an error has to say.

Theory of operation. :meth:`Upstream.attempt` is one attempt: it signs the request, leases a connection, and ends in an
answer or in a :class:`Failed`, which says what may be done about it. Whether and where there is another one is for
:mod:`.service` to say.

Not charged to the caller: a kept-alive connection that turns out to be closed before the answer began (the request goes
out once more, on a new connection), and a signature that can be mended (:meth:`Signer.recover`: expired token, clock).

Ownership: an upstream owns its pool. Cancellation: at any await; the connection in use is closed, and nothing else is
held.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from ..auth.signer import BatchSigner, Signer
from ..endpoint_stats import EndpointStats
from ..errors import (
    ConnectionFailedError,
    ErrorContext,
    ObjectChangedError,
    ProtocolError,
    ProxyError,
    StallError,
    StoreError,
    error_class,
    shown,
)
from ..observers import Attempt, Observer
from .balance import Load
from .connection import EXPECT_FROM, Answer, Connection
from .download import Download
from .endpoint import Endpoint
from .http1 import SecretHeaders, SecretText, request_head, request_heads
from .pool import ConnectionPool
from .proxied import forwarding
from .retry import Failure, failure_of
from .stream import can_pump

_EMPTY: Mapping[str, str] = MappingProxyType({})
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL", "TLSV1_ALERT_PROTOCOL_VERSION"})
"""OpenSSL's reasons that no repetition does away with."""


class Request(NamedTuple):
    """What to ask. `path`, which the endpoint's prefix goes before, and `query` are quoted, header names lower case."""

    operation: str
    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = _EMPTY
    body: Sequence[memoryview] = ()
    bucket: str | None = None
    key: str | None = None
    idempotent: bool = True
    success: Container[int] = (200,)
    """The statuses by which the service says that this is done."""
    proof: Callable[[Answer], object] | None = None
    """Reads from such an answer what shows the result. Errors: `ProtocolError` where it does not."""
    expect: bool = True
    """Whether a large body waits for the server's permission (RFC 9110 section 10.1.1)."""
    observer: Observer | None = None
    """The store's own, if it has one."""
    attempt: Attempt | None = None
    """The one that it is part of, where somebody wants to know."""

    def __repr__(self) -> str:  # a query may be a secret: that of a resumable upload is
        return f"<Request {self.operation} {self.method} {self.path}>"


@dataclass(frozen=True, slots=True)
class Fault:
    """An error answer, read. `retry_after` is in seconds, where a header of the service's own asks for it."""

    code: str | None = None
    message: str | None = None
    request_id: str | None = None
    retry_after: float | None = None
    error: Callable[[str, ErrorContext], StoreError] | None = None
    """Makes the error, where its class does not follow from code and status; then the request is not repeated."""


ReadFault = Callable[[int, Mapping[str, str], bytes], Fault | None]
"""Reads an error answer in the service's own format; `None` for one that reports no failure."""


class Failed(Exception):
    """One attempt's end, when it was no answer that can be returned."""

    def __init__(
        self,
        failure: Failure,
        error: StoreError,
        *,
        cause: BaseException | None = None,
        server_asks: float | None = None,
    ) -> None:
        self.failure = failure
        self.error = error
        self.server_asks = server_asks
        error.__cause__ = cause


@dataclass(slots=True)
class Counts:
    """Requests that were answered as asked, those that were not, and bytes of bodies of all."""

    requests: int = 0
    received: int = 0
    sent: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    def add(self, other: Counts) -> None:
        """Count those of another one, too."""
        self.requests += other.requests
        self.received += other.received
        self.sent += other.sent
        self.failures += other.failures


class Upstream:
    """One endpoint of one kind of store; `headers` go with every request. Belongs to one Trio run."""

    def __init__(
        self,
        endpoint: Endpoint,
        pool: ConnectionPool,
        signer: Signer,
        read_fault: ReadFault,
        *,
        headers: Mapping[str, str] = _EMPTY,
    ) -> None:
        self._defaults = {"host": endpoint.authority, "accept-encoding": "identity", **headers}
        self.endpoint = endpoint
        self.name = str(endpoint)
        self.pool = pool
        self.signer = signer
        self.load = Load()
        self.counts = Counts()
        self._read_fault = read_fault
        self._forwarding = forwarding(endpoint)
        self._takes_expect = True

    @property
    def stats(self) -> EndpointStats:
        """What was asked of it so far."""
        return EndpointStats(
            endpoint=str(self.endpoint),
            state=self.load.health.value,
            requests=self.counts.requests,
            failures=dict(self.counts.failures),
            received=self.counts.received,
            sent=self.counts.sent,
            connections_opened=self.pool.opened,
            connections_in_use=self.pool.leased,
            connections_idle=self.pool.idle,
        )

    def inherit(self, other: Upstream) -> None:
        """Have the counts of one that is not asked any more, also of what it may still answer."""
        self.counts.add(other.counts)
        other.counts = self.counts
        self.pool.opened += other.pool.opened

    @property
    def pumped(self) -> bool:
        """Whether there is a pump for connections to it."""
        return can_pump(tls=self.endpoint.tls)

    async def heads(self, request: Request, paths: Sequence[str]) -> list[memoryview]:
        """The signed heads of `request` for several `paths`. Errors: the signer's, `ProtocolError`."""
        headers, signer = self._headers(request, request.headers, expect=False), self.signer
        alike = await signer.sign_paths("GET", request.query, headers) if isinstance(signer, BatchSigner) else None
        if alike is None:
            return [await self.signed_head(request._replace(path=path), None, expect=False) for path in paths]
        prefix, query = self.endpoint.prefix, f"?{request.query}" if request.query else ""
        target = self._forwarding.address(prefix, headers) if self._forwarding else prefix
        each = (
            (SecretText(f"{target}{path}{query}"), SecretText(alike.authorization(prefix + path))) for path in paths
        )
        return request_heads("GET", headers, each)

    def entrust(self, connection: Connection, request: Request) -> None:
        """Have `connection` know what it is used for: `request`."""
        connection.stream.purpose, connection.attempt = partial(self.where, request, request.key), request.attempt

    def where(self, request: Request, key: str | None) -> ErrorContext:
        """Names a request about `key` to this endpoint."""
        return ErrorContext(request.operation, request.bucket, key, self.name)

    def observed(
        self,
        observers: tuple[Observer, ...],
        request: Request,
        key: str | None,
        sent: int = 1,
        cause: Hashable = None,
        asked_at: float | None = None,
    ) -> Attempt:
        """An attempt of a `request` about `key`, which has been sent so often then, begins: `observers` are told.

        Or it has been `asked_at` some time before, and they are told now.
        """
        what = request.operation, request.method, request.bucket, key, self.name
        size = sum(map(len, request.body))
        return Attempt(observers, *what, attempt=sent, sent=size, cause=cause, asked_at=asked_at)

    async def attempt(self, request: Request, download: Download | None, sent: int) -> Answer:
        """The answer to `request`: a 2xx one. `sent` is how often it has been sent then.

        Errors: :class:`Failed`, with what is known of it.
        """
        mended = False
        while True:
            try:
                answer = await self._exchange(request, download)
                fault = self._fault_of(request, answer)
                if fault is None:
                    return answer
                hopeful = not mended and await self.signer.recover(fault.code, answer.status, answer.headers)
            except (OSError, StoreError) as error:
                raise self._broken(request, error, sent) from None
            if not hopeful:
                raise self._refused(request, answer, fault, download, sent)
            mended = True
            if request.attempt is not None:
                request.attempt.mended = True

    async def _exchange(self, request: Request, download: Download | None) -> Answer:
        """The answer to a request that waits for permission to send its body, or does not where that is unknown."""
        expect = request.expect and self._takes_expect and sum(map(len, request.body)) >= EXPECT_FROM
        answer = await self._exchange_signed(request, download, expect=expect)
        if answer.status == 417 and expect:  # RFC 9110 section 10.1.1
            self._takes_expect = False
            answer = await self._exchange_signed(request, download, expect=False)
        return answer

    async def _exchange_signed(self, request: Request, download: Download | None, *, expect: bool) -> Answer:
        """One request on the wire, or two when a kept-alive connection was closed under the first.

        What may not be repeated takes a connection that cannot have been closed, unless it begins with a question.
        """
        head = await self.signed_head(request, download, expect=expect)
        fresh = not (request.idempotent or expect)
        try:
            return await self._on_connection(request, head, download, expect=expect, fresh=fresh)
        except _StaleConnectionError:
            return await self._on_connection(request, head, download, expect=expect, fresh=True)

    async def signed_head(self, request: Request, download: Download | None, *, expect: bool) -> memoryview:
        """As a view, whose `repr` shows nothing of it: see :class:`.http1.SecretText`."""
        asked, query = request.headers, request.query
        if download is not None:
            asked, query = download.narrow(asked, query)
        headers = self._headers(request, asked, expect=expect)
        path = self.endpoint.prefix + request.path
        query = SecretText(await self.signer.sign(request.method, path, query, headers))
        target = SecretText(f"{path}?{query}" if query else path)
        if self._forwarding is not None:
            target = self._forwarding.address(target, headers)
        return memoryview(request_head(request.method, target, headers))

    def _headers(self, request: Request, asked: Mapping[str, str], *, expect: bool) -> SecretHeaders:
        """All that the request says but its signature."""
        headers = SecretHeaders({**self._defaults, **asked})
        if request.body or request.method in ("PUT", "POST"):
            headers["content-length"] = str(sum(map(len, request.body)))
        if expect:
            headers["expect"] = "100-continue"
        return headers

    async def _on_connection(
        self, request: Request, head: memoryview, download: Download | None, *, expect: bool, fresh: bool
    ) -> Answer:
        connection = (download and download.take_asked()) or await self.pool.acquire(fresh=fresh)
        reusable, reused = False, connection.uses > connection.asked
        self.entrust(connection, request)
        try:
            answer = await connection.exchange(request.method, head, request.body, landing=download, expect=expect)
            reusable = connection.reusable
            self._takes_expect = self._takes_expect and not connection.ignores_expect
            return answer
        except TimeoutError:
            self.pool.distrust(connection)
            raise
        except OSError as error:
            harmless = request.idempotent or not connection.may_have_acted
            if reused and not connection.answered and harmless:
                raise _StaleConnectionError from error
            raise
        finally:
            self.pool.release(connection, reusable=reusable)

    def _fault_of(self, request: Request, answer: Answer) -> Fault | None:
        """The failure that was answered. Errors: `ProtocolError` where neither that nor the result was."""
        fault = self._read_fault(answer.status, answer.headers, answer.body)
        if fault is None and answer.status not in request.success:
            raise ProtocolError(f"the answer's status, {answer.status}, is none of this operation's success")
        if fault is None and request.proof is not None:
            request.proof(answer)
        return fault

    def _context(
        self, request: Request, sent: int, status: int | None = None, fault: Fault | None = None
    ) -> ErrorContext:
        return ErrorContext(
            operation=request.operation,
            bucket=request.bucket,
            key=request.key,
            endpoint=str(self.endpoint),
            status=status,
            code=shown(fault.code, 100) if fault and fault.code else None,
            request_id=shown(fault.request_id, 200) if fault and fault.request_id else None,
            attempts=sent,
        )

    def _broken(self, request: Request, error: Exception, sent: int) -> Failed:
        """The attempt ended without a usable answer."""
        context = self._context(request, sent, error.status if isinstance(error, ProxyError) else None)
        if isinstance(error, StoreError) and not isinstance(error, ProtocolError | ConnectionFailedError):
            return Failed(Failure.FINAL, type(error)(error.message, context), cause=error.__cause__)
        if isinstance(error, ProtocolError):
            return Failed(Failure.BROKEN, ProtocolError(error.message, context))
        if isinstance(error, ConnectionFailedError):
            cause = error.__cause__
            if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
                message = f"the server does not speak TLS here, or no version of it that is allowed: {error.message}"
                return Failed(Failure.FINAL, type(error)(message, context), cause=cause)
            refused = error.status is not None and failure_of(error.status, None) is Failure.FINAL
            final = refused or isinstance(cause, ssl.SSLCertVerificationError)
            kind = Failure.FINAL if final else Failure.NOT_SENT
            return Failed(kind, type(error)(error.message, context), cause=cause)
        if isinstance(error, TimeoutError):
            return Failed(Failure.STALLED, StallError(str(error), context), cause=error)
        return Failed(Failure.BROKEN, ConnectionFailedError(f"the connection broke: {error}", context), cause=error)

    def _refused(self, request: Request, answer: Answer, fault: Fault, download: Download | None, sent: int) -> Failed:
        """The server answered with an error."""
        context = self._context(request, sent, answer.status, fault)
        forwarded = self._forwarding
        told = forwarded.told(answer.status) if forwarded else f"the server answered {answer.status}"
        message = shown(fault.message or "") or told
        if fault.error is not None:
            return Failed(Failure.FINAL, fault.error(message, context))
        if download is not None and download.tells_change(answer.status):
            message = "the object was replaced since its etag was learned"
            return Failed(Failure.FINAL, ObjectChangedError(message, context))
        failure = failure_of(answer.status, fault.code)
        error = error_class(answer.status if answer.status >= 300 else 500, fault.code)(message, context)
        return Failed(failure, error, server_asks=fault.retry_after or seconds(answer.headers.get("retry-after"), 1.0))

    def __repr__(self) -> str:
        return f"<Upstream {self.endpoint} {self.pool!r} {self.load!r}>"


class _StaleConnectionError(Exception):
    """A kept-alive connection was closed by the server before it answered."""


def seconds(text: str | None, unit: float) -> float | None:
    """A wait that a header asks for in whole units of `unit` seconds; `None` for anything else, a date too."""
    return int(text) * unit if text is not None and text.isdecimal() and len(text) < 10 else None
