"""Where Google's access tokens come from.

A credentials file (a service account, a person's own from `gcloud`, workload identity) is google-auth's work: imported
on first use, run in a thread. The file is read anew each time, so that a changed one is seen. Where there is no file,
the metadata server of the machine is asked. :class:`.refreshing.SharedCredentials` keeps what was found fresh.

Source: "How Application Default Credentials works"; "Access tokens" under "VM metadata".
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, Request

from ..errors import ConfigError, ConnectionFailedError, NoCredentialsError, PermissionDeniedError, StoreError
from ..proxy import proxy_for
from .bearer import Token, TokenProvider
from .environment import environment_mark
from .refreshing import SharedCredentials
from .signer import fits_header

SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"

_TIMEOUT = 120.0
_METADATA_HOST = "metadata.google.internal"
_METADATA_TIMEOUT = 3.0
_METADATA_TRIES = 3
_METADATA_PAUSE = 1.0
"""Seconds between tries: the metadata server of a new pod needs some before it answers."""


def google_credentials(proxy: str | None = None) -> TokenProvider:
    """Application default credentials, kept fresh for all stores. Reads environment, files, networks on first use.

    `proxy` is :attr:`..config.Config.proxy`.
    """
    return SharedCredentials(partial(load_token, proxy), partial(_what_decides, proxy))


def _what_decides(proxy: str | None) -> tuple[object, ...]:
    """All that the outcome of the search depends on, but for services."""
    path = _credentials_file()
    try:
        written = os.stat(path).st_mtime_ns if path else None
    except OSError:
        written = None
    return "google", proxy, environment_mark(), path, written


def load_token(proxy: str | None = None) -> Token:
    """A fresh token. Blocking: reads files, asks the token endpoint or the metadata server.

    Errors: `ConfigError` for a file that cannot be used, `NoCredentialsError`, `PermissionDeniedError` where the token
    endpoint refuses, `ConnectionFailedError` where it cannot be reached.
    """
    path = _credentials_file()
    return _from_metadata_server() if path is None else _from_file(path, proxy)


def google_source() -> str:
    """Where the credentials come from, in words that tell nothing of them."""
    return _credentials_file() or "the metadata server, when they are needed"


def _credentials_file() -> str | None:
    """The file to use; `None` where nothing names one and `gcloud` left none."""
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if named:
        return named
    folder = os.environ.get("CLOUDSDK_CONFIG") or "~/.config/gcloud"
    path = Path(folder).expanduser() / "application_default_credentials.json"
    return str(path) if path.is_file() else None


def _from_file(path: str, proxy: str | None) -> Token:
    """By google-auth, which looks for the file in the same places."""
    failure: StoreError
    try:
        import google.auth

        ask: Any = partial(_ask_for_google, proxy)
        credentials, _ = google.auth.default(scopes=[SCOPE], request=ask)
        credentials.refresh(ask)
        return _token(credentials)
    except Exception as error:
        failure = _translate(error, path)
    raise failure


def _token(credentials: Any) -> Token:
    headers: dict[str, str] = {}
    credentials.apply(headers)
    expiry = credentials.expiry
    expires_at = expiry.replace(tzinfo=UTC).timestamp() if expiry is not None else None
    return Token({name.lower(): value for name, value in headers.items()}, expires_at)


def _translate(error: Exception, path: str) -> StoreError:
    """One of ours for an error of google-auth. To be raised when that is handled, and not chained: it may hold a key.

    Texts that quote a server are not repeated, but for the error code of OAuth (RFC 6749 section 5.2).
    """
    from google.auth import exceptions

    match error:
        case StoreError():
            return error
        case exceptions.DefaultCredentialsError():
            return ConfigError(f"the credentials file {path!r} cannot be used: {error.args[0]}")
        case exceptions.RefreshError():
            return PermissionDeniedError(f"no token for the credentials in {path!r}: {_oauth_code(error)}")
        case exceptions.TransportError():
            return ConnectionFailedError(f"no token for the credentials in {path!r}: {error}")
        case ValueError():
            return ConfigError(f"the credentials file {path!r} cannot be used: {type(error).__name__}")
        case _:
            return PermissionDeniedError(f"no token for the credentials in {path!r}: {type(error).__name__}")


def _oauth_code(error: Exception) -> str:
    said = next((part for part in error.args if isinstance(part, dict)), {})
    code = said.get("error")
    return f"the token endpoint says {code}" if isinstance(code, str) else type(error).__name__


def _from_metadata_server() -> Token:
    answer = None if os.environ.get("NO_GCE_CHECK", "").lower() == "true" else _ask_metadata_server()
    if answer is None or answer.status == 404 or answer.headers.get("metadata-flavor") != "Google":
        raise NoCredentialsError(
            "no credentials found; looked at GOOGLE_APPLICATION_CREDENTIALS, the file that `gcloud auth "
            "application-default login` makes, and the metadata server. For public data ask for anonymous access: "
            "Config(anonymous=True)"
        )
    if answer.status != 200:
        raise PermissionDeniedError(f"no token: the metadata server answered {answer.status}")
    token = _read_token(answer.data, time.time())
    if token is None:
        raise PermissionDeniedError("no token: the metadata server's answer is not one")
    return token


def _read_token(data: bytes, now: float) -> Token | None:
    """A token from the metadata server's answer; `None` where it is not one."""
    try:
        said = json.loads(data)
        token, expires_at = said["access_token"], now + float(said["expires_in"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    sound = isinstance(token, str) and fits_header(token) and math.isfinite(expires_at)
    return Token({"authorization": f"Bearer {token}"}, expires_at) if sound else None


def _ask_metadata_server() -> _Answer | None:
    host = os.environ.get("GCE_METADATA_HOST") or _METADATA_HOST
    url = f"http://{host}/computeMetadata/v1/instance/service-accounts/default/token"
    answer: _Answer | None = None
    for left in reversed(range(_METADATA_TRIES)):
        try:
            answer = _ask(url, headers={"metadata-flavor": "Google"}, timeout=_METADATA_TIMEOUT)
        except OSError:
            answer = None
        if answer is not None and not (answer.status >= 500 or answer.status == 429):
            break
        if left:
            time.sleep(_METADATA_PAUSE)
    return answer


@dataclass(frozen=True, slots=True)
class _Answer:
    """What google-auth expects of its transport: `headers` ignores case."""

    status: int
    headers: Any
    data: bytes = field(repr=False)


def _ask(
    url: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = None,
    proxy: str | None = None,
) -> _Answer:
    """One request, and its answer whatever its status; no redirect is followed. Errors: `OSError`, `ConfigError`.

    A proxy is for https alone: what is asked in clear is the machine's own metadata server.
    """
    opener = OpenerDirector()
    for handler in (HTTPHandler(), HTTPSHandler()):
        opener.add_handler(handler)
    request = Request(url, data=body, headers=dict(headers or {}), method=method)
    way = _set_proxy(request, proxy) if request.type == "https" else ""
    try:
        with opener.open(request, timeout=timeout or _TIMEOUT) as answer:
            return _Answer(answer.status, answer.headers, answer.read())
    except HTTPException as error:
        raise OSError(f"not an HTTP answer{way}: {type(error).__name__}") from None
    except OSError as error:
        raise OSError(f"{error}{way}") from None


def _set_proxy(request: Request, setting: str | None) -> str:
    """Have an https request sent through the tunnel of a proxy, where one leads there; what an error says of that."""
    parts = urlsplit(request.full_url)
    proxy = proxy_for("https", parts.hostname or "", parts.port or 443, setting)
    if proxy is None:
        return ""
    request.set_proxy(proxy.authority, "http")
    if proxy.authorization is not None:
        request.add_header("Proxy-Authorization", proxy.authorization)
    return f", by way of the proxy {proxy}"


def _ask_for_google(
    proxy: str | None,
    url: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = None,
    **_: object,
) -> _Answer:
    """:func:`_ask` as google-auth calls its transport. Errors: its `TransportError`."""
    from google.auth.exceptions import TransportError

    try:
        return _ask(url, method, body, headers, timeout, proxy)
    except OSError as error:
        raise TransportError(f"cannot reach the token endpoint: {error}") from None
