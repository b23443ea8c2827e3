"""Who asks for Azure blobs: what the environment says of an account, and the signers for each way to say who one is.

The ways, in the order they are looked for: the account's key, a shared access signature (SAS), nobody (where
`Config.anonymous` asks for that), and Entra ID. A connection string stands for all variables but the endpoint's, so
that nothing of two accounts is ever mixed. Entra ID is azure-identity's work: imported on first use, run in a thread,
its tokens kept fresh by :class:`.refreshing.SharedCredentials`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from ..config import Config
from ..errors import ConfigError, NoCredentialsError, StoreError
from ..model import iso_time
from ..proxy import parse_proxy
from .bearer import BearerSigner, Token
from .environment import environment_mark, variable
from .refreshing import SharedCredentials, load_failed
from .sharedkey import SharedKey, SharedKeySigner, decode_key
from .signer import Signer, check_headers, fits_header

SCOPE = "https://storage.azure.com/.default"
"""What a token is asked for: the storage service, in every cloud and for every account."""

_CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"
_KEY = "AZURE_STORAGE_ACCOUNT_KEY"
_SAS = "AZURE_STORAGE_SAS_TOKEN"
_PRINCIPAL = ("AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE")
_EMULATOR_ACCOUNT = "devstoreaccount1"
_EMULATOR_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Source: "Use the Azurite emulator", where everybody may read it."""

_ENDPOINT = re.compile(r"https?://(?:([a-z0-9-]+)\.(?:z[0-9]+\.)?blob\.[^/]+|[^/]+/([a-z0-9-]+))/?")
_COPY_SOURCE = "x-ms-copy-source"


@dataclass(frozen=True, slots=True)
class AzureAccount:
    """What is known of an account before any request; `None` is unknown. Shows no secret, and cannot be pickled."""

    name: str | None = None
    endpoint: str | None = None
    key: bytes | None = field(default=None, repr=False)
    sas: str | None = field(default=None, repr=False)

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials are not pickled: each process finds its own")


def azure_account(config: Config) -> AzureAccount:
    """The account that `config` and the environment speak of, its secrets left out where access is anonymous.

    Errors: `ConfigError`, which names the variable but shows nothing of it, not even in its frames.
    """
    try:
        found = _account_in_environment(config)
    except ConfigError as error:
        refused = error.message
    else:
        endpoint = config.azure_endpoint or found.endpoint
        return AzureAccount(found.name, endpoint) if config.anonymous else replace(found, endpoint=endpoint)
    raise ConfigError(refused)


def _account_in_environment(config: Config) -> AzureAccount:
    text = variable(_CONNECTION_STRING)
    if text:
        return parse_connection_string(text)
    key, sas = variable(_KEY), variable(_SAS)
    return AzureAccount(
        config.azure_account,
        key=decode_key(key, _KEY) if key else None,
        sas=check_sas(sas, _SAS) if sas else None,
    )


def parse_connection_string(text: str) -> AzureAccount:
    """The account of a connection string. Errors: `ConfigError`, which shows nothing of the string.

    Source: "Configure Azure Storage connection strings". Names are compared without their case.
    """
    entries = _entries(text)
    if entries.get("usedevelopmentstorage", "").lower() == "true":
        proxy = entries.get("developmentstorageproxyuri", "http://127.0.0.1").rstrip("/")
        endpoint = f"{proxy}:10000/{_EMULATOR_ACCOUNT}"
        return AzureAccount(_EMULATOR_ACCOUNT, endpoint, decode_key(_EMULATOR_KEY, _CONNECTION_STRING))
    name, endpoint = entries.get("accountname"), _blob_endpoint(entries)
    key, sas = entries.get("accountkey"), entries.get("sharedaccesssignature")
    return AzureAccount(
        name or _account_in(endpoint),
        endpoint,
        decode_key(key, _CONNECTION_STRING) if key else None,
        check_sas(sas, _CONNECTION_STRING) if sas else None,
    )


def _blob_endpoint(entries: Mapping[str, str]) -> str:
    name, endpoint = entries.get("accountname"), entries.get("blobendpoint")
    if endpoint is None and name is None:
        raise ConfigError(f"{_CONNECTION_STRING} is malformed: it has neither AccountName nor BlobEndpoint")
    if endpoint is None:
        scheme = entries.get("defaultendpointsprotocol", "https")
        endpoint = f"{scheme}://{name}.blob.{entries.get('endpointsuffix', 'core.windows.net')}"
    if "?" in endpoint:
        raise ConfigError(f"{_CONNECTION_STRING} has a query in BlobEndpoint; a SAS goes into SharedAccessSignature")
    return endpoint


def _account_in(endpoint: str) -> str | None:
    """The account of an endpoint: the host's first part at Azure, elsewhere the path."""
    match = _ENDPOINT.fullmatch(endpoint)
    return (match[1] or match[2]) if match else None


