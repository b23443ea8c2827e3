"""Signing as the transport sees it: one call before a request, one after an error answer."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Protocol, runtime_checkable

from ..errors import ConfigError

FAR_OFF = 5 * 60.0
"""Seconds by which clocks must differ before the difference explains an error; services bear 15 minutes."""

_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
_NOT_IN_HEADERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


class Signer(Protocol):
    """Makes requests authorised ones."""

    async def sign(self, method: str, path: str, query: str, headers: dict[str, str]) -> str:
        """Add what authorises the request to `headers`, or to the query: returns the one to send.

        `path` and `query` are quoted, header names lower case, and all headers of the request are there.
        """

    async def recover(self, code: str | None, status: int, headers: Mapping[str, str]) -> bool:
        """After an error answer (its code, status and headers): whether the request may work if signed again."""


class PathAuthorizer(Protocol):
    """Authorises requests that differ in their paths alone."""

    def authorization(self, path: str) -> str:
        """The `authorization` header of the request for `path`, which is quoted. Errors: `InvalidKeyError`."""


@runtime_checkable
class BatchSigner(Protocol):
    """A :class:`Signer` that computes once what several requests have in common."""

    async def sign_paths(self, method: str, query: str, headers: dict[str, str]) -> PathAuthorizer | None:
        """What authorises requests that differ in their paths alone, `None` where each has to be signed for itself.

        All that they have in common is added to `headers`. Errors: as in :meth:`Signer.sign`.
        """


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
        if abs(offset - self._offset) > FAR_OFF:
            self._offset, self._learned_at = offset, now
        return abs(now - self._learned_at) < FAR_OFF


def fits_header(value: str) -> bool:
    """Whether a header can carry `value`: no control character but tab, nothing that UTF-8 has no form for."""
    return value.isprintable() or not _NOT_IN_HEADERS.search(value)


def check_header(name: str, value: str) -> None:
    """Refuse a header that would end its line early or cannot be encoded. Errors: `ConfigError`, without the value."""
    if not _HEADER_NAME.fullmatch(name):
        raise ConfigError(f"not the name of a header: {name!r}")
    if not fits_header(value):
        raise ConfigError(f"the value of header {name!r} holds a control character or a lone surrogate")


def check_headers(headers: Mapping[str, str]) -> None:
    """:func:`check_header` for all of them, in lower case. Names are looked at once, printable values only in C."""
    _check_names(tuple(headers))
    if not "".join(headers.values()).isprintable():
        for name, value in headers.items():
            check_header(name, value)


@lru_cache(maxsize=1024)
def _check_names(names: tuple[str, ...]) -> None:
    for name in names:
        check_header(name, "")
