"""`s3dlio doctor`: what was found on this machine, what one request gave, and what to do about it.

No secret is shown: of credentials where they come from, of a proxy where it is.
"""

from __future__ import annotations

import platform
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import Field, fields, replace
from importlib.metadata import PackageNotFoundError, version
from os import environ
from typing import Any
from urllib.parse import urlsplit

import trio

from ..alignment.compiled import directory
from ..auth.aws import aws_profile, credentials_source
from ..config import Config
from ..errors import StoreError
from ..model import ListOptions
from ..proxy import ProxyUrl, proxy_for
from ..transport.pump_code import wait_for_code
from ..transport.tls import openssl_functions
from ..urls import Uri, open_store, parse_uri
from ..version import __version__
from .codes import OK, code_of
from .diagnosis import Finding, Way, of_error, of_success, of_torch
from .output import emit, printable
from .places import uri_of

_LINK = 2.0
"""Seconds that compiled code is given to be linked, where it is kept."""


def doctor(arguments: Namespace) -> int:
    """Tell all findings; the exit code is that of the first that failed."""
    code = OK
    for finding, error in _findings(uri_of(arguments.uri) if arguments.uri else None):
        emit(finding._asdict(), _text(finding), as_json=arguments.json)
        code = code or (OK if error is None else code_of(error))
    return code


def _text(finding: Finding) -> str:
    mend = f"\n{'':8}mend: {finding.mend}" if finding.mend else ""
    return f"{finding.state:6}  {finding.about}: {printable(finding.found)}{mend}"


def _findings(uri: str | None) -> Iterator[tuple[Finding, StoreError | None]]:
    """What was found, and the error that showed it."""
    yield from ((each, None) for each in _installed())
    scheme = uri.partition("://")[0] if uri else "s3"
    try:
        config = Config()
        yield from ((each, None) for each in _settings(config))
        if scheme == "s3":
            yield from ((each, None) for each in _profile(config))
        parsed = parse_uri(uri, config) if uri else None
        yield Finding("credentials", "ok", _credentials(scheme, config)), None
        if parsed is not None:
            yield from _tried(parsed, config)
    except StoreError as error:
        yield of_error(error, Way(scheme)), error


def _installed() -> Iterator[Finding]:
    yield Finding("s3dlio", "ok", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")
    yield of_torch(_version_of("torch"))
    place = directory()
    if wait_for_code(_LINK):
        yield Finding("kernels", "ok", f"compiled, in {place}")
    else:
        mend = "they are compiled in the background, once: ask again in a minute; or set S3DLIO_CACHE_DIR"
        yield Finding("kernels", "note", f"not compiled, so requests cost more; looked in {place}", mend)
    if openssl_functions():
        yield Finding("TLS", "ok", f"by pyOpenSSL {_version_of('pyopenssl')}")
    else:
        yield Finding("TLS", "note", "by Python's ssl, which costs more", "pip install --upgrade pyopenssl")


def _version_of(package: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(package)
    return None


def _settings(config: Config) -> Iterator[Finding]:
    """What the environment says, and the proxies. Errors: `ConfigError`."""
    for item in fields(config):
        if (name := _variable_of(item)) is not None:
            yield Finding(item.name, "ok", f"{_shown(getattr(config, item.name))}, by {name}")
    for scheme, port in (("https", 443), ("http", 80)):
        if (proxy := proxy_for(scheme, "storage.invalid", port, config.proxy)) is not None:
            yield Finding(f"{scheme} proxy", "ok", str(proxy))


def _profile(config: Config) -> Iterator[Finding]:
    """What the profile says that the environment leaves open. Errors: `ConfigError`, `ProfileNotFoundError`."""
    profile = aws_profile(config)
    said = {"region": profile.region, "endpoint": profile.endpoint_url, "ca_bundle": profile.ca_bundle}
    for name, value in said.items():
        if value and not getattr(config, name):
            yield Finding(name, "ok", f"{'...' if '@' in value else value}, by the profile")


def _variable_of(item: Field[Any]) -> str | None:
    variables = item.metadata.get("variables", ())
    return next((name for name in variables if environ.get(name, "").strip()), None)


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, ProxyUrl) else str(value)


def _credentials(scheme: str, config: Config) -> str:
    """Where they come from. Errors: `StoreError`."""
    if config.anonymous and scheme in ("s3", "gs", "az", "abfss"):
        return "none: requests are not signed"
    if scheme == "gs":
        from ..auth.google import google_source

        return google_source()
    if scheme in ("az", "abfss"):
        from ..auth.azure import azure_source

        return azure_source(config)
    return credentials_source(config) if scheme == "s3" else "none needed"


def _tried(uri: Uri, config: Config) -> Iterator[tuple[Finding, StoreError | None]]:
    attempts: list[dict[str, Any]] = []
    failure: StoreError | None = None
    try:
        trio.run(_list_one, uri, _impatient(config), attempts)
    except StoreError as error:
        failure = error
    asked = [*dict.fromkeys(each["endpoint"] for each in attempts)]
    way = Way(uri.scheme, _proxy_of(asked, config), config.region)
    where = f"{uri}, of {', '.join(asked)}" if asked else str(uri)
    if failure is not None:
        yield of_error(failure, way), failure
        return
    by = f", by the proxy {way.proxy}" if way.proxy else ""
    yield Finding("request", "ok", f"listed {where}{by}"), None
    yield from ((each, None) for each in of_success(attempts, way))


def _impatient(config: Config) -> Config:
    return replace(config, max_attempts=1, connect_timeout=10.0, stall_timeout=10.0, request_timeout=30.0)


async def _list_one(uri: Uri, config: Config, attempts: list[dict[str, Any]]) -> None:
    """One request, for at most one object: an answer to a listing tells its reasons, one to HEAD does not."""

    def note(event: str, info: dict[str, Any]) -> None:
        if event in ("attempt.complete", "attempt.failed"):
            attempts.append(info)

    async with open_store(replace(uri, key=""), config, trace=note) as store:
        await store.list_page(uri.key, ListOptions(limit=1))


def _proxy_of(endpoints: list[str], config: Config) -> str | None:
    for endpoint in map(urlsplit, endpoints):
        port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
        proxy = proxy_for(endpoint.scheme, endpoint.hostname or "", port, config.proxy)
        if proxy is not None:
            return str(proxy)
    return None
