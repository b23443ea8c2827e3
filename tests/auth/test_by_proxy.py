"""Who hands out credentials is asked by way of a proxy, too; the machine's own services are not."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from azure.core.exceptions import AzureError
from azure.core.pipeline.transport import HttpRequest, RequestsTransport

from s3dlio.auth import azure
from s3dlio.auth.aws import aws_credentials
from s3dlio.auth.azure import entra_loader
from s3dlio.auth.google import load_token
from s3dlio.auth.sigv4 import Credentials
from s3dlio.config import Config
from s3dlio.errors import ConfigError, ConnectionFailedError, PermissionDeniedError

from ..canary import CANARY
from ..servers.proxy import ProxyServer, answer, proxy_in_thread
from ..transport.test_secrets_in_frames import SIGNATURES, full_story
from .conftest import WriteFiles
from .fakes import FakeService
from .test_aws import FILE
from .tokens import TokenService, token_service, write_key_file

NAME = "oauth.example"
VARIABLES = ("http_proxy", "https_proxy")


@pytest.fixture
def proxy() -> Iterator[ProxyServer]:
    with proxy_in_thread(f"user:{CANARY}") as running:
        yield running


def url_of(proxy: ProxyServer, password: str = CANARY) -> str:
    return proxy.url.replace("//", f"//user:{password}@")


@pytest.fixture
def in_environment(proxy: ProxyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.setenv(variable, url_of(proxy))


# AWS


@pytest.fixture
def sts(service: FakeService, write_files: WriteFiles, monkeypatch: pytest.MonkeyPatch) -> FakeService:
    """A role that the profile `job` assumes."""
    write_files("[profile job]\nrole_arn = arn:aws:iam::1:role/job\nsource_profile = other\n", FILE)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", service.url)
    return service


@pytest.mark.parametrize(("setting", "used"), [("url", True), (None, False), ("none", False)])
async def test_a_role_is_assumed_by_the_proxy_of_the_settings(
    sts: FakeService, proxy: ProxyServer, setting: str | None, used: bool
) -> None:
    config = Config(profile="job", region="eu-north-1", proxy=url_of(proxy) if setting == "url" else setting)
    assert await aws_credentials(config).get() == Credentials("AKID1", "secret-1", "token-1")
    assert [asked.target for asked in proxy.asked] == ([f"{sts.url}/"] if used else [])


@pytest.mark.parametrize(("setting", "used"), [(None, True), ("none", False)])
async def test_a_role_is_assumed_by_the_environments_proxy(
    sts: FakeService, proxy: ProxyServer, in_environment: None, setting: str | None, used: bool
) -> None:
    config = Config(profile="job", region="eu-north-1", proxy=setting)
    assert await aws_credentials(config).get() == Credentials("AKID1", "secret-1", "token-1")
    assert [asked.target for asked in proxy.asked] == ([f"{sts.url}/"] if used else [])


@pytest.mark.parametrize("setting", [None, "url"])
@pytest.mark.parametrize("profile", [None, "job"])
async def test_an_instance_asks_its_own_service(
    instance: FakeService,
    sts: FakeService,
    proxy: ProxyServer,
    in_environment: None,
    write_files: WriteFiles,
    profile: str | None,
    setting: str | None,
) -> None:
    """Whose answer would be about the proxy's own machine."""
    role = "[profile job]\nrole_arn = arn:aws:iam::1:role/job\ncredential_source = Ec2InstanceMetadata\n"
    write_files(role if profile else "", "")
    config = Config(profile=profile, region="eu-north-1", proxy=url_of(proxy) if setting else None)
    assert await aws_credentials(config).get()
    assert "GET /latest/meta-data/iam/security-credentials/the-role" in instance.requests
    assert [asked.target for asked in proxy.asked] == ([f"{sts.url}/"] if profile else [])


async def test_a_container_asks_its_own_service(
    container: FakeService, proxy: ProxyServer, in_environment: None
) -> None:
    assert await aws_credentials(Config(proxy=url_of(proxy))).get()
    assert container.requests == ["GET /task"]
    assert proxy.asked == []


async def test_a_role_for_which_the_proxy_is_not_there(sts: FakeService) -> None:
    config = Config(profile="job", region="eu-north-1", proxy=f"http://user:{CANARY}@127.0.0.1:1", max_attempts=1)
    with pytest.raises(PermissionDeniedError, match="ProxyConnectionError") as caught:
        await aws_credentials(config).get()
    assert not SIGNATURES.search(full_story(caught.value))


async def test_settings_with_other_proxies_share_no_credentials(sts: FakeService, proxy: ProxyServer) -> None:
    for setting in ("none", url_of(proxy)):
        await aws_credentials(Config(profile="job", region="eu-north-1", proxy=setting)).get()
    assert len(sts.requests) == 2


