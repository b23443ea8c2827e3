"""Resumable uploads to Google Cloud Storage. Source: "Resumable uploads" and "Performing resumable uploads".

Theory of operation. A request begins a session; its data is sent in one go. Where that is cut, whatever the reason, a
second kind of request asks how much has arrived, and the next attempt sends what is left. So no byte the server has is
sent again, and nobody has to guess whether a lost answer was a success: the session knows. An attempt that brought
bytes starts the count of attempts anew. A session the server has lost is begun again.

Ownership: the service is the store's. Cancellation and failure: the session is cancelled, shielded, for a few
seconds at most.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import trio

from ...errors import (
    ConnectionFailedError,
    ErrorContext,
    NotFoundError,
    ProtocolError,
    RequestError,
    ServerError,
    StallError,
    StoreError,
    ThrottledError,
    UploadNotFoundError,
)
from ...transport.connection import Answer
from ...transport.retry import Failure
from ...transport.service import Service
from ...transport.upstream import Request
from .messages import content_range, persisted, session_target

_CANCEL_TIME = 5.0
_CUT = (ConnectionFailedError, StallError, ThrottledError, ServerError, ProtocolError)
"""After these nobody here knows how much has arrived."""

_NOTHING = memoryview(b"")
_SESSION = (200, 201, 308)

T = TypeVar("T")


def _read_session(read: Callable[[Answer], object], answer: Answer) -> object:
    """What a session's answer shows: how much has arrived, or the object."""
    return persisted(answer.headers) if answer.status == 308 else read(answer)


class ResumableUploads:
    """Sends large data by `service`."""

    def __init__(self, service: Service, jitter: Callable[[], float] = random.random) -> None:
        self._service = service
        self._policy = service.policy
        self._jitter = jitter

    async def send(self, begin: Request, data: memoryview, read: Callable[[Answer], T]) -> T:
        """What `read` finds in the final answer to the upload of `data`, not empty, that `begin` begins.

        Errors: `StoreError`.
        """
        begin = begin._replace(success=(200, 201), proof=lambda answer: session_target(answer.headers))
        for left in reversed(range(self._policy.max_attempts)):
            path, query = session_target((await self._service.send(begin)).headers)
            path = path.removeprefix(self._service.endpoint.prefix)
            session = begin._replace(method="PUT", path=path, query=query, headers={}, body=(), success=_SESSION)
            session = session._replace(proof=partial(_read_session, read))
            try:
                return read(await self._feed(session, data))
            except UploadNotFoundError:
                if not left:
                    raise
            except BaseException:
                await self._cancel(session)
                raise
        raise AssertionError("a policy allows one attempt at least")

    async def _feed(self, session: Request, data: memoryview) -> Answer:
        """Send all the data, each time what the server has not."""
        offset, attempt = 0, 1
        while True:
            failure: StoreError | None = None
            try:
                answer = await self._to_session(session, offset, len(data), data[offset:])
            except _CUT as error:
                failure = error
            if failure is not None:
                kind = Failure.THROTTLED if isinstance(failure, ThrottledError) else Failure.BROKEN
                await trio.sleep(self._policy.delay(kind, attempt, self._jitter()))
                answer = await self._to_session(session, len(data), len(data), _NOTHING)
            if answer.status != 308:
                return answer
            known, offset = offset, min(persisted(answer.headers), len(data))
            attempt = 1 if offset > known else attempt + 1
            if attempt > self._policy.max_attempts:
                raise failure or ProtocolError("the server takes no more of a resumable upload", self._where(session))

    async def _to_session(self, session: Request, first: int, size: int, rest: memoryview) -> Answer:
        """Send what is left from byte `first`, once; with nothing left, ask how much is there, as often as it takes.

        Errors: `UploadNotFoundError` where the server has no such session.
        """
        request = session._replace(
            headers={"content-range": content_range(first, size)},
            body=(rest,) if len(rest) else (),
            idempotent=not len(rest),
        )
        try:
            return await self._service.send(request, retry=not len(rest))
        except (NotFoundError, RequestError) as error:
            if error.status not in (404, 410):
                raise
            raise UploadNotFoundError("the server has lost the resumable upload", error.context) from None

    async def _cancel(self, session: Request) -> None:
        """Have the server forget a session, which it otherwise does after a week. It answers with a 499."""
        with trio.move_on_after(_CANCEL_TIME, shield=True), suppress(StoreError, trio.ClosedResourceError):
            await self._service.send(session._replace(method="DELETE"), retry=False)

    def _where(self, request: Request) -> ErrorContext:
        return ErrorContext(request.operation, request.bucket, request.key, str(self._service.endpoint))
