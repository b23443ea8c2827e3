"""AWS Signature Version 4 for S3: pure functions, and the signer that applies them.

Source: "Signature Calculations for the Authorization Header: Transferring Payload in a Single Chunk" in the Amazon S3
API Reference. S3 differs from other services in two points: the path is quoted once and never normalised, and the
payload's hash is sent as a header, which is set by whoever makes the request.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from hashlib import sha256
from typing import NoReturn, Protocol

from ..errors import InvalidKeyError
from .signer import FAR_OFF, ServerClock, check_headers

EMPTY_SHA256 = sha256(b"").hexdigest()
"""The payload hash of a request without a body."""

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
"""Stands for the payload hash where the body is not part of the signature."""

PAYLOAD_HASH = "x-amz-content-sha256"
"""The header that says what the signature covers of the body."""

_TOKEN = "x-amz-security-token"
_SIGNED = frozenset({"host", "content-type", "content-md5"})
_REJECTED = frozenset({"ExpiredToken", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId"})
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestExpired"})


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


@lru_cache(maxsize=1024)
def _signed_names(names: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Of these headers, those that are signed, in order, and the same joined; a proxy may change the others."""
    signed = tuple(sorted(name for name in names if name in _SIGNED or name.startswith("x-amz-")))
    return signed, ";".join(signed)


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
    credentials: Credentials,
    region: str,
    now: float,
    service: str = "s3",
) -> dict[str, str]:
    """The headers that make a request an authorised one; add them to `headers`.

    `path` and `query` come from :func:`.http1.quote_path` and :func:`.http1.quote_query`; names of `headers` are lower
    case, `host` and `x-amz-content-sha256` are among them; `now` is in POSIX seconds. Signed are `host`,
    `content-type`, `content-md5` and every `x-amz-*`. Errors: `ConfigError` for a header that
    :func:`.signer.check_header` refuses, `InvalidKeyError` for a target not quoted.
    """
    alike = PathSigner(method, query, headers, credentials, region, now, service)
    return {**alike.added, "authorization": alike.authorization(path)}


class PathSigner:
    """:func:`sign`, for requests that differ in their paths alone. `added` are the headers that all of them get."""

    def __init__(
        self,
        method: str,
        query: str,
        headers: Mapping[str, str],
        credentials: Credentials,
        region: str,
        now: float,
        service: str = "s3",
        token_header: str = _TOKEN,
    ) -> None:
        check_headers(headers)
        if not (query.isascii() and region.isascii()):
            raise _not_quoted()
        timestamp = _timestamp(int(now))
        self.added = {"x-amz-date": timestamp}
        if credentials.token:
            self.added[token_header] = credentials.token
        values = {**headers, **self.added}
        names, signed = _signed_names(tuple(values))
        lines = "".join([f"{name}:{' '.join(values[name].split())}\n" for name in names])
        self._before, self._after = f"{method}\n", f"\n{query}\n{lines}\n{signed}\n{headers[PAYLOAD_HASH]}"
        self._sign = partial(
            signature, secret=credentials.secret_key, timestamp=timestamp, region=region, service=service
        )
        scope = f"{credentials.access_key}/{timestamp[:8]}/{region}/{service}/aws4_request"
        self._named = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={signed}, Signature="

    def authorization(self, path: str) -> str:
        """The `authorization` header of the request for `path`. Errors: `InvalidKeyError` where it is not quoted."""
        if not path.isascii():
            raise _not_quoted()
        return self._named + self._sign(f"{self._before}{path}{self._after}")


def _not_quoted() -> InvalidKeyError:
    return InvalidKeyError("path, query and region must be ASCII: quote them first")


class CredentialsProvider(Protocol):
    """Gives out credentials to sign with. Belongs to one Trio run at a time."""

    async def get(self) -> Credentials | None:
        """The credentials of this moment; `None` means anonymous. Errors: `PermissionDeniedError` and below."""

    async def refresh(self, rejected: Credentials) -> bool:
        """The server refused `rejected` as expired: fetch anew. Whether there are different ones now."""


class SigV4Signer:
    """Signs for S3 in one `region`, which may be set anew, with what `provider` gives.

    `service` is what is signed for, and `token_header` where a token goes.

    Requests signed before a change of credentials are answered for a while after it: they are worth another try
    without anything being learned.
    """

    def __init__(
        self,
        provider: CredentialsProvider,
        region: str,
        clock: Callable[[], float] = time.time,
        *,
        service: str = "s3",
        token_header: str = _TOKEN,
    ) -> None:
        self.region = region
        self._service = service
        self._token_header = token_header
        self._provider = provider
        self._clock = clock
        self._server = ServerClock(clock)
        self._current: Credentials | None = None
        self._changed_at = self._in_vain_at = float("-inf")

    async def sign(self, method: str, path: str, query: str, headers: dict[str, str]) -> str:
        """Add the headers of :func:`sign`; none where access is anonymous. Errors: its, and the provider's."""
        alike = await self.sign_paths(method, query, headers)
        if alike is not None:
            headers["authorization"] = alike.authorization(path)
        return query

    async def sign_paths(self, method: str, query: str, headers: dict[str, str]) -> PathSigner | None:
        """What signs requests that differ in their paths alone; `None` where access is anonymous.

        All that they have in common is added to `headers`. Errors: as in :meth:`sign`.
        """
        credentials = await self._provider.get()
        headers.pop(self._token_header, None)
        if credentials is None:
            headers.pop(PAYLOAD_HASH, None)
            check_headers(headers)
            return None
        self._note(credentials)
        now = self._server.now()
        alike = PathSigner(method, query, headers, credentials, self.region, now, self._service, self._token_header)
        headers.update(alike.added)
        return alike

    async def recover(self, code: str | None, status: int, headers: Mapping[str, str]) -> bool:
        """New credentials where the old ones were refused, a new clock offset where the time was."""
        rejected = self._current
        if rejected is None:
            return False
        if code in _REJECTED:
            return self._just_changed() or await self._provider.refresh(rejected)
        if code is None and status == 400 and rejected.token and self._is_ours(headers):
            return self._just_changed() or await self._look_for_newer(rejected)
        if code in _SKEWED or (code is None and status == 403):
            return self._server.learn(headers.get("date", "")) or self._just_changed()
        return False

    def _is_ours(self, headers: Mapping[str, str]) -> bool:
        return headers.get("x-amz-bucket-region", self.region) == self.region

    async def _look_for_newer(self, rejected: Credentials) -> bool:
        """The refusal of a HEAD has no text: it may be of an expired token, or of something that stays refused."""
        if self._clock() - self._in_vain_at < FAR_OFF:
            return False
        newer = await self._provider.refresh(rejected)
        if not newer:
            self._in_vain_at = self._clock()
        return newer

    def _note(self, credentials: Credentials) -> None:
        if credentials is not self._current:
            if self._current is not None:
                self._changed_at = self._clock()
            self._current = credentials

    def _just_changed(self) -> bool:
        return abs(self._clock() - self._changed_at) < FAR_OFF

    def __repr__(self) -> str:
        return f"SigV4Signer(region={self.region!r})"
