"""Bearer tokens, on an Azurite that speaks https. It looks at all that a token says, but not at its signature."""

from __future__ import annotations

import base64
import json
import pickle
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trustme
from azure.core.credentials import AccessToken

from s3dlio.config import Config
from s3dlio.errors import PermissionDeniedError
from s3dlio.stores.azure.store import AzureStore

from ...canary import CANARY
from ...servers.azurite import ACCOUNT, Azurite, Certificate, azurite
from ..conformance import listed


def token(**claims: Any) -> str:
    """A token that Azurite takes, but for `claims`. Its signature is the canary."""
    now = int(time.time())
    issuer = f"https://sts.windows.net/{uuid.uuid4()}/"
    said = {"aud": "https://storage.azure.com", "iss": issuer, "nbf": now - 60, "iat": now - 60, "exp": now + 3600}
    parts = ({"alg": "RS256", "typ": "JWT"}, said | claims)
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return ".".join((*encoded, CANARY))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    home, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(home / "authority.pem")
    issued.cert_chain_pems[0].write_to_path(home / "server.pem")
    issued.private_key_pem.write_to_path(home / "server.key")
    trust = ssl.create_default_context(cafile=home / "authority.pem")
    return Certificate(home / "server.pem", home / "server.key", trust)


@pytest.fixture(scope="module")
def https_server(certificate: Certificate) -> Iterator[Azurite]:
    with azurite(certificate) as server:
        yield server


class Chain:
    """In the place of azure-identity's: hands out what a test made."""

    made = token()

    def get_token(self, _scope: str) -> AccessToken:
        return AccessToken(self.made, int(time.time() + 3600))


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch) -> Chain:
    chain = Chain()
    monkeypatch.setattr("azure.identity.DefaultAzureCredential", lambda proxies: chain)
    return chain


@pytest.fixture
async def store(https_server: Azurite, certificate: Certificate, chain: Chain) -> AsyncIterator[AzureStore]:
    authority = certificate.certificate.with_name("authority.pem")
    name = f"test-{uuid.uuid4()}"
    https_server.create_container(name, connection_verify=str(authority))
    config = Config(azure_account=ACCOUNT, azure_endpoint=https_server.endpoint, ca_bundle=str(authority))
    async with AzureStore(name, config) as store:
        yield store


async def test_a_token_is_enough(store: AzureStore) -> None:
    await store.put("key", b"content")
    await store.copy("key", "copy")
    assert await store.get("copy") == b"content"
    assert [meta.key for meta in await listed(store)] == ["copy", "key"]
    await store.delete_many(["key", "copy"])
    assert await listed(store) == []


@pytest.mark.parametrize("claims", [{"aud": "https://elsewhere.example"}, {"exp": 1_700_000_000}])
async def test_a_token_that_is_refused(store: AzureStore, chain: Chain, claims: dict[str, Any]) -> None:
    chain.made = token(**claims)
    with pytest.raises(PermissionDeniedError) as caught:
        await store.get("key")
    error = caught.value
    assert (error.operation, error.status, error.key) == ("GetBlob", 403, "key")
    assert store._service is not None
    assert CANARY not in f"{error} {error!r} {pickle.dumps(error)!r} {store!r} {store._service.rotation.first.signer!r}"