def _entries(text: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    for number, entry in enumerate(text.split(";"), 1):
        name, equals, value = entry.strip().partition("=")
        if not equals and name:
            raise ConfigError(f"{_CONNECTION_STRING} is malformed: entry {number} is not of the form name=value")
        if value:
            entries[name.lower()] = value
    return entries


def check_sas(token: str, source: str) -> str:
    """A SAS as part of a query, without a leading `?`. Errors: `ConfigError`, which names `source` only."""
    token = token.lstrip("?&").rstrip("&")
    if not (token.isascii() and token.isprintable()) or set(token) & set(' #"<>\\'):
        raise ConfigError(f"the SAS token in {source} is not a query: it must be quoted as it was issued")
    if "sig" not in dict(parse_qsl(token)):
        raise ConfigError(f"the SAS token in {source} has no signature (sig=)")
    return token


def sas_expiry(token: str) -> datetime | None:
    """From when on the token is refused, if it says so itself; aware, UTC."""
    return iso_time(dict(parse_qsl(token)).get("se"))


def azure_signer(account: AzureAccount, *, tls: bool, anonymous: bool, proxy: str | None = None) -> Signer:
    """The signer for what is known of the account. Tokens are asked for by `proxy`, which is that of the settings.

    Errors: `ConfigError` where a token would travel in the clear.
    """
    if account.key is not None:
        return SharedKeySigner(SharedKey(_named(account), account.key))
    if account.sas is not None:
        return SasSigner(account.sas)
    if anonymous:
        return BearerSigner(None)
    if not tls:
        raise ConfigError(
            f"a token of Entra ID is sent over https only; for http give {_KEY}, {_SAS}, or ask for anonymous access"
        )
    return BearerSigner(SharedCredentials(entra_loader(proxy), lambda: ("entra", proxy, environment_mark())))


def azure_source(config: Config) -> str:
    """Where the credentials for `config` come from, in words that tell nothing of them. Errors: `ConfigError`."""
    account = azure_account(config)
    if config.anonymous:
        return "none: requests are not signed"
    named = "the connection string" if variable(_CONNECTION_STRING) else None
    if account.key or account.sas:
        return named or (_KEY if account.key else _SAS)
    return "Entra ID, by azure-identity, when they are needed"


def _named(account: AzureAccount) -> str:
    if not account.name:
        raise ConfigError(f"there is a key in {_KEY}, but no account name in AZURE_STORAGE_ACCOUNT_NAME")
    return account.name


class SasSigner:
    """Appends a SAS to the query, and to the URL that a copy is made from."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def sign(self, method: str, path: str, query: str, headers: dict[str, str]) -> str:
        """The query with the token in it. No checkpoint. Errors: `ConfigError` for a header that cannot be sent."""
        if _COPY_SOURCE in headers:
            headers[_COPY_SOURCE] += f"?{self._token}"
        check_headers(headers)
        return f"{query}&{self._token}" if query else self._token

    async def recover(self, code: str | None, status: int, headers: Mapping[str, str]) -> bool:
        """There is nothing to change."""
        return False

    def __repr__(self) -> str:
        return f"SasSigner(expires={sas_expiry(self._token)})"


def entra_loader(proxy: str | None = None) -> Callable[[], Token]:
    """A blocking function that gets a token from azure-identity's default chain, which is made at its first call.

    `proxy` is :attr:`..config.Config.proxy`.

    Errors of that: `NoCredentialsError` where nothing is there to ask with, else `PermissionDeniedError`; texts of a
    server are not repeated.
    """
    chain: Any = None

    def load() -> Token:
        nonlocal chain
        if chain is None:
            chain = _default_chain(proxy)
        found = _token_of(chain)
        if not fits_header(found.token):
            raise ConfigError("the token of Entra ID holds a control character")
        return Token({"authorization": f"Bearer {found.token}"}, float(found.expires_on))

    return load


def _token_of(chain: Any) -> Any:
    from azure.core.exceptions import ClientAuthenticationError

    failure: StoreError
    try:
        return chain.get_token(SCOPE)
    except ClientAuthenticationError as error:
        said = next((name for name in _PRINCIPAL if variable(name)), None)
        failure = load_failed(f"Entra ID gives no token for what {said} and its like say", error)
    if said is None:
        failure = NoCredentialsError(_nothing_found(f"Entra ID: {', '.join(_PRINCIPAL)}, a managed identity, az login"))
    raise failure


def _default_chain(proxy: str | None) -> Any:
    try:
        from azure.identity import DefaultAzureCredential
    except ImportError:
        failure = NoCredentialsError(
            _nothing_found(
                "Entra ID (az login, a managed identity, a service principal) needs azure-identity: "
                "pip install 's3dlio[azure]'"
            )
        )
        raise failure from None
    return DefaultAzureCredential(proxies=_proxies(proxy))


def _proxies(setting: str | None) -> dict[str, str]:
    """By scheme, an empty one for none; the environment says for the others, as requests reads it.

    What is asked in clear is the machine's own metadata service.
    """
    if setting is None:
        return {"http": ""}
    return {"http": "", "https": "" if parse_proxy(setting, "proxy") is None else setting}


def _nothing_found(entra: str) -> str:
    return (
        f"no credentials for Azure found; looked at {_CONNECTION_STRING}, {_KEY} and {_SAS}. {entra}. "
        "For public data ask for anonymous access: Config(anonymous=True)"
    )
