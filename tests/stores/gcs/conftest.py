"""Servers that speak Google's API."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from ...servers.gcs import GCSServer, fake_gcs, gcp_emulator

pytest.register_assert_rewrite("tests.stores.conformance")


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GCSServer]:
    """fake-gcs-server. Where it cannot start the tests fail: none is skipped."""
    with fake_gcs() as server:
        yield server


@pytest.fixture(scope="session")
def second_server() -> Iterator[GCSServer]:
    """gcp-storage-emulator, likewise."""
    with gcp_emulator() as server:
        yield server


def fresh_bucket(server: GCSServer) -> str:
    """The name of a new, empty bucket."""
    name = f"test-{uuid.uuid4()}"
    server.create_bucket(name)
    return name
