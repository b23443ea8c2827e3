"""What the environment says of an account, and who signs then."""

from __future__ import annotations

import base64
import pickle
import sys
import time
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.storage.blob._shared.base_client import parse_connection_str
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.auth.azure import (
    SCOPE,
    AzureAccount,
    SasSigner,
    azure_account,
    azure_signer,
    check_sas,
    entra_loader,
    parse_connection_string,
    sas_expiry,
)
from s3dlio.auth.bearer import BearerSigner, Token
from s3dlio.auth.refreshing import ADVISORY, MANDATORY, RefreshingCredentials
from s3dlio.auth.sharedkey import SharedKey, SharedKeySigner
from s3dlio.auth.signer import Signer
from s3dlio.config import Config
from s3dlio.errors import ConfigError, ConnectionFailedError, NoCredentialsError, PermissionDeniedError
from s3dlio.stores.azure.store import AzureStore

from .fakes import Clock
from .test_secrets import full_story

CANARY = "cAnArYcAnArYcAnArY0123=="
RAW = base64.b64decode(CANARY)
SAS = f"sv=2023-11-03&se=2030-01-02T03%3A04%3A05Z&sr=c&sp=rl&sig={CANARY.replace('=', '%3D')}"
START = 1_700_000_000.0


def account_from(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], **settings: Any) -> AzureAccount:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return azure_account(Config(**settings))


# Variables


@pytest.mark.parametrize(
    ("variables", "account"),
    [
        ({}, AzureAccount()),
        (
            {"AZURE_STORAGE_ACCOUNT_NAME": "acct", "AZURE_STORAGE_ACCOUNT_KEY": f"{CANARY}\n"},
            AzureAccount("acct", key=RAW),
        ),
        (
            {"AZURE_STORAGE_SAS_TOKEN": f"?{SAS}&", "AZURE_BLOB_ENDPOINT_URL": "http://h"},
            AzureAccount(None, "http://h", sas=SAS),
        ),
        (
            {
                "AZURE_STORAGE_CONNECTION_STRING": f"AccountName=a;AccountKey={CANARY}",
                "AZURE_STORAGE_ACCOUNT_NAME": "b",
            },
            AzureAccount("a", "https://a.blob.core.windows.net", RAW),
        ),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=a;AccountKey={CANARY}", "AZURE_STORAGE_SAS_TOKEN": SAS},
            AzureAccount("a", "https://a.blob.core.windows.net", RAW),
        ),
        (
            {"AZURE_STORAGE_CONNECTION_STRING": "UseDevelopmentStorage=true", "AZURE_BLOB_ENDPOINT_URL": "http://h/x"},
            AzureAccount("devstoreaccount1", "http://h/x", parse_connection_string("UseDevelopmentStorage=true").key),
        ),
    ],
)
def test_the_environment(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], account: AzureAccount) -> None:
    assert account_from(monkeypatch, variables) == account


def test_who_asks_for_anonymous_access_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"AccountName=a;AccountKey={CANARY};SharedAccessSignature={SAS}"
    account = account_from(monkeypatch, {"AZURE_STORAGE_CONNECTION_STRING": text}, anonymous=True)
    assert account == AzureAccount("a", "https://a.blob.core.windows.net")
    assert repr(azure_signer(account, tls=False, anonymous=True)) == "BearerSigner(anonymous)"


# Connection strings


@pytest.mark.parametrize(
    ("text", "account"),
    [
        (
            f"DefaultEndpointsProtocol=http;AccountName=acct;AccountKey={CANARY};EndpointSuffix=core.chinacloudapi.cn",
            AzureAccount("acct", "http://acct.blob.core.chinacloudapi.cn", RAW),
        ),
        (
            f" accountname=acct; ACCOUNTKEY={CANARY};BlobEndpoint=http://127.0.0.1:1/acct;Unknown=x;;",
            AzureAccount("acct", "http://127.0.0.1:1/acct", RAW),
        ),
        (
            f"BlobEndpoint=https://acct.blob.core.windows.net/;SharedAccessSignature={SAS}",
            AzureAccount("acct", "https://acct.blob.core.windows.net/", sas=SAS),
        ),
        (
            f"BlobEndpoint=http://127.0.0.1:10000/acct;SharedAccessSignature=?{SAS}",
            AzureAccount("acct", "http://127.0.0.1:10000/acct", sas=SAS),
        ),
        ("BlobEndpoint=https://blobs.example", AzureAccount(None, "https://blobs.example")),
    ],
)
def test_a_connection_string(text: str, account: AzureAccount) -> None:
    assert parse_connection_string(text) == account


