"""What every test gets: an environment without anybody's cloud account, and a real S3 server where it asks for one."""

from __future__ import annotations

import gc
import logging
import os
import signal
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from trio.testing import MockClock

from s3dlio.transport.pump_code import wait_for_code

from .canary import Watch, watch_errors
from .servers.process import CLOUD_VARIABLES
from .servers.seaweedfs import SeaweedFS, seaweedfs

pytest_plugins = ["tests.disk", "tests.forked_stacks", "tests.places"]

_ALL_AT_DEBUG = "S3DLIO_TESTS_AT_DEBUG" in os.environ
_VIRTUAL_CLOCKS = frozenset({"clock", "autojump_clock", "mock_clock"})
_NETWORK_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_TRUST_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")


settings.register_profile("s3dlio", deadline=None)  # what a machine is busy with is no failure
settings.load_profile("s3dlio")


def pytest_configure() -> None:
    """Interrupts arrive, as tests send some: a shell's background jobs are started with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs under a virtual clock: the same in a run without compiled code, as the pump is off there."""
    for item in items:
        if _VIRTUAL_CLOCKS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("virtual_clock")


def pytest_collection_finish() -> None:
    """What was imported stays out of the collector's way: many tests collect, and would look through all of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials, no endpoint, no proxy, no profile files, no metadata service."""
    for name in list(os.environ):
        if name.startswith(CLOUD_VARIABLES) or name.upper() in (*_NETWORK_VARIABLES, *_TRUST_VARIABLES):
            monkeypatch.delenv(name)
    absent = Path(os.devnull) / "absent"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(absent))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(absent))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(absent))
    monkeypatch.setenv("NO_GCE_CHECK", "true")


@pytest.fixture(scope="session")
def canary_watch() -> Watch:
    """What looks for secrets in all that is logged, which is all that can be, and in errors."""
    watch = Watch()
    logging.getLogger("s3dlio").addHandler(watch)
    watch_errors(watch)
    return watch


@pytest.fixture(autouse=True)
def no_secret_is_told(canary_watch: Watch, request: pytest.FixtureRequest) -> Iterator[None]:
    """Every other test runs at DEBUG, always the same ones; all of them with `S3DLIO_TESTS_AT_DEBUG=1`.

    To be logged is to be observed: the others take the way where nobody looks.
    """
    observed = _ALL_AT_DEBUG or zlib.crc32(request.node.nodeid.encode()) % 2
    logging.getLogger("s3dlio").setLevel(logging.DEBUG if observed else logging.INFO)
    yield
    canary_watch.check()


@pytest.fixture(scope="session", autouse=True)
def compiled_pump() -> bool:
    """Whether the pump's code is there: from the start of a run or never, so that it is known which way is tested."""
    return wait_for_code(120)


@pytest.fixture
def without_pump(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests under a virtual clock, which jumps when all tasks wait: it knows nothing of what a thread does."""
    monkeypatch.setattr("s3dlio.transport.pump.pump_code", lambda openssl=None: None)


@pytest.fixture(autouse=True)
def no_pump_under_a_virtual_clock(request: pytest.FixtureRequest) -> None:
    if _VIRTUAL_CLOCKS.intersection(request.fixturenames):
        request.getfixturevalue("without_pump")


@pytest.fixture
def clock() -> MockClock:
    """Time that passes when nothing else happens; loopback traffic has 30 ms to get its turn, more where others run."""
    return MockClock(autojump_threshold=0.02 * min(max(1.5, os.getloadavg()[0]), 6))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[SeaweedFS]:
    """One server for the whole run. Where it cannot start the tests fail: none is skipped."""
    with seaweedfs() as server:
        yield server


@pytest.fixture
def bucket(s3_server: SeaweedFS) -> str:
    """The name of a fresh, empty bucket."""
    name = f"test-{uuid.uuid4()}"
    s3_server.create_bucket(name)
    return name


@pytest.fixture
def s3_environment(s3_server: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> SeaweedFS:
    """The server, with the environment set so that every client finds it."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server
