"""A fault server, and stores that talk to it."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from types import ModuleType
from typing import Any

import pytest

from s3dlio.auth.sigv4 import CredentialsProvider
from s3dlio.config import Config
from s3dlio.stores.s3.store import S3Store
from s3dlio.transport.pump_code import wait_for_code
from s3dlio.transport.tls import openssl_functions

from ..canary import CANARY
from ..servers.faults import FaultServer, fault_server

BUCKET = "bucket"
ROOT = f"/{BUCKET}/"
DATA = bytes(range(256)) * 40
SECRET = f"{CANARY}/with+signs="
TOKEN = f"token-{CANARY}"

MakeStore = Callable[..., S3Store]


@pytest.fixture(autouse=True)
def static_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    """With one object, `key`, of :data:`DATA`."""
    async with fault_server() as running:
        running.objects[f"{ROOT}key"] = DATA
        yield running


@pytest.fixture
async def make_store(server: FaultServer) -> AsyncIterator[MakeStore]:
    """Makes stores of one bucket at the fault server, or at another `endpoint`; the settings are `Config`'s."""
    async with AsyncExitStack() as stack:

        def make(credentials: CredentialsProvider | None = None, **settings: Any) -> S3Store:
            chosen: dict[str, Any] = {"endpoint": server.endpoint, "max_attempts": 3, **settings}
            store = S3Store(BUCKET, Config(**chosen), credentials)
            stack.push_async_callback(store.aclose)
            return store

        yield make


@pytest.fixture
async def store(make_store: MakeStore) -> S3Store:
    return make_store()


@pytest.fixture(scope="session")
def compiled_pump_for_tls() -> None:
    """As for the other one, which way is tested is known."""
    if functions := openssl_functions():
        wait_for_code(120, functions)


@pytest.fixture
def openssl() -> ModuleType:
    """What works with pyOpenSSL: the run that hides that says so."""
    found: ModuleType = pytest.importorskip("s3dlio.transport.openssl", reason="pyOpenSSL is hidden, or not installed")
    return found


@pytest.fixture(params=["openssl", "ssl"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whose TLS it is."""
    if request.param == "openssl":
        request.getfixturevalue("openssl")
    else:
        monkeypatch.setitem(sys.modules, "s3dlio.transport.openssl", None)
    return str(request.param)
