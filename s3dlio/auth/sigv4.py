"""AWS Signature Version 4 for S3, as pure functions.

Source: "Signature Calculations for the Authorization Header: Transferring Payload in a Single Chunk" in the Amazon S3
API Reference. S3 differs from other services in two points: the path is quoted once and never normalised, and the
payload's hash is sent as a header.
"""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import NoReturn
from urllib.parse import quote

from ..errors import ConfigError, ErrorContext, InvalidKeyError

EMPTY_SHA256 = sha256(b"").hexdigest()
"""The payload hash of a request without a body."""

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
"""Stands for the payload hash where the body is not part of the signature."""

_SIGNED = frozenset({"host", "content-type", "content-md5"})
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")
_NOT_IN_HEADERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Keys to sign with; equal to others when they sign alike. Shows no secret, and cannot be pickled.

    `expires_at` is in POSIX seconds, `None` for keys that do not expire.
    """

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires_at: float | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        shown = f"{self.access_key[:4]}...{self.access_key[-4:]}" if len(self.access_key) >= 16 else "..."
        return f"Credentials(access_key={shown!r}, expires_at={self.expires_at!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials are not pickled: each process finds its own")


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
    _signed_names(tuple(headers))
    if not "".join(headers.values()).isprintable():
        for name, value in headers.items():
            check_header(name, value)


@lru_cache(maxsize=1024)
def _signed_names(names: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Of these headers, those that are signed, in order, and the same joined; a proxy may change the others."""
    for name in names:
        check_header(name, "")
    signed = tuple(sorted(name for name in names if name in _SIGNED or name.startswith("x-amz-")))
    return signed, ";".join(signed)


def quote_path(key: str) -> str:
    """A key, or a bucket and a key, as part of a request's path. Errors: `InvalidKeyError` where UTF-8 has no form."""
    try:
        return quote(key, safe="/")
    except UnicodeEncodeError:
        raise InvalidKeyError("the key cannot be encoded as UTF-8", ErrorContext(key=key)) from None


def quote_query(pairs: Sequence[tuple[str, str]]) -> str:
    """The canonical query: quoted, sorted, with `=` after every name. Errors: `InvalidKeyError` as in `quote_path`."""
    try:
        quoted = sorted((quote(name, safe=""), quote(value, safe="")) for name, value in pairs)
    except UnicodeEncodeError:
        raise InvalidKeyError("a value of the query cannot be encoded as UTF-8") from None
    return "&".join(f"{name}={value}" for name, value in quoted)


@lru_cache(maxsize=64)
def signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    """The key for one day (`date` is YYYYMMDD), region and service: 32 bytes."""
    key = b"AWS4" + secret.encode("utf-8", "surrogateescape")
    for scope in (date, region, service, "aws4_request"):
        key = hmac.digest(key, scope.encode(), "sha256")
    return key


@lru_cache(maxsize=64)
def _keyed_hash(secret: str, date: str, region: str, service: str) -> hmac.HMAC:
    """Copying an HMAC that has taken its key in is cheaper than making one."""
    return hmac.new(signing_key(secret, date, region, service), digestmod="sha256")


@lru_cache(maxsize=8)
def _timestamp(second: int) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))


def signature(canonical_request: str, *, secret: str, timestamp: str, region: str, service: str = "s3") -> str:
    """The signature of a canonical request: 64 hex digits. `timestamp` is YYYYMMDDTHHMMSSZ."""
    date = timestamp[:8]
    digest = sha256(canonical_request.encode("utf-8", "surrogateescape")).hexdigest()
    keyed = _keyed_hash(secret, date, region, service).copy()
    keyed.update(f"AWS4-HMAC-SHA256\n{timestamp}\n{date}/{region}/{service}/aws4_request\n{digest}".encode())
    return keyed.hexdigest()


def sign(
    *,
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    payload_hash: str,
    credentials: Credentials,
    region: str,
    now: float,
    service: str = "s3",
) -> dict[str, str]:
    """The headers that make a request an authorised one; add them to `headers`.

    `path` and `query` come from :func:`quote_path` and :func:`quote_query`; names of `headers` are lower case, `host`
    is among them; `now` is in POSIX seconds. Signed are `host`, `content-type`, `content-md5` and every `x-amz-*`.
    Errors: `ConfigError` for a header that :func:`check_header` refuses, `InvalidKeyError` for a target not quoted.
    """
    check_headers(headers)
    if not (path.isascii() and query.isascii() and region.isascii()):
        raise InvalidKeyError("path, query and region must be ASCII: quote them first")
    timestamp = _timestamp(int(now))
    added = {"x-amz-content-sha256": payload_hash, "x-amz-date": timestamp}
    if credentials.token:
        added["x-amz-security-token"] = credentials.token
    values = {**headers, **added}
    names, signed = _signed_names(tuple(values))
    lines = "".join([f"{name}:{' '.join(values[name].split())}\n" for name in names])
    request = f"{method}\n{path}\n{query}\n{lines}\n{signed}\n{payload_hash}"
    signed_by = signature(request, secret=credentials.secret_key, timestamp=timestamp, region=region, service=service)
    added["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{timestamp[:8]}/{region}/{service}/aws4_request, "
        f"SignedHeaders={signed}, Signature={signed_by}"
    )
    return added
