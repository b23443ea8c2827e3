"""What every store behind HTTP does alike: requests with conditions and context, reads, deletions, closing.

Theory of operation. A backend is pure where it can be: it says how its requests look and reads their answers. This
class acts: it sends, lets a download land, and gives every error the operation and the object it is about. So a rule
that holds for all services is written here, once, and where requests go is known here alone: a request names a path
below an endpoint, never a host.

Invariant: no write returns unless its answer shows the result. A request names the statuses of its success, and what
:meth:`HttpStore._ask` returns is what was read from the answer: an etag, an id, the new object's description. An answer
without that, a proxy's page for example, is none, and the request is sent again where that is safe.

Ownership: the store owns its service, and the service its connections. Cancellation: at any await, nothing is left.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import ClassVar, NamedTuple, TypeVar

import trio

from ..alignment.checksum import Fold
from ..auth.signer import Signer
from ..config import Checksums, Config
from ..endpoint_stats import Stats
from ..errors import (
    AlreadyExistsError,
    ChecksumError,
    ErrorContext,
    IntegrityError,
    InvalidKeyError,
    PreconditionFailedError,
    ProtocolError,
    RangeError,
    StoreError,
    shown,
)
from ..model import (
    BoundedRange,
    GetOptions,
    GetResult,
    ListPage,
    ObjectMeta,
    PutOptions,
    Sink,
    StoredChecksum,
)
from ..transport.batch import Batch, Reply
from ..transport.connection import Answer, Connection
from ..transport.dial import open_pool, secure
from ..transport.download import IF_MATCH, Download, Pin, validators
from ..transport.endpoint import Endpoint, by_proxy
from ..transport.http1 import parse_size, quote_etag, quote_query
from ..transport.retry import RetryPolicy
from ..transport.rotation import Rotation
from ..transport.service import Service
from ..transport.upstream import ReadFault, Request, Upstream
from .headers import HeaderNames
from .integrity import Digester, RememberedView, same_bytes, told_instead
from .store import BytesSink, ObjectStore, exactly

T = TypeVar("T")
Query = Sequence[tuple[str, str]]
"""Names and values, not quoted."""

_READ_IN_THREAD_FROM = 1 << 20
_IN_FLIGHT = 32
_UNDO_TIME = 5.0


def open_service(
    endpoints: Sequence[Endpoint],
    config: Config,
    signer: Signer,
    read_fault: ReadFault,
    headers: Mapping[str, str] | None = None,
) -> Service:
    """A service at `endpoints`, with an empty pool of connections to each; `headers` go with every request."""
    named, tls = {"user-agent": config.user_agent, **(headers or {})}, secure(config)

    def reach(endpoint: Endpoint) -> Upstream:
        return Upstream(endpoint, open_pool(endpoint, config, tls), signer, read_fault, headers=named)

    rotation = Rotation([by_proxy(each, config.proxy) for each in endpoints], reach)
    return Service(rotation, RetryPolicy(config.max_attempts, config.request_timeout))


class _Read(NamedTuple):
    """What came of a GET: the head of its first answer, and the endpoints whose answers were used."""

    result: GetResult
    headers: Mapping[str, str]
    endpoints: Sequence[Endpoint]

    @property
    def whole(self) -> bool:
        """Whether it is all of the object."""
        return (self.result.start, self.result.end) == (0, self.result.meta.size)


class HttpStore(ObjectStore):
    """A bucket of one of the clouds. `bucket` is what errors call it; `service` may be opened later: :meth:`_open`."""

    _names: ClassVar[HeaderNames]
    _get: ClassVar[str]
    """What the service calls reading, in errors; and so on."""
    _head: ClassVar[str]
    _pin: ClassVar[Pin] = IF_MATCH
    _digests: ClassVar[Mapping[str, Callable[[memoryview], str]]] = {}
    """The headers in which the service says what it received, and how that is computed; the quickest first."""

    def __init__(self, bucket: str, config: Config, service: Service | None = None) -> None:
        self.bucket = bucket
        self.config = config
        self._reads = self._writes = config.checksums
        self._service = service
        self._opening = trio.Lock()
        self._digest = Digester()

    @property
    def checksums(self) -> Checksums:
        return self._reads

    async def fetch(self, key: str, sink: Sink, options: GetOptions = GetOptions()) -> GetResult:
        return await self._fetch(self._get_request(key, options), sink, options)

    async def get(self, key: str, *, known: ObjectMeta | None = None, if_match: str | None = None) -> bytes:
        service = self._service
        if service is None or if_match is not None:
            return await super().get(key, if_match=if_match)
        request = self._get_request(key)
        answer, asked, endpoint = await service.get_whole(self._addressed(request))
        if answer is None:
            await self._fetch(request, sink := BytesSink(), GetOptions(), asked)
            return sink.data
        return answer.body if await self.is_sound(answer) else await self._get_again(request, endpoint)

    async def is_sound(self, answer: Answer) -> bool:
        """Whether the body of a GET of a whole object has the checksum that the answer tells, if it has to."""
        told = self._checksum(answer.headers)
        if self._reads == "off" or (told is None and (self._reads == "when_there" or not answer.body)):
            return True
        return told is not None and await self._digest.matches(told, memoryview(answer.body))

    def is_of(self, answer: Answer, etag: str) -> bool:
        """Whether a whole object is of the version `etag`, as far as its answer tells."""
        told = self._describe("", answer.headers, len(answer.body)).etag
        return told is None or quote_etag(told) == quote_etag(etag)

    async def _get_again(self, request: Request, endpoint: Endpoint, if_match: str | None = None) -> bytes:
        """A whole object whose bytes, from `endpoint`, were not sound."""
        await self._fetch(request, sink := BytesSink(), GetOptions(if_match=if_match), wrong=[endpoint])
        return sink.data

    @property
    def batches(self) -> bool:
        """Whether :meth:`ask` can ask for anything, as far as that is known."""
        return self._service is not None and self._service.pumped

    async def ask(self, batch: Batch[T], wanted: Sequence[tuple[T, str, int]]) -> int:
        """Ask in `batch` for the whole objects that are `wanted`, which are small; for how many, from the first on.

        Each is a name for the reply, a key, and a size in bytes, which is 0 where it is unknown, and may be wrong. It
        asks for as many as there are idle connections. A key that no object can have ends the list.
        """
        service, first = self._service, wanted[0][1]
        if service is None:
            return 0
        paths: list[tuple[T, str, str, int]] = []
        with suppress(InvalidKeyError):  # who asks for that one alone meets it again
            request = self._addressed(self._get_request(first))
            before = request.path.removesuffix(self._path(first))
            paths.extend((name, key, before + self._path(key), size) for name, key, size in wanted)
        return await batch.ask(service, request, paths) if paths else 0

    async def go_on(self, key: str, reply: Reply[T], *, if_match: str | None = None) -> bytes:
        """The whole object `key`, which a batch has asked for, and not taken what came: `reply`, which is used up.

        `if_match` and errors are as in :meth:`get`.
        """
        if reply.answer is not None:
            return await self._get_again(self._get_request(key), reply.endpoint, if_match)
        asked = reply.asked
        service = self._service
        if asked is not None and (service is None or service.rotation.of(asked) is None):
            reply.drop()
            asked = None
        await self._fetch(self._get_request(key), sink := BytesSink(), GetOptions(if_match=if_match), asked)
        return sink.data

    def _get_request(self, key: str, options: GetOptions = GetOptions()) -> Request:
        """The GET of an object. Which range of it, and of which version, is for the download to say."""
        unless = options.if_none_match
        return self._request(self._get, "GET", key, headers={"if-none-match": quote_etag(unless)} if unless else None)

    async def _fetch(
        self,
        request: Request,
        sink: Sink,
        options: GetOptions,
        asked: Connection | None = None,
        wrong: Sequence[Endpoint] = (),
    ) -> GetResult:
        """What a GET of `request.key` delivers; it may have been `asked` for already.

        Bytes that do not have the checksum that the answer tells of them are received once more, into the same view,
        from another endpoint where there is one. `wrong` are those that they came from when that has happened. Errors:
        `ChecksumError` where they do not have it then either.
        """
        landing = RememberedView(sink)
        read = await self._download(request, landing, options, asked, wrong)
        told = await self._told(request, read)
        if await self._digest.matches(told, landing.view, read.result.computed):
            return replace(read.result, verified=told is not None)
        if wrong:
            places = " and ".join(dict.fromkeys(map(str, (*wrong, *read.endpoints))))
            message = f"the bytes received, twice, from {places}, do not have the checksum that the store tells of them"
            raise ChecksumError(message, self._context(request.operation, request.key))
        again = same_bytes(read.result, options)
        return await self._fetch(request, exactly(landing.view), again, wrong=read.endpoints)

    async def _download(
        self,
        request: Request,
        sink: Sink,
        options: GetOptions,
        asked: Connection | None,
        avoid: Sequence[Endpoint],
    ) -> _Read:
        """One read, however many answers it takes."""
        key, heads = request.key or "", list[Mapping[str, str]]()

        def describe(headers: Mapping[str, str], size: int) -> ObjectMeta:
            heads.append(headers)
            return self._describe(key, headers, size)

        def begin(headers: Mapping[str, str]) -> Fold | None:
            return None if self._reads == "off" else self._digest.begin(self._range_checksum(headers))

        download = Download(key, sink, describe, options.byte_range, options.if_match, self._pin, begin)
        download.asked, download.avoid = asked, avoid
        try:
            await self._send(request._replace(success=(200, 206)), download)
        finally:
            if (unused := download.take_asked()) is not None:
                unused.give_back(reusable=False)
        if download.result is None:
            raise ProtocolError("the answer to a GET was not the object", self._context(request.operation, key))
        return _Read(download.folded(download.result), heads[0], download.endpoints)

    async def _told(self, request: Request, read: _Read) -> StoredChecksum | None:
        """The checksum of exactly the bytes of `read`.

        Errors: `ChecksumError` where there has to be one, as they are a whole object, and is none.
        """
        if self._reads == "off":
            return None
        told = self._told_of_range(read) or (read.result.meta.checksum if read.whole else None)
        if told is not None or not read.whole or not read.result.end or self._reads != "require":
            return told
        seen = await self.look_up_checksum(read.result.meta.key)
        if seen is not None and seen.checksum is not None and validators(seen) == validators(read.result.meta):
            return seen.checksum
        message = (
            f"checksums are required, and the store tells none that can be compared, but {told_instead(read.headers)}; "
            f"checksums='when_there' reads such an object all the same"
        )
        raise ChecksumError(message, self._context(request.operation, request.key))

    def _told_of_range(self, read: _Read) -> StoredChecksum | None:
        start, end, size = read.result.start, read.result.end, read.result.meta.size
        exact = read.headers.get("content-range") == f"bytes {start}-{end - 1}/{size}"
        return self._range_checksum(read.headers) if exact else None

    def _describe(self, key: str, headers: Mapping[str, str], size: int) -> ObjectMeta:
        """An object of `size` bytes by the headers of its GET or HEAD."""
        meta, checksum = self._names.describe(key, headers, size), self._checksum(headers)
        if checksum is None:
            return meta
        self._digest.algorithm = checksum.algorithm
        return replace(meta, checksum=checksum)

    def _checksum(self, headers: Mapping[str, str]) -> StoredChecksum | None:
        """The checksum of the whole object, where an answer tells it."""
        return None

    def _range_checksum(self, headers: Mapping[str, str]) -> StoredChecksum | None:
        """The checksum of the answered range, where an answer tells it."""
        return None

    async def head(self, key: str) -> ObjectMeta:
        answer = await self._send(self._request(self._head, "HEAD", key))
        length = answer.headers.get("content-length")
        if length is None:
            return await self._measure(key, answer)
        size = parse_size(length)
        if size is None:
            raise ProtocolError("the answer to a HEAD has no length that makes sense", self._context(self._head, key))
        return self._describe(key, answer.headers, size)

    async def _measure(self, key: str, answer: Answer) -> ObjectMeta:
        """An object whose HEAD, answered without a length, does not tell its size: a read of its first byte does."""
        try:
            return (await self.fetch(key, BytesSink(), GetOptions(BoundedRange(0, 1)))).meta
        except RangeError:
            return self._describe(key, answer.headers, 0)

    def stats(self) -> Stats:
        return self._service.stats if self._service is not None else Stats()

    async def delete_each(self, keys: Iterable[str]) -> Sequence[StoreError]:
        return await each(self.delete, keys)

    async def aclose(self) -> None:
        if self._service is not None:
            self._service.close()
        await trio.lowlevel.checkpoint()

    @abstractmethod
    def _path(self, key: str | None) -> str:
        """The quoted path of an object, or of the bucket, below the endpoint. Errors: `InvalidKeyError`."""

    async def _open(self) -> Service:
        """Make the service, for a store that is made without one. Called once, before the first request."""
        raise NotImplementedError

    async def _reach(self) -> Service:
        if self._service is None:
            async with self._opening:
                self._service = self._service or await self._open()
        return self._service

    def _request(
        self,
        operation: str,
        method: str,
        key: str | None = None,
        *,
        path: str | None = None,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        body: Sequence[bytes | memoryview] = (),
        success: Container[int] = (200,),
    ) -> Request:
        """A request about an object, or about the bucket where there is no `key`."""
        return Request(
            operation,
            method,
            self._path(key) if path is None else path,
            quote_query(query) if query else "",
            headers or {},
            [memoryview(piece).cast("B") for piece in body if len(piece)],
            bucket=self.bucket,
            key=key,
            success=success,
            observer=self.observer,
        )

    def _addressed(self, request: Request) -> Request:
        """A request without a body, as it is sent."""
        return request

    async def _send(self, request: Request, download: Download | None = None) -> Answer:
        service = await self._reach()
        return await service.send(request, download)

    async def _ask(self, request: Request, read: Callable[[Answer], T]) -> T:
        """What `read` finds in the answer. Where it raises `ProtocolError` there was none."""
        return read(await self._send(request._replace(proof=read)))

    async def _write(self, request: Request, options: PutOptions, read: Callable[[Answer], T]) -> T:
        """A write that may be conditional; such a one is not repeated when its outcome is unknown."""
        if options.if_match is not None and options.if_match.startswith("W/"):
            message = f"a write cannot be held to the weak etag {options.if_match} (RFC 9110 section 13.1.1)"
            raise PreconditionFailedError(message, self._context(request.operation, request.key))
        with creating(options):
            return await self._ask(request._replace(idempotent=not options.conditional), read)

    async def _page(self, request: Request, read: Callable[[bytes], ListPage], token: str | None) -> ListPage:
        """The page of a listing that `token` asks for; a long one is read in a thread.

        Errors: `ProtocolError`, also where it leads to itself.
        """
        body = (await self._send(request)).body
        with self._reading(request.operation):
            page = await trio.to_thread.run_sync(read, body) if len(body) >= _READ_IN_THREAD_FROM else read(body)
            if token is not None and page.token == token:
                raise ProtocolError(f"the listing would never end: its token {shown(token, 100)!r} leads to itself")
        return page

    async def _check_sent(self, request: Request, answer: Answer) -> None:
        """Compare the checksum that the answer names, if it names one, with that of what was sent, unless that is off.

        Errors: `IntegrityError`.
        """
        header = next((name for name in self._digests if name in answer.headers), None)
        if header is None or len(request.body) != 1 or self._writes == "off":
            return
        sent = request.headers.get(header) or await self._digest(self._digests[header], request.body[0])
        if sent != answer.headers[header]:
            message = f"what the server received is not what was sent, by its {header}"
            raise IntegrityError(message, self._context(request.operation, request.key))

    @contextmanager
    def _reading(self, operation: str, key: str | None = None) -> Iterator[None]:
        """An answer that makes no sense is an error of this operation."""
        with naming(self._context(operation, key)):
            yield

    def _context(self, operation: str, key: str | None = None) -> ErrorContext:
        endpoint = str(self._service.endpoint) if self._service is not None else None
        return ErrorContext(operation=operation, bucket=self.bucket, key=key, endpoint=endpoint)


async def settled(work: Callable[[], Awaitable[T]], undo: Callable[[T], Awaitable[None]]) -> T:
    """Do `work`, which makes what only its answer names.

    Cancelled, it has a few seconds for its end, and what it made is undone: else that would stay, and nobody know it.
    """
    made: list[T] = []
    failure: StoreError | None = None
    shield = trio.CancelScope(shield=True)

    async def hurry_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            shield.deadline = trio.current_time() + _UNDO_TIME

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hurry_when_cancelled)
            with shield:
                try:
                    made.append(await work())
                except StoreError as error:
                    failure = error
            nursery.cancel_scope.cancel()
        await trio.lowlevel.checkpoint_if_cancelled()
    except BaseException:
        with trio.move_on_after(_UNDO_TIME, shield=True), suppress(StoreError):
            for thing in made:
                await undo(thing)
        raise
    if failure is not None:
        raise failure
    return made[0]


def read_removed(answer: Answer) -> None:
    """An answer to a deletion has nothing in it, or is somebody else's. Errors: `ProtocolError`."""
    if answer.body:
        raise ProtocolError("the answer to a deletion has a body")


@contextmanager
def naming(where: ErrorContext) -> Iterator[None]:
    """Have the `ProtocolError` of an answer that is read in the block say where it came from."""
    try:
        yield
    except ProtocolError as error:
        raise ProtocolError(error.message, where) from None


@contextmanager
def creating(options: PutOptions) -> Iterator[None]:
    """A write in the block whose condition fails because something is there is an `AlreadyExistsError`."""
    try:
        yield
    except PreconditionFailedError as error:
        if options.if_none_match:
            raise AlreadyExistsError("an object of this key exists", error.context) from error
        raise


async def each(do: Callable[[T], Awaitable[None]], items: Iterable[T]) -> list[StoreError]:
    """Do it for all items, 32 at a time; what failed, in the order of the items."""
    failures: dict[int, StoreError] = {}
    limiter = trio.CapacityLimiter(_IN_FLIGHT)

    async def one(number: int, item: T) -> None:
        try:
            await do(item)
        except StoreError as error:
            failures[number] = error
        finally:
            limiter.release_on_behalf_of(number)

    async with trio.open_nursery() as nursery:
        for number, item in enumerate(items):
            await limiter.acquire_on_behalf_of(number)
            nursery.start_soon(one, number, item)
    return [failures[number] for number in sorted(failures)]