@pytest.mark.parametrize("proxy", ["", ";DevelopmentStorageProxyUri=http://proxy.example"])
def test_the_emulator_has_a_name_of_its_own(proxy: str) -> None:
    account = parse_connection_string(f"UseDevelopmentStorage=true{proxy}")
    host = "proxy.example" if proxy else "127.0.0.1"
    assert (account.name, account.endpoint) == ("devstoreaccount1", f"http://{host}:10000/devstoreaccount1")
    assert account.key is not None


@given(
    st.from_regex(r"[a-z0-9]{3,24}", fullmatch=True),
    st.binary(min_size=1, max_size=64),
    st.sampled_from(["https", "http"]),
    st.sampled_from(["core.windows.net", "core.usgovcloudapi.net"]),
)
def test_it_is_read_as_microsoft_reads_it(name: str, key: bytes, scheme: str, suffix: str) -> None:
    encoded = base64.b64encode(key).decode()
    parts = {"AccountName": name, "AccountKey": encoded, "DefaultEndpointsProtocol": scheme, "EndpointSuffix": suffix}
    text = ";".join(f"{entry}={value}" for entry, value in parts.items())
    primary, _, credential = parse_connection_str(text, None, "blob")
    account = parse_connection_string(text)
    assert (account.endpoint, account.key) == (primary, key)
    assert credential == {"account_name": account.name, "account_key": encoded}


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("AZURE_STORAGE_CONNECTION_STRING", f"AccountName=a;AccountKey{CANARY[:-2]}", "entry 2 is not of the form"),
        ("AZURE_STORAGE_CONNECTION_STRING", f"AccountKey={CANARY}", "neither AccountName nor BlobEndpoint"),
        ("AZURE_STORAGE_CONNECTION_STRING", f"AccountName=a;AccountKey=!{CANARY}", "not base64"),
        ("AZURE_STORAGE_CONNECTION_STRING", f"BlobEndpoint=https://a.blob/?sig={CANARY}", "a query in BlobEndpoint"),
        ("AZURE_STORAGE_CONNECTION_STRING", f"AccountName=a;SharedAccessSignature={CANARY}", "no signature"),
        ("AZURE_STORAGE_CONNECTION_STRING", f"{CANARY}\r\n{CANARY}", "malformed"),
        ("AZURE_STORAGE_ACCOUNT_KEY", f"{CANARY}!", "not base64"),
        ("AZURE_STORAGE_SAS_TOKEN", f"https://a.blob.core.windows.net/c {CANARY}", "not a query"),
        ("AZURE_STORAGE_SAS_TOKEN", f"sig={CANARY}\r\nx: y", "not a query"),
        ("AZURE_STORAGE_SAS_TOKEN", f"sv=1&sp={CANARY}", "no signature"),
    ],
)
def test_what_cannot_be_used_is_named_but_not_shown(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        account_from(monkeypatch, {variable: value})
    assert variable in str(caught.value)
    assert CANARY[:-2] not in story_of_ours(caught.value)


def story_of_ours(error: BaseException) -> str:
    """The frames of this module have to know the canary."""
    while error.__traceback__ is not None and error.__traceback__.tb_frame.f_code.co_filename == __file__:
        error.__traceback__ = error.__traceback__.tb_next
    return full_story(error)


@given(st.text())
def test_any_text_is_a_connection_string_or_refused(text: str) -> None:
    try:
        account = parse_connection_string(text)
    except ConfigError:
        return
    assert account.endpoint is not None


# SAS


async def signed(signer: Signer, query: str = "", **headers: str) -> tuple[str, dict[str, str]]:
    spelled = {name.replace("_", "-"): value for name, value in headers.items()}
    return await signer.sign("GET", "/c/k", query, spelled), spelled


async def test_a_sas_goes_into_the_query_and_the_source_of_a_copy() -> None:
    signer = SasSigner(SAS)
    assert await signed(signer) == (SAS, {})
    assert await signed(signer, "comp=list") == (f"comp=list&{SAS}", {})
    source = "http://h/c/source"
    assert (await signed(signer, x_ms_copy_source=source))[1] == {"x-ms-copy-source": f"{source}?{SAS}"}
    assert not await signer.recover("AuthenticationFailed", 403, {})
    assert repr(signer) == "SasSigner(expires=2030-01-02 03:04:05+00:00)"


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2030-01-02T03%3A04%3A05Z", datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("2030-01-02T03:04Z", datetime(2030, 1, 2, 3, 4, tzinfo=UTC)),
        ("2030-01-02", datetime(2030, 1, 2, tzinfo=UTC)),
        ("2030-01-02T03:04:05%2B01:00", datetime(2030, 1, 2, 2, 4, 5, tzinfo=UTC)),
        ("soon", None),
        ("", None),
    ],
)
def test_when_a_sas_ends(value: str, moment: datetime | None) -> None:
    assert sas_expiry(f"sv=1&se={value}&sig=x") == moment


