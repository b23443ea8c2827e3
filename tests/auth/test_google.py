"""Tokens: where they come from, when they are renewed, and that nobody else sees them."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from s3dlio.auth.bearer import BearerSigner, Token
from s3dlio.auth.google import google_credentials, load_token
from s3dlio.auth.refreshing import RefreshingCredentials
from s3dlio.config import Config
from s3dlio.errors import (
    ConfigError,
    ConnectionFailedError,
    NoCredentialsError,
    PermissionDeniedError,
    StoreError,
)
from s3dlio.stores.gcs.store import GCSStore

from ..servers.gcs import BUCKET, ScriptedGCS, scripted_gcs
from .fakes import Clock
from .tokens import TokenService, private_pem, token_service, write_key_file


@pytest.fixture
def tokens() -> Iterator[TokenService]:
    with token_service() as service:
        yield service


@pytest.fixture
def key_file(tokens: TokenService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A service account's, found by its variable."""
    path = write_key_file(tmp_path / "account.json", f"{tokens.url}/token")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    return path


@pytest.fixture
def metadata_server(tokens: TokenService, monkeypatch: pytest.MonkeyPatch) -> TokenService:
    monkeypatch.delenv("NO_GCE_CHECK")
    monkeypatch.setenv("GCE_METADATA_HOST", tokens.url.removeprefix("http://"))
    return tokens


@pytest.fixture
async def server() -> AsyncIterator[ScriptedGCS]:
    """With one object, `key`."""
    async with scripted_gcs() as running:
        running.store("key", b"content")
        yield running


@pytest.fixture
async def store(server: ScriptedGCS) -> AsyncIterator[GCSStore]:
    """A store that sends its tokens to the scripted server."""
    async with GCSStore(BUCKET, Config(gcs_endpoint=server.endpoint), google_credentials()) as store:
        yield store


def story(error: BaseException) -> str:
    """What a crash reporter sends: errors, causes, local variables. The frames of the tests know the secrets."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    pending, seen = [told], [repr(error), pickle.dumps(error).decode("latin-1")]
    while pending:
        part = pending.pop()
        part.stack = traceback.StackSummary.from_list([f for f in part.stack if "/tests/" not in f.filename])
        seen.append("".join(part.format(chain=False)))
        pending += [nearer for nearer in (part.__cause__, part.__context__) if nearer is not None]
    return "".join(seen)


def assert_no_secret(text: str) -> None:
    assert "canary" not in text
    assert not any(line in text for line in private_pem().splitlines()[1:-1])


# Sources


async def test_a_service_account_signs_for_its_token(
    key_file: Path, tokens: TokenService, server: ScriptedGCS, store: GCSStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.token = "canary-token-1"
    assert await store.get("key") == b"content"
    assert await store.get("key") == b"content"
    assert tokens.requests == [("POST", "/token")]
    assert store._service is not None
    assert_no_secret(caplog.text + repr(store) + repr(vars(store)) + repr(store._service.rotation.first.signer))


async def test_the_metadata_server_has_tokens(
    metadata_server: TokenService, server: ScriptedGCS, store: GCSStore
) -> None:
    server.token = "canary-token-1"
    assert await store.get("key") == b"content"


def test_a_file_that_gcloud_left_is_found(
    tokens: TokenService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file without a quota project has google-auth ask the program for a project: there is none."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    (tmp_path / "gcloud").mkdir()
    write_key_file(tmp_path / "gcloud" / "application_default_credentials.json", f"{tokens.url}/token")
    assert load_token().headers == {"authorization": "Bearer canary-token-1"}


def test_who_pays_goes_along(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "payer")
    headers = {"authorization": "Bearer canary-token-1", "x-goog-user-project": "payer"}
    assert load_token().headers == headers


def test_google_auth_alone_is_enough_and_not_needed_before(key_file: Path, tokens: TokenService) -> None:
    program = """if True:
        import sys
        sys.modules["requests"] = None
        from s3dlio.config import Config
        from s3dlio.stores.gcs.store import GCSStore
        GCSStore("bucket", Config())
        assert not {"google.auth", "numba", "torch"} & set(sys.modules)
        from s3dlio.auth.google import load_token
        load_token()
        """
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=200)
    assert tokens.issued == 1


async def test_an_emulator_gets_no_token(
    key_file: Path, tokens: TokenService, server: ScriptedGCS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.endpoint.removeprefix("http://"))
    async with GCSStore(BUCKET, Config()) as store:
        assert await store.get("key") == b"content"
    assert "authorization" not in server.requests[0].headers
    assert tokens.requests == []


async def test_anonymous_access_asks_nobody(key_file: Path, tokens: TokenService, server: ScriptedGCS) -> None:
    config = Config(gcs_endpoint=server.endpoint, anonymous=True)
    async with GCSStore(BUCKET, config, google_credentials()) as store:
        assert await store.get("key") == b"content"
        server.token = "any"
        with pytest.raises(PermissionDeniedError) as caught:
            await store.get("key")
    assert (caught.value.status, caught.value.attempts) == (401, 1)
    assert tokens.requests == []


def test_a_token_is_not_sent_in_clear() -> None:
    for endpoint in ("http://gcs.example", "http://10.0.0.1:4443", "gcs:4443"):
        GCSStore(BUCKET, Config(gcs_endpoint=endpoint))
        with pytest.raises(ConfigError, match="in clear"):
            GCSStore(BUCKET, Config(gcs_endpoint=endpoint), google_credentials())
    for endpoint in ("https://gcs.example", "http://localhost:1", "http://[::1]:1", "127.0.0.1:1"):
        GCSStore(BUCKET, Config(gcs_endpoint=endpoint), google_credentials())


# Renewal


async def test_tokens_are_renewed_before_they_expire(key_file: Path, tokens: TokenService, server: ScriptedGCS) -> None:
    """One hour's tokens over three: no request meets an expired one, and there are no more of them than needed."""
    tokens.now = clock = Clock(time.time())
    provider = RefreshingCredentials(load_token, clock=clock)
    async with GCSStore(BUCKET, Config(gcs_endpoint=server.endpoint), provider) as store:
        for _ in range(180):
            async with trio.open_nursery() as nursery:
                for _ in range(8):
                    nursery.start_soon(store.get, "key")
            token = await provider.get()
            assert token.expires_at is not None
            assert token.expires_at > clock() + 300
            clock.now += 60
    assert 3 <= tokens.issued <= 6
    assert tokens.requests == [("POST", "/token")] * tokens.issued


