"""Signing for directory buckets (S3 Express One Zone): with a session of the bucket's own.

CreateSession answers with credentials that end after five minutes, and are renewed while they serve. What copies is
authorised by the credentials it was made with, and so is CreateSession itself.

Source: "CreateSession" in the Amazon S3 API Reference; "Authenticating and authorizing requests" for directory buckets
in the Amazon S3 User Guide.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping

from .refreshing import Refreshing
from .sigv4 import Credentials, CredentialsProvider, PathSigner, SigV4Signer

SERVICE = "s3express"
SESSION_TOKEN = "x-amz-s3session-token"
CREATE_SESSION = "session="
"""The query of CreateSession."""


class Sessions(Refreshing[Credentials]):
    """The session of this moment; `create` asks for another. One is asked for at a time, whoever waits for it."""

    def __init__(self, create: Callable[[], Awaitable[Credentials]]) -> None:
        super().__init__()
        self._create = create

    async def _fetch(self) -> Credentials:
        return await self._create()


class ExpressSigner:
    """Signs for a directory bucket in `region`, with what `provider` gives and the sessions that are had for that."""

    def __init__(
        self,
        provider: CredentialsProvider,
        sessions: CredentialsProvider,
        region: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._own = SigV4Signer(provider, region, clock, service=SERVICE)
        self._session = SigV4Signer(sessions, region, clock, service=SERVICE, token_header=SESSION_TOKEN)
        self._provider = provider

    async def _signer(self, query: str, headers: Mapping[str, str]) -> SigV4Signer:
        """Who is anonymous has no session either."""
        by_own = query == CREATE_SESSION or "x-amz-copy-source" in headers
        return self._own if by_own or await self._provider.get() is None else self._session

    async def sign(self, method: str, path: str, query: str, headers: dict[str, str]) -> str:
        """As :meth:`.sigv4.SigV4Signer.sign`."""
        return await (await self._signer(query, headers)).sign(method, path, query, headers)

    async def sign_paths(self, method: str, query: str, headers: dict[str, str]) -> PathSigner | None:
        """As :meth:`.sigv4.SigV4Signer.sign_paths`."""
        return await (await self._signer(query, headers)).sign_paths(method, query, headers)

    async def recover(self, code: str | None, status: int, headers: Mapping[str, str]) -> bool:
        """As :meth:`.sigv4.SigV4Signer.recover`, of whichever credentials were refused."""
        renewed = await self._session.recover(code, status, headers)
        return await self._own.recover(code, status, headers) or renewed

    def __repr__(self) -> str:
        return f"ExpressSigner({self._own!r})"