def test_a_sas_is_taken_as_it_is() -> None:
    assert check_sas("?sv=1&sig=a%2Bb%3D", "SOURCE") == "sv=1&sig=a%2Bb%3D"


# Shared Key and a clock that is wrong


@pytest.mark.parametrize("off", [3600.0, -3600.0])
async def test_a_refused_request_teaches_the_time(off: float) -> None:
    clock = Clock(START)
    signer = SharedKeySigner(SharedKey("acct", RAW), clock)
    _, before = await signed(signer)
    assert not await signer.recover("AuthenticationFailed", 403, {"date": formatdate(START + 60, usegmt=True)})
    assert not await signer.recover("BlobNotFound", 404, {"date": formatdate(START + off, usegmt=True)})
    assert await signer.recover("AuthenticationFailed", 403, {"date": formatdate(START + off, usegmt=True)})
    _, after = await signed(signer)
    assert before["x-ms-date"] == formatdate(START, usegmt=True)
    assert after["x-ms-date"] == formatdate(START + off, usegmt=True)
    assert after["authorization"] != before["authorization"]


# Entra ID


class Issuer:
    """Stands for azure-identity's chain: numbered tokens that last an hour."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.made = 0
        self.scopes: list[str] = []
        self.failure: Exception | None = None

    def __call__(self, proxies: dict[str, str]) -> Issuer:
        self.made += 1
        return self

    def get_token(self, scope: str) -> AccessToken:
        self.scopes.append(scope)
        if self.failure is not None:
            raise self.failure
        return AccessToken(f"{CANARY}-{len(self.scopes)}", int(self.clock() + 3600))


@pytest.fixture
def issuer(monkeypatch: pytest.MonkeyPatch) -> Issuer:
    issuer = Issuer(Clock(START))
    monkeypatch.setattr("azure.identity.DefaultAzureCredential", issuer)
    return issuer


def bearer(issuer: Issuer) -> BearerSigner:
    return BearerSigner(RefreshingCredentials(entra_loader(), clock=issuer.clock, jitter=lambda: 0.0))


async def token_number(signer: BearerSigner) -> int:
    query, headers = await signed(signer, "comp=list")
    assert query == "comp=list"
    assert headers["authorization"].startswith(f"Bearer {CANARY}-")
    return int(headers["authorization"].rpartition("-")[2])


async def test_a_token_is_renewed_before_it_ends(issuer: Issuer) -> None:
    signer = bearer(issuer)
    assert [await token_number(signer) for _ in range(3)] == [1, 1, 1]
    issuer.clock.now = START + 3600 - ADVISORY - 1
    assert await token_number(signer) == 1
    issuer.clock.now = START + 3600 - MANDATORY
    assert await token_number(signer) == 2, "nobody signs with a token that is about to end"
    assert (issuer.made, issuer.scopes) == (1, [SCOPE, SCOPE])


async def test_a_token_that_is_refused_as_such_is_renewed(issuer: Issuer) -> None:
    signer = bearer(issuer)
    assert not await signer.recover("InvalidAuthenticationInfo", 401, {}), "nothing was sent yet"
    assert await token_number(signer) == 1
    assert not await signer.recover("AuthorizationPermissionMismatch", 403, {})
    assert await signer.recover("InvalidAuthenticationInfo", 401, {})
    assert await token_number(signer) == 2


async def test_no_token(issuer: Issuer) -> None:
    issuer.failure = RuntimeError(f"the answer was {CANARY}")
    with pytest.raises(PermissionDeniedError, match="could not be loaded: RuntimeError") as caught:
        await signed(bearer(issuer))
    assert CANARY not in str(caught.value)


async def test_nothing_to_ask_entra_with_says_where_it_looked(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer.failure = ClientAuthenticationError(f"the answer was {CANARY}")
    with pytest.raises(
        NoCredentialsError, match=r"AZURE_CLIENT_SECRET.*managed identity, az login.*anonymous"
    ) as caught:
        await signed(bearer(issuer))
    assert CANARY not in full_story(caught.value)
    assert "AZURE_STORAGE_ACCOUNT_KEY" in str(caught.value)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "wrong")
    with pytest.raises(PermissionDeniedError, match="no token for what AZURE_CLIENT_SECRET") as refused:
        await signed(bearer(issuer))
    assert not isinstance(refused.value, NoCredentialsError)
    assert CANARY not in str(refused.value)


async def test_stores_share_a_token_while_the_environment_says_the_same(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.clock.now, account = time.time(), AzureAccount("acct")
    for number, secret in enumerate(["one", "two"], 1):
        monkeypatch.setenv("AZURE_CLIENT_SECRET", secret)
        for _ in range(3):
            signer = azure_signer(account, tls=True, anonymous=False)
            assert isinstance(signer, BearerSigner)
            assert await token_number(signer) == number


@pytest.mark.parametrize("token", ["a\r\nb", "\ud800"])
async def test_a_token_that_no_header_can_hold(issuer: Issuer, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setattr(issuer, "get_token", lambda _scope: AccessToken(token, 0))
    with pytest.raises(ConfigError, match="control character"):
        await signed(bearer(issuer))


async def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    async with AzureStore("acct/con", Config()) as store:
        with pytest.raises(NoCredentialsError) as caught:
            await store.get("key")
    for word in ("pip install 's3dlio[azure]'", "AZURE_STORAGE_ACCOUNT_KEY", "anonymous=True"):
        assert word in str(caught.value)
    assert caught.value.operation == "GetBlob"


def test_no_token_is_sent_in_the_clear() -> None:
    with pytest.raises(ConfigError, match="https only"):
        AzureStore("acct/con", Config(azure_endpoint="http://127.0.0.1:1"))


@pytest.mark.parametrize(
    "variables",
    [
        {"AZURE_STORAGE_SAS_TOKEN": SAS, "AZURE_BLOB_ENDPOINT_URL": "http://blobs.example"},
        {"AZURE_STORAGE_CONNECTION_STRING": f"BlobEndpoint=http://blobs.example;SharedAccessSignature={SAS}"},
        {"AZURE_STORAGE_CONNECTION_STRING": f"DefaultEndpointsProtocol=http;AccountName=a;SharedAccessSignature={SAS}"},
    ],
)
def test_no_sas_is_sent_in_the_clear(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="AZURE_STORAGE_SAS_TOKEN or AZURE_STORAGE_CONNECTION_STRING") as caught:
        AzureStore("con", Config())
    assert CANARY[:-2] not in str(caught.value)
    AzureStore("con", Config(anonymous=True))


@pytest.mark.parametrize(
    ("account", "host"),
    [
        *[("acct", host) for host in ("localhost", "127.0.0.1:10000", "[::1]", "acct.localhost")],
        ("devstoreaccount1", "azurite:10000"),
    ],
)
def test_a_sas_of_this_machine_or_of_the_emulator_is(monkeypatch: pytest.MonkeyPatch, account: str, host: str) -> None:
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", SAS)
    AzureStore("con", Config(azure_account=account, azure_endpoint=f"http://{host}"))
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", CANARY)
    AzureStore("con", Config(azure_account="acct", azure_endpoint="http://blobs.example"))


@pytest.mark.parametrize(("named", "told"), [(None, True), ("train", False)])
async def test_a_forgotten_account_is_told_with_the_first_error(named: str | None, told: bool) -> None:
    config = Config(azure_account=named, azure_endpoint="http://127.0.0.1:1", anonymous=True, max_attempts=1)
    async with AzureStore("train/data", config) as store:
        with pytest.raises(ConnectionFailedError) as caught:
            await store.get("key")
    assert ("AZURE_STORAGE_ACCOUNT_NAME is not set" in str(caught.value)) is told
    assert caught.value.attempts == 1


def test_a_key_needs_the_name_of_its_account(monkeypatch: pytest.MonkeyPatch) -> None:
    account = account_from(monkeypatch, {"AZURE_STORAGE_ACCOUNT_KEY": CANARY})
    with pytest.raises(ConfigError, match="AZURE_STORAGE_ACCOUNT_NAME"):
        azure_signer(account, tls=True, anonymous=False)
    assert repr(AzureStore("acct/con", Config())) == "<AzureStore az://acct/con>"


# Secrets


@pytest.mark.parametrize(
    "holder",
    [AzureAccount("acct", "https://h", RAW, SAS), SharedKey("acct", RAW), Token({"authorization": CANARY}, START)],
)
def test_what_holds_a_secret_shows_none_and_is_not_pickled(holder: object) -> None:
    assert CANARY[:-2] not in repr(holder)
    assert repr(RAW) not in repr(holder)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(holder)


async def test_signers_show_none(issuer: Issuer) -> None:
    tokens = bearer(issuer)
    await token_number(tokens)
    for signer in (SharedKeySigner(SharedKey("acct", RAW)), SasSigner(SAS), tokens):
        assert CANARY[:-2] not in repr(signer)
        assert repr(RAW) not in repr(signer)
