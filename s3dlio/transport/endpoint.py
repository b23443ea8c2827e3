"""Where requests go: a host, a port, TLS or not, what the `Host` header says, and the proxy that leads there."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import ip_address
from urllib.parse import urlsplit

from ..errors import ConfigError
from ..proxy import Proxy, proxy_for

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_.])?|[0-9a-f.]*:[0-9a-f:.]*")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~%!$&'()*+,;=:-]*)*")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server as clients name it. `prefix` is a path that all requests start with, without a trailing slash.

    `at` is one address of several that the host has, where this is the server at just that one.
    """

    scheme: str
    host: str
    port: int
    prefix: str = ""
    proxy: Proxy | None = None
    at: str | None = None

    @property
    def tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """The `Host` header's value: brackets around IPv6, the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def address(self) -> str:
        """The name or address to connect to. Names under `localhost` mean this host (RFC 6761 section 6.3)."""
        return self.at or ("localhost" if self.host.endswith(".localhost") else self.host)

    @property
    def peer(self) -> tuple[str, int]:
        """The name or address and the port to connect to: those of the proxy where there is one."""
        return (self.address, self.port) if self.proxy is None else (self.proxy.host, self.proxy.port)

    @property
    def has_name(self) -> bool:
        """Whether the host is a name, whose addresses are looked up here."""
        elsewhere = self.at is not None or self.proxy is not None or self.address == "localhost"
        return not (elsewhere or is_address(self.host))

    @property
    def confidential(self) -> bool:
        """Whether nobody on the way can read what is sent there: it is encrypted, or does not leave this machine."""
        if self.tls or self.proxy is not None:
            return self.tls
        if self.address == "localhost":
            return True
        return is_address(self.host) and ip_address(self.host).is_loopback

    def __str__(self) -> str:
        url = f"{self.scheme}://{self.authority}{self.prefix}"
        return url if self.at is None else f"{url} at {self.at}"


def is_address(host: str) -> bool:
    """Whether it is an IP address."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def parse_endpoint(url: str) -> Endpoint:
    """An endpoint from `http(s)://host[:port][/prefix]`. Errors: `ConfigError`."""
    if "@" in url:
        raise ConfigError("an endpoint URL must not hold a user or password")
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _malformed(url) from None
    if parts.query or parts.fragment:
        raise ConfigError("an endpoint URL must not hold a query or fragment")
    if parts.scheme not in _PORTS or port == 0 or not (_HOST.fullmatch(host) and _PREFIX.fullmatch(parts.path)):
        raise _malformed(url)
    return Endpoint(parts.scheme, host, port or _PORTS[parts.scheme], parts.path.rstrip("/"))


def by_proxy(endpoint: Endpoint, setting: str | None) -> Endpoint:
    """The endpoint, with the proxy that leads there: see :func:`s3dlio.proxy.proxy_for`. Errors: `ConfigError`."""
    return replace(endpoint, proxy=proxy_for(endpoint.scheme, endpoint.host, endpoint.port, setting))


def _malformed(url: str) -> ConfigError:
    return ConfigError(f"an endpoint must be http://host[:port] or https://host[:port], not {url!r}")
