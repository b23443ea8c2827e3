"""Which account, container and host a URI means: pure.

Three spellings. `az://container/key` is for the account that the environment names; `az://account/container/key` for
where it names none; `abfss://container@account.dfs.core.windows.net/key`, that of Hadoop and Spark, names everything.
So which of the first two a URI is depends on the environment alone, never on what exists.

Sources: "Naming and Referencing Containers, Blobs, and Metadata" and "Storage account endpoints" in the Azure Storage
documentation; "Use the Azure Data Lake Storage URI".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import NamedTuple

from ...auth.azure import AzureAccount
from ...errors import ConfigError, ErrorContext, InvalidKeyError, InvalidUriError
from ...transport.endpoint import Endpoint, parse_endpoint
from ...transport.http1 import quote_path
from ..store import check_key

_ACCOUNT = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_CONTAINER = re.compile(r"\$(?:root|web|logs)|(?=.{3,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*")
_CLOUDS = (
    "core.windows.net",
    "core.chinacloudapi.cn",
    "core.usgovcloudapi.net",
    "storage.azure.net",
    "fabric.microsoft.com",
)
"""What hosts of Azure Storage end in. A URI cannot send credentials anywhere else."""

_HOST = re.compile(rf"({_ACCOUNT.pattern})((?:\.z[0-9]+)?)\.(?:dfs|blob)\.({'|'.join(map(re.escape, _CLOUDS))})")
_NO_DOMAIN = re.compile(r"[^.]+|[0-9.]+|.*:.*")


ACCOUNT_IN_URI = "the first part of the URI is taken for the account where AZURE_STORAGE_ACCOUNT_NAME is not set"
_EMULATOR_ACCOUNT = "devstoreaccount1"


def is_azure(server: Endpoint) -> bool:
    """Whether the host is one of Azure Storage's."""
    return server.host.endswith(tuple(f".{cloud}" for cloud in _CLOUDS))


class Address(NamedTuple):
    """What a URI's first part names; `None` is left to the environment."""

    container: str
    account: str | None = None
    host: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """How one container is reached: below the endpoint, blobs are at `path`, a slash, and the quoted key.

    `account_in_uri` is whether only the first part of the URI says what the account is.
    """

    endpoint: Endpoint
    path: str
    container: str
    account: str | None
    account_in_uri: bool = False

    def path_of(self, container: str | None) -> str:
        """The path of another container of the account. Errors: `InvalidUriError` for what is no container's name."""
        return self.path if container is None else f"/{quote_path(_check_container(container))}"

    def url(self, path: str) -> str:
        """A path below this endpoint as a URL."""
        return f"{self.endpoint}{path}"


def split_uri(rest: str, account: str | None) -> tuple[str, str]:
    """What follows `://` in a URI, cut into what names the container and the key, which may be empty.

    `account` is the one that the environment names. Errors: `InvalidUriError`.
    """
    first, _, key = rest.partition("/")
    if "@" in first or account is not None:
        return first, key
    container, _, key = key.partition("/")
    if not container:
        raise InvalidUriError(
            f"az://{first} names no container: set AZURE_STORAGE_ACCOUNT_NAME to the account, "
            "or write az://account/container"
        )
    return f"{first}/{container}", key


def parse_address(bucket: str) -> Address:
    """What names a container, in any of the three spellings, without a scheme. Errors: `InvalidUriError`."""
    if "@" in bucket:
        container, _, host = bucket.partition("@")
        match = _HOST.fullmatch(host)
        if match is None:
            raise InvalidUriError(
                "not container@account.dfs.SUFFIX, with a SUFFIX of Azure's such as core.windows.net; "
                "for other hosts set AZURE_BLOB_ENDPOINT_URL and write az://container"
            )
        return Address(_check_container(container), match[1], f"{match[1]}{match[2]}.blob.{match[3]}")
    account, slash, container = bucket.rpartition("/")
    if not slash:
        return Address(_check_container(container))
    if not _ACCOUNT.fullmatch(account):
        raise InvalidUriError(f"not the name of a storage account: {account!r}; {ACCOUNT_IN_URI}")
    return Address(_check_container(container, f"; {ACCOUNT_IN_URI}"), account)


def _check_container(name: str, hint: str = "") -> str:
    if not _CONTAINER.fullmatch(name):
        raise InvalidUriError(f"not the name of a container: {name!r}{hint}", ErrorContext(bucket=name))
    return name


def route(address: Address, account: AzureAccount) -> Route:
    """The route to a container, where `account` is the environment's. Errors: `ConfigError`.

    Credentials and an endpoint that belong to a named account are not used for another one. A server without a domain
    name, such as an emulator, has its accounts in the path: they may be left out of the endpoint.
    """
    name = address.account or account.name
    if account.name and name != account.name and (account.endpoint or account.key or account.sas):
        raise ConfigError(f"the URI is about account {name!r}, the settings are about {account.name!r}")
    if account.endpoint:
        server = parse_endpoint(account.endpoint)
        if name and not server.prefix and _NO_DOMAIN.fullmatch(server.host):
            server = replace(server, prefix=f"/{name}")
    else:
        server = Endpoint("https", address.host or _host(name), 443)
    in_uri = account.name is None and address.account is not None and address.host is None
    return Route(server, f"/{quote_path(address.container)}", address.container, name, in_uri)


def check_secrecy(server: Endpoint, account: AzureAccount) -> None:
    """Whoever reads a SAS on the way can use it; an account's key only signs. Everybody knows that of the emulator.

    Errors: `ConfigError`.
    """
    sent = account.sas is not None and account.key is None and account.name != _EMULATOR_ACCOUNT
    if sent and not server.confidential:
        raise ConfigError(
            f"the SAS of AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING is not sent in clear to another "
            f"host: {server}; use https"
        )


def _host(account: str | None) -> str:
    if account is None or not _ACCOUNT.fullmatch(account):
        raise ConfigError(f"not the name of a storage account, in AZURE_STORAGE_ACCOUNT_NAME: {account!r}")
    return f"{account}.blob.core.windows.net"


def check_name(key: str) -> str:
    """A key that is the name of one blob. Errors: `InvalidKeyError`.

    The service resolves `.` and `..` as in a file's path and reads a backslash as a slash, so that such a key would
    lead to another blob.
    """
    check_key(key)
    if "\\" in key or not {".", ".."}.isdisjoint(key.split("/")):
        raise InvalidKeyError(
            "a blob's name cannot have a backslash, or a part that is '.' or '..'", ErrorContext(key=key)
        )
    return key