# Google


@pytest.fixture
def tokens(proxy: ProxyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenService]:
    """An https token endpoint that only the proxy finds, and the file of an account that leads to it."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    monkeypatch.setattr("google.auth._exponential_backoff.time.sleep", lambda _: None)
    write_key_file(tmp_path / "account.json", f"https://{NAME}/token")
    with token_service(context) as service:
        host, _, port = service.url.removeprefix("https://").partition(":")
        proxy.hosts[f"{NAME}:443"] = (host, int(port))
        yield service


def test_googles_tokens_come_through_a_tunnel(
    tokens: TokenService, proxy: ProxyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_token(url_of(proxy)).headers == {"authorization": "Bearer canary-token-1"}
    monkeypatch.setenv("HTTPS_PROXY", url_of(proxy))
    assert load_token().headers == {"authorization": "Bearer canary-token-2"}
    assert [(asked.method, asked.target) for asked in proxy.asked] == [("CONNECT", f"{NAME}:443")] * 2
    assert tokens.requests == [("POST", "/token")] * 2


@pytest.mark.parametrize(("setting", "direct"), [("none", ""), (None, NAME), (None, ".example")])
def test_googles_tokens_are_asked_for_directly(
    tokens: TokenService,
    proxy: ProxyServer,
    in_environment: None,
    monkeypatch: pytest.MonkeyPatch,
    setting: str | None,
    direct: str,
) -> None:
    """There is no such host but by the proxy."""
    monkeypatch.setenv("no_proxy", direct)
    with pytest.raises(ConnectionFailedError, match="cannot reach the token endpoint"):
        load_token(setting)
    assert proxy.asked == []


def test_googles_own_metadata_server_is_asked_directly(
    proxy: ProxyServer, in_environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_GCE_CHECK")
    with token_service() as service:
        monkeypatch.setenv("GCE_METADATA_HOST", service.url.removeprefix("http://"))
        assert load_token(url_of(proxy)).headers == {"authorization": "Bearer canary-token-1"}
    assert proxy.asked == []


def test_a_proxy_that_refuses_googles_tokens(tokens: TokenService, proxy: ProxyServer) -> None:
    with pytest.raises(ConnectionFailedError, match=f"407.*, by way of the proxy {proxy.url}") as caught:
        load_token(Config(proxy=url_of(proxy, f"not{CANARY}")).proxy)
    assert not SIGNATURES.search(full_story(caught.value))


def test_an_unusable_proxy_of_googles_tokens_is_named(tokens: TokenService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"https://user:{CANARY}@h")
    with pytest.raises(ConfigError, match="https_proxy or all_proxy names a proxy that is reached by https") as caught:
        load_token()
    assert not SIGNATURES.search(full_story(caught.value))


# Azure


@pytest.mark.parametrize(
    ("setting", "variables", "refused"),
    [
        ("url", {}, True),
        (None, dict.fromkeys(VARIABLES, "url"), True),
        ("none", dict.fromkeys(VARIABLES, "url"), False),
        (None, {"https_proxy": "url", "no_proxy": "127.0.0.0/8"}, False),
        (None, {}, False),
    ],
)
def test_what_azure_identity_is_told(
    service: FakeService,
    proxy: ProxyServer,
    monkeypatch: pytest.MonkeyPatch,
    setting: str | None,
    variables: dict[str, str],
    refused: bool,
) -> None:
    """By its own transport: metadata services are asked in clear, all others by https."""
    told: list[dict[str, str]] = []

    class Chain:
        def __init__(self, proxies: dict[str, str]) -> None:
            told.append(proxies)

        def get_token(self, _scope: str) -> None:
            raise LookupError

    monkeypatch.setattr("azure.identity.DefaultAzureCredential", Chain)
    for name, value in variables.items():
        monkeypatch.setenv(name, url_of(proxy) if value == "url" else value)
    with pytest.raises(LookupError):
        entra_loader(url_of(proxy) if setting == "url" else setting)()
    proxy.always = answer(403)
    with RequestsTransport() as transport:
        assert transport.send(HttpRequest("GET", f"{service.url}/latest"), proxies=told[0]).status_code == 200
        assert proxy.asked == []
        with pytest.raises(AzureError):
            transport.send(HttpRequest("GET", "https://127.0.0.1:1/"), proxies=told[0])
    assert [asked.target for asked in proxy.asked] == (["127.0.0.1:1"] if refused else [])


def test_azure_identity_takes_it() -> None:
    azure._default_chain("http://127.0.0.1:1")
