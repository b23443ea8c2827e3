"""A container on a real Azurite, and the environment that leads there."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from ...servers.azurite import Azurite, azurite


@pytest.fixture(scope="session")
def azure_server() -> Iterator[Azurite]:
    """One server for the whole run. Where it cannot start the tests fail: none is skipped."""
    with azurite() as server:
        yield server


@pytest.fixture
def azure_environment(azure_server: Azurite, monkeypatch: pytest.MonkeyPatch) -> Azurite:
    """The server, with the environment set so that every store finds it."""
    for name, value in azure_server.environment().items():
        monkeypatch.setenv(name, value)
    return azure_server


@pytest.fixture
def container(azure_environment: Azurite) -> str:
    """The name of a fresh, empty container."""
    name = f"test-{uuid.uuid4()}"
    azure_environment.create_container(name)
    return name
