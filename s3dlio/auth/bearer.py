"""Bearer tokens (RFC 6750): whoever holds one has the access, so they travel over TLS alone, and are shown nowhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from .signer import check_headers

_SETTLES = 60.0
"""Seconds after a change of token in which a refusal is taken to be of the old one."""


@dataclass(frozen=True, slots=True)
class Token:
    """The headers that authorise requests. Shows no secret, and cannot be pickled. `expires_at` is in POSIX seconds."""

    headers: Mapping[str, str] = field(repr=False)
    expires_at: float | None = field(default=None, compare=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError("tokens are not pickled: each process finds its own")


class TokenProvider(Protocol):
    """Gives out tokens. Belongs to one Trio run at a time. See :class:`.refreshing.RefreshingCredentials`."""

    async def get(self) -> Token:
        """The token of this moment. Errors: `StoreError`."""

    async def refresh(self, rejected: Token) -> bool:
        """The server refused `rejected`: fetch anew. Whether there is a different one now."""


class BearerSigner:
    """Puts the token of `provider` on every request, or nothing where there is no provider: anonymous access.

    Many requests may be under way when a token is refused. The first refusal fetches a new one; those that come soon
    after a change are of the old one, and are worth another try without anything being fetched.
    """

    def __init__(self, provider: TokenProvider | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._provider = provider
        self._clock = clock
        self._current: Token | None = None
        self._changed_at = float("-inf")

    async def sign(self, method: str, path: str, query: str, headers: dict[str, str]) -> str:
        """Add the token's headers; the query stays as it is. Errors: the provider's, `ConfigError`."""
        if self._provider is not None:
            self._note(token := await self._provider.get())
            headers.update(token.headers)
        check_headers(headers)
        return query

    async def recover(self, code: str | None, status: int, headers: Mapping[str, str]) -> bool:
        """After a 401: whether there is a new token."""
        rejected = self._current
        if status != 401 or self._provider is None or rejected is None:
            return False
        return self._clock() - self._changed_at < _SETTLES or await self._provider.refresh(rejected)

    def _note(self, token: Token) -> None:
        if token is not self._current:
            if self._current is not None:
                self._changed_at = self._clock()
            self._current = token

    def __repr__(self) -> str:
        return f"BearerSigner({self._provider!r})" if self._provider is not None else "BearerSigner(anonymous)"
