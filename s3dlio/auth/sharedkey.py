"""Azure Storage's Shared Key authorisation, as pure functions.

Source: "Authorize with Shared Key" in the Azure Storage REST API reference, for version 2015-02-21 and later. What that
page calls lexicographical is not the order of the bytes: the service sorts header names as a person would, hyphens
left out and underscores before digits before letters, and Microsoft's clients spell that order as tables.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from typing import NoReturn
from urllib.parse import unquote

from ..errors import ConfigError, InvalidKeyError
from .signer import ServerClock, check_headers

_SIGNED = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)
_ORDER = "!#$%&*.^_`|~+0123456789abcdefghijklmnopqrstuvwxyz"
_PASSED_OVER = "'-"
_RANKS = str.maketrans({letter: chr(rank) for rank, letter in enumerate(_ORDER)} | dict.fromkeys(_PASSED_OVER, ""))
_TIES = str.maketrans(dict.fromkeys(_ORDER, "0") | {letter: str(n) for n, letter in enumerate(_PASSED_OVER, 1)})


@dataclass(frozen=True, slots=True)
class SharedKey:
    """An account and its key, decoded. Shows no secret, and cannot be pickled."""

    account: str
    key: bytes = field(repr=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials are not pickled: each process finds its own")


def decode_key(text: str, source: str) -> bytes:
    """An account key as the portal shows it, in base64. Errors: `ConfigError`, which names `source` only."""
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ConfigError(f"the account key in {source} is not base64")
    return key


@lru_cache(maxsize=1024)
def header_order(names: tuple[str, ...]) -> tuple[str, ...]:
    """Of these headers, in lower case, the `x-ms-` ones in the service's order."""
    named = (name for name in names if name.startswith("x-ms-"))
    return tuple(sorted(named, key=lambda name: (name.translate(_RANKS), name.translate(_TIES))))


def canonical_resource(account: str, path: str, query: str) -> str:
    """What is asked for: the path as it is sent, the query decoded and sorted by name."""
    split = (pair.partition("=") for pair in query.split("&") if pair)
    pairs = sorted((unquote(name).lower(), unquote(value)) for name, _, value in split)
    return "\n".join((f"/{account}{path}", *(f"{name}:{value}" for name, value in pairs)))


def string_to_sign(*, method: str, path: str, query: str, headers: Mapping[str, str], account: str) -> str:
    """All that the signature covers. A length of zero counts as none."""
    values = [headers.get(name, "") for name in _SIGNED]
    if values[2] == "0":
        values[2] = ""
    named = [f"{name}:{headers[name].strip()}" for name in header_order(tuple(headers))]
    return "\n".join((method, *values, *named, canonical_resource(account, path, query)))


@lru_cache(maxsize=8)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)


def sign(
    *, method: str, path: str, query: str, headers: Mapping[str, str], credentials: SharedKey, now: float
) -> dict[str, str]:
    """The headers that make a request an authorised one; add them to `headers`.

    `path` and `query` are quoted, each name of the query given once; names of `headers` are lower case; `now` is in
    POSIX seconds. The body is not signed. Errors: `ConfigError` for a header that
    :func:`.signer.check_header` refuses, `InvalidKeyError` for a target not quoted.
    """
    check_headers(headers)
    if not (path.isascii() and query.isascii()):
        raise InvalidKeyError("path and query must be ASCII: quote them first")
    dated = {"x-ms-date": _http_date(int(now))}
    account = credentials.account
    text = string_to_sign(method=method, path=path, query=query, headers={**headers, **dated}, account=account)
    digest = hmac.digest(credentials.key, text.encode("utf-8", "surrogateescape"), "sha256")
    return dated | {"authorization": f"SharedKey {account}:{base64.b64encode(digest).decode()}"}


class SharedKeySigner:
    """Signs with an account's key: see :func:`sign`."""

    def __init__(self, credentials: SharedKey, clock: Callable[[], float] = time.time) -> None:
        self._credentials = credentials
        self._server = ServerClock(clock)

    async def sign(self, method: str, path: str, query: str, headers: dict[str, str]) -> str:
        """Add the headers of :func:`sign`. No checkpoint. Errors: its."""
        now = self._server.now()
        headers |= sign(method=method, path=path, query=query, headers=headers, credentials=self._credentials, now=now)
        return query

    async def recover(self, code: str | None, status: int, headers: Mapping[str, str]) -> bool:
        """The server's time where the local clock is far off."""
        return status == 403 and self._server.learn(headers.get("date", ""))

    def __repr__(self) -> str:
        return f"SharedKeySigner({self._credentials!r})"
