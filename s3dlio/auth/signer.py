"""Signing as the transport sees it: one call before a request, one after an error answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Protocol

from .credentials import CredentialsProvider
from .sigv4 import Credentials, check_headers, sign

_REJECTED = frozenset({"ExpiredToken", "TokenRefreshRequired", "InvalidToken"})
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_FAR_OFF = 5 * 60.0
"""Seconds by which clocks must differ before the difference explains an error; S3 bears 15 minutes."""


class Signer(Protocol):
    """Makes requests authorised ones."""

    async def sign(self, method: str, path: str, query: str, headers: dict[str, str], payload_hash: str) -> str:
        """Add what authorises the request to `headers`, or to the query: returns the one to send.

        `path` and `query` are quoted, header names lower case, and all headers of the request are there.
        """

    async def recover(self, code: str | None, status: int, headers: Mapping[str, str]) -> bool:
        """After an error answer (its code, status and headers): whether the request may work if signed again."""


class ServerClock:
    """The server's time, in POSIX seconds: the local clock's until an answer has shown that it is far off.

    Requests signed before such a change are answered for a while after it: they are worth another try, too.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._offset = 0.0
        self._learned_at = float("-inf")

    def now(self) -> float:
        """The time to sign with."""
        return self._clock() + self._offset

    def learn(self, date: str) -> bool:
        """Take the time from a refusal's `Date` header; whether a wrong time explains that refusal."""
        now = self._clock()
        try:
            offset = parsedate_to_datetime(date).timestamp() - now
        except (ValueError, OverflowError):
            offset = self._offset
        if abs(offset - self._offset) > _FAR_OFF:
            self._offset, self._learned_at = offset, now
        return abs(now - self._learned_at) < _FAR_OFF


class SigV4Signer:
    """Signs for S3 in one `region`, which may be set anew, with what `provider` gives.

    Requests signed before a change of credentials are answered for a while after it: they are worth another try
    without anything being learned.
    """

    def __init__(self, provider: CredentialsProvider, region: str, clock: Callable[[], float] = time.time) -> None:
        self.region = region
        self._provider = provider
        self._clock = clock
        self._server = ServerClock(clock)
        self._current: Credentials | None = None
        self._changed_at = float("-inf")

    async def sign(self, method: str, path: str, query: str, headers: dict[str, str], payload_hash: str) -> str:
        """Add the headers of :func:`.sigv4.sign`; none where access is anonymous. Errors: its, and the provider's."""
        credentials = await self._provider.get()
        headers.pop("x-amz-security-token", None)
        if credentials is None:
            check_headers(headers)
            return query
        self._note(credentials)
        added = sign(
            method=method,
            path=path,
            query=query,
            headers=headers,
            payload_hash=payload_hash,
            credentials=credentials,
            region=self.region,
            now=self._server.now(),
        )
        headers.update(added)
        return query

    async def recover(self, code: str | None, status: int, headers: Mapping[str, str]) -> bool:
        """New credentials where the old ones were refused, a new clock offset where the time was."""
        rejected = self._current
        if rejected is None:
            return False
        if code in _REJECTED:
            return self._just_changed() or await self._provider.refresh(rejected)
        if code in _SKEWED or (code is None and status == 403):
            return self._server.learn(headers.get("date", "")) or self._just_changed()
        return False

    def _note(self, credentials: Credentials) -> None:
        if credentials is not self._current:
            if self._current is not None:
                self._changed_at = self._clock()
            self._current = credentials

    def _just_changed(self) -> bool:
        return abs(self._clock() - self._changed_at) < _FAR_OFF

    def __repr__(self) -> str:
        return f"SigV4Signer(region={self.region!r})"
