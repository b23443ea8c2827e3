"""That secrets are watched for: in every test, on every logger of ours, however they are told."""

from __future__ import annotations

import base64
import logging
from urllib.parse import quote

import pytest

from s3dlio.errors import ConfigError, ErrorContext, NotFoundError, StoreError

from .canary import AZURITE_KEY, CANARY, Watch
from .servers.seaweedfs import READERS_SECRET, SECRET


@pytest.fixture(autouse=True)
def at_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "s3dlio")


@pytest.fixture(params=["s3dlio", "s3dlio.transport", "s3dlio.auth", "s3dlio.compat.s3torchconnector.s3writer"])
def log(request: pytest.FixtureRequest) -> logging.Logger:
    return logging.getLogger(request.param)


@pytest.mark.parametrize(
    "secret",
    [
        *(CANARY, SECRET, READERS_SECRET, AZURITE_KEY, quote(AZURITE_KEY, safe=""), "canary-token-1"),
        *(base64.b64encode(f"{'u' * size}:{CANARY}".encode()).decode() for size in range(3)),
        *("AWS4-HMAC-SHA256 Signature=0a", "SharedKey devstoreaccount1:x", "Bearer ya29", "/c/k?sv=1&sig=x"),
    ],
)
def test_a_secret_in_a_log_is_found(secret: str, log: logging.Logger, canary_watch: Watch) -> None:
    log.debug("asked with %s", secret)
    with pytest.raises(AssertionError, match="told to whoever reads logs"):
        canary_watch.check()
    canary_watch.check()


def test_a_secret_in_a_logged_traceback_is_found(log: logging.Logger, canary_watch: Watch) -> None:
    try:
        raise ValueError(SECRET)
    except ValueError:
        log.warning("this went wrong", exc_info=True)
    with pytest.raises(AssertionError):
        canary_watch.check()


@pytest.mark.parametrize(
    "error", [lambda: ConfigError(SECRET), lambda: NotFoundError("none", ErrorContext(endpoint=f"http://u:{SECRET}@h"))]
)
def test_a_secret_in_an_error_is_found(error: type[StoreError], canary_watch: Watch) -> None:
    error()  # type: ignore[call-arg]
    with pytest.raises(AssertionError):
        canary_watch.check()


def test_every_test_is_watched(request: pytest.FixtureRequest, canary_watch: Watch) -> None:
    assert "no_secret_is_told" in request.fixturenames
    assert canary_watch in logging.getLogger("s3dlio").handlers
    assert logging.getLogger("s3dlio.transport").isEnabledFor(logging.DEBUG)
    logging.getLogger("s3dlio.transport").debug("GET /bucket/key (0 bytes): 200 (5 bytes), signed")
    canary_watch.check()
