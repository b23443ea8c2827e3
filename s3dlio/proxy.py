"""Which HTTP proxy leads to a server: the one that :attr:`.config.Config.proxy` names, else the environment's.

The environment is read as urllib and botocore read it: `https_proxy` is for https servers, `http_proxy` for http ones,
and `all_proxy`, which those two do not know, for what is left. Each is looked for in lower case first, then in upper
case, where `HTTP_PROXY` does not count for a CGI program, whose clients could set it (RFC 3875 section 4.1.18).
`no_proxy` lists servers to be asked directly, see :func:`is_listed`; a proxy of the settings is for all servers.

A URL may hold a password. It is a :class:`ProxyUrl` in every frame that an error passes.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any
from urllib.parse import unquote, urlsplit

from .errors import ConfigError

_DEFAULT_PORT = 80
_NONE = frozenset({"", "none"})
_UNSUPPORTED = ("https", "socks", "socks4", "socks4a", "socks5", "socks5h")
_HOST = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_.])?|[0-9a-f.]*:[0-9a-f:.]*")
_ENTRY = re.compile(r"(?:\[(.*)\]|([^:]*))(?::([0-9]{1,5}))?")


class ProxyUrl(str):
    """A proxy's URL, or `none`. Its `repr` shows neither user nor password; it is pickled with them."""

    __slots__ = ()

    def __repr__(self) -> str:
        _, at, shown = self.rpartition("@")
        return repr(f"***@{shown}" if at else str(self))


def hide_proxy(settings: dict[str, Any]) -> None:
    """Have no frame with these settings of a :class:`.config.Config` show a proxy's password."""
    if isinstance(settings.get("proxy"), str):
        settings["proxy"] = ProxyUrl(settings["proxy"])


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that is reached in clear. `authorization` is what the header `Proxy-Authorization` has to say."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)

    @property
    def authority(self) -> str:
        """Host and port, with brackets around IPv6."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"http://{self.authority}"


def proxy_for(scheme: str, host: str, port: int, setting: str | None) -> Proxy | None:
    """The proxy for a server, `None` for none. `setting` is :attr:`.config.Config.proxy`.

    Errors: `ConfigError`.
    """
    if setting is not None:
        return parse_proxy(setting, "proxy")
    url, direct = _in_environment(scheme)
    if any(is_listed(entry, host, port) for entry in re.split(r"[\s,]+", direct)):
        return None
    return parse_proxy(url, f"{scheme}_proxy or all_proxy")


def _in_environment(scheme: str) -> tuple[ProxyUrl, str]:
    """The proxy's URL, and `no_proxy`; what is not there is empty."""
    from urllib.request import getproxies  # it takes as long to import as all of our settings

    found = getproxies()
    return ProxyUrl(found.get(scheme) or found.get("all", "")), found.get("no", "")


def is_listed(entry: str, host: str, port: int) -> bool:
    """Whether a server is meant by this entry of `no_proxy`.

    An entry is `*`, which means all; a domain, which means its subdomains, too, whether or not it begins with a dot or
    `*.`; an IP address; or a block of addresses, which means servers that are named by such an address: no name is
    looked up. After a colon may follow the only port that is meant; IPv6 addresses are in brackets then.
    """
    match = _ENTRY.fullmatch(entry)
    name, only = (match[1] or match[2], match[3]) if match else (entry, None)
    if not name or (only is not None and int(only) != port):
        return False
    address = _address(host)
    if name == "*" or address is None:
        domain = name.lower().removeprefix("*").strip(".")
        return name == "*" or f".{host.lower().rstrip('.')}".endswith(f".{domain}")
    try:
        return address in ip_network(name, strict=False)
    except ValueError:
        return False


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def parse_proxy(url: str, source: str) -> Proxy | None:
    """The proxy at `http://[user:password@]host[:port]`; `None` where `url` is empty or `none`.

    Without a scheme `http://` is meant, without a port 80. User and password are percent-encoded. Errors:
    `ConfigError`, which names `source`, and shows nothing of the URL.
    """
    url = ProxyUrl(url.strip())
    if url.lower() in _NONE:
        return None
    for scheme in _UNSUPPORTED:
        if url.lower().startswith(f"{scheme}://"):
            raise ConfigError(f"{source} names a proxy that is reached by {scheme}: only http is supported")
    proxy = _parse(url)
    if proxy is None:
        raise ConfigError(f"{source} must be http://[user:password@]host[:port], user and password quoted, or none")
    return proxy


def _parse(url: str) -> Proxy | None:
    """`None` for what is no such URL: an error would show the password in this frame."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname or "", parts.port
        authorization = _basic(parts.username, parts.password or "")
    except ValueError:
        return None
    whole = parts.scheme == "http" and not (parts.path.strip("/") or parts.query or parts.fragment)
    if not whole or port == 0 or not _HOST.fullmatch(host):
        return None
    return Proxy(host, port or _DEFAULT_PORT, authorization)


def _basic(user: str | None, password: str) -> str | None:
    """Source: RFC 7617 section 2."""
    if user is None:
        return None
    return f"Basic {base64.b64encode(f'{unquote(user)}:{unquote(password)}'.encode()).decode()}"