async def test_a_refused_token_is_renewed_once_for_all(
    key_file: Path, tokens: TokenService, server: ScriptedGCS, store: GCSStore
) -> None:
    await store.get("key")
    server.token = "canary-token-2"
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(store.get, "key")
    assert tokens.issued == 2
    assert len(server.requests) <= 1 + 2 * 20


async def test_a_token_that_stays_refused(
    key_file: Path, tokens: TokenService, server: ScriptedGCS, store: GCSStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.token = "another"
    with pytest.raises(PermissionError) as caught:
        await store.get("key")
    error = caught.value
    assert isinstance(error, PermissionDeniedError)
    assert (error.status, error.code, error.request_id) == (401, "authError", "upload-authError")
    assert (error.bucket, error.key, error.endpoint, error.attempts) == (BUCKET, "key", server.endpoint, 1)
    assert (len(server.requests), tokens.issued) == (2, 2)
    assert_no_secret(story(error) + caplog.text)


async def test_other_refusals_renew_nothing(
    key_file: Path, tokens: TokenService, server: ScriptedGCS, store: GCSStore
) -> None:
    signer = BearerSigner(google_credentials())
    assert not await signer.recover("authError", 401, {})
    await signer.sign("GET", "/", "", {})
    assert not await signer.recover("forbidden", 403, {})
    assert tokens.issued == 1


# Failure


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        ('{"private_key": "canary', ConfigError, "not a valid json"),
        ("\udcff canary", ConfigError, "cannot be used"),
        ('{"type": "canary-less", "private_key": "canary"}'.replace("canary-less", "pigeon"), ConfigError, "pigeon"),
        ('{"type": "service_account", "private_key": "canary"}', ConfigError, "cannot be used"),
        ("[]", StoreError, "account.json"),
        (None, ConfigError, "not found"),
    ],
    ids=["cut off", "not text", "of no known type", "without its fields", "a list", "absent"],
)
async def test_a_credentials_file_that_is_none_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: GCSStore,
    content: str | None,
    kind: type[StoreError],
    words: str,
) -> None:
    path = tmp_path / "account.json"
    if content is not None:
        path.write_text(content, errors="surrogateescape")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    with pytest.raises(kind, match=words) as caught:
        await store.get("key")
    assert str(path) in str(caught.value)
    assert (caught.value.operation, caught.value.key) == ("objects.get", "key")
    assert_no_secret(story(caught.value))


