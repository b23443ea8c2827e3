"""A bucket for tests that leave nothing behind: making one takes this server longer than most tests do."""

from __future__ import annotations

import pytest

from ..servers.seaweedfs import SeaweedFS


@pytest.fixture(scope="session")
def shared_bucket(s3_server: SeaweedFS) -> str:
    """The name of a bucket that every test finds empty, and empties."""
    s3_server.create_bucket("shared-by-tests")
    return "shared-by-tests"


@pytest.fixture(scope="session")
def second_bucket(s3_server: SeaweedFS) -> str:
    """The name of another such bucket."""
    s3_server.create_bucket("second.shared-by-tests")
    return "second.shared-by-tests"