@pytest.mark.parametrize(
    "pem", ["canary", private_pem()[:800] + "canary\n-----END PRIVATE KEY-----\n"], ids=["no PEM", "a cut one"]
)
async def test_a_key_that_is_none(
    tokens: TokenService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: GCSStore, pem: str
) -> None:
    path = write_key_file(tmp_path / "account.json", f"{tokens.url}/token", private_key=pem)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    with pytest.raises(ConfigError, match=r"account\.json") as caught:
        await store.get("key")
    assert_no_secret(story(caught.value))


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, b'{"error": "invalid_grant", "error_description": "canary"}', "invalid_grant"),
        (403, b"canary", "RefreshError"),
        (200, b'{"id_token": "canary"}', "RefreshError"),
    ],
)
async def test_a_token_endpoint_that_refuses(
    key_file: Path, tokens: TokenService, store: GCSStore, status: int, body: bytes, words: str
) -> None:
    tokens.status, tokens.body = status, body
    with pytest.raises(PermissionDeniedError, match=words) as caught:
        await store.get("key")
    assert_no_secret(story(caught.value))


async def test_a_token_endpoint_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: ScriptedGCS
) -> None:
    monkeypatch.setattr("google.auth._exponential_backoff.time.sleep", lambda _: None)
    path = write_key_file(tmp_path / "account.json", "http://127.0.0.1:1/token")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    with pytest.raises(ConnectionFailedError, match="token endpoint") as caught:
        load_token()
    assert_no_secret(story(caught.value))


async def test_nothing_found(store: GCSStore) -> None:
    with pytest.raises(NoCredentialsError, match=r"GOOGLE_APPLICATION_CREDENTIALS.*metadata.*anonymous=True"):
        await store.get("key")


@pytest.mark.parametrize(
    ("status", "body", "flavor", "kind"),
    [
        (404, b"", "Google", NoCredentialsError),
        (200, b"{}", "a captive portal", NoCredentialsError),
        (403, b"", "Google", PermissionDeniedError),
        (200, b"canary", "Google", PermissionDeniedError),
        (200, b'{"access_token": "canary"}', "Google", PermissionDeniedError),
    ],
)
def test_a_metadata_server_without_tokens(
    metadata_server: TokenService, status: int, body: bytes, flavor: str, kind: type[StoreError]
) -> None:
    metadata_server.status, metadata_server.body, metadata_server.flavor = status, body, flavor
    with pytest.raises(kind) as caught:
        load_token()
    assert type(caught.value) is kind
    assert_no_secret(story(caught.value))


@pytest.mark.parametrize("status", [503, 500, 429])
def test_a_metadata_server_that_is_busy(
    metadata_server: TokenService, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    metadata_server.status = status
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        metadata_server.status = 200 if len(pauses) == 2 else status

    monkeypatch.setattr("s3dlio.auth.google.time.sleep", pause)
    assert load_token().headers == {"authorization": "Bearer canary-token-1"}
    monkeypatch.setattr("s3dlio.auth.google.time.sleep", lambda _: None)
    metadata_server.status = status
    with pytest.raises(PermissionDeniedError, match=f"answered {status}"):
        load_token()


async def test_all_stores_of_a_run_share_one_token(metadata_server: TokenService) -> None:
    for _ in range(3):
        assert (await google_credentials().get()).headers == {"authorization": "Bearer canary-token-1"}


def test_a_metadata_server_that_is_late(metadata_server: TokenService, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new pod: it is asked again, after a pause."""
    host = metadata_server.url.removeprefix("http://")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("s3dlio.auth.google.time.sleep", pause)
    monkeypatch.setattr("s3dlio.auth.google._METADATA_TRIES", 5)
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
    with pytest.raises(NoCredentialsError):
        load_token()
    assert pauses == [1.0] * 4
    monkeypatch.setenv("GCE_METADATA_HOST", host)
    assert load_token().headers == {"authorization": "Bearer canary-token-1"}


def test_tokens_show_nothing() -> None:
    token = Token({"authorization": "Bearer canary"}, 1.0)
    assert "canary" not in f"{token!r} {BearerSigner(google_credentials())!r} {BearerSigner(None)!r}"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(token)
