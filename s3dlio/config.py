"""Every setting: its name, its environment variable, its default, in one place.

A :class:`Config` is frozen, hashable and holds no secret, but for a password in the URL of a proxy, which it does not
show; credentials are found when they are needed, see :mod:`s3dlio.auth.aws`. A field that is not given, or `None`,
comes from the first of its environment variables that is set and not blank, else from its default; true or false may be
spelled `1`, `yes`, `on`, `0`, `no`, `off`. The environment is read when the `Config` is made, so a notebook may change
it between two stores.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import wraps
from typing import Any, Literal, get_args

from .endpoints import endpoint_urls, joined, separated
from .errors import ConfigError
from .proxy import ProxyUrl, hide_proxy, parse_proxy

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30

Addressing = Literal["auto", "path", "virtual"]
Durable = Literal["full", "file", "none"]
Sse = Literal["AES256", "aws:kms", "aws:kms:dsse"]
Checksums = Literal["require", "when_there", "off"]


_S3_ENDPOINT = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT_URIS")

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


def _setting(
    default: Any,
    *variables: str,
    kind: Callable[[str], Any] | None = None,
    read: Callable[[], Any] | None = None,
) -> Any:
    """A field whose default is read from the environment; `metadata` tells the variables and the built-in default.

    `kind` makes a value of a variable's text; by default it is the type of the default, or text where that is `None`.
    """
    wanted = kind or (str if default is None else type(default))
    factory = read or (lambda: _from_environment(variables, default, wanted))
    return field(default_factory=factory, metadata={"variables": variables, "default": default})


def _flag(default: bool | None, variable: str) -> Any:
    """A field that is true or false, or `None`."""
    return _setting(default, variable, kind=parse_flag)


def parse_flag(text: str) -> bool:
    """What `text` says: true or false. Errors: `ValueError`."""
    said = text.strip().lower()
    if said not in _TRUE | _FALSE:
        raise ValueError(f"neither true nor false: {text!r}")
    return said in _TRUE


def endpoint_in_environment() -> str | None:
    """The S3 endpoint that the environment names, unless it says that none of those counts. Errors: `ConfigError`."""
    if flag_in_environment("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
        return None
    found: str | None = _listed("endpoint", _from_environment(_S3_ENDPOINT, None, str))
    return found


def flag_in_environment(variable: str) -> bool | None:
    """What the environment's `variable` says; `None` where it is not set. Errors: `ConfigError`."""
    found: bool | None = _from_environment((variable,), None, parse_flag)
    return found


@dataclass(frozen=True)
class Config:
    """How stores of one kind are reached and how hard they are driven. Sizes are bytes, times seconds."""

    region: str | None = _setting(None, "AWS_REGION", "AWS_DEFAULT_REGION")
    """Region to sign for; else the profile's, else us-east-1. A wrong one is corrected by the server's answer."""

    endpoint: str | None = _setting(None, *_S3_ENDPOINT, read=endpoint_in_environment)
    """`http(s)://host[:port]` of an S3-compatible server; else the profile's `endpoint_url`, else AWS. What environment
    and profile say of it counts for nothing where `AWS_IGNORE_CONFIGURED_ENDPOINT_URLS` is true.

    This and the other two may be several endpoints that have the same objects: a list, URLs with commas between them,
    `http://10.0.0.{1...8}:9000`, or `@path`, a file with one a line. They are kept as URLs with commas between them."""

    replicas: tuple[str | tuple[str, Config], ...] = _setting((), "S3DLIO_REPLICAS", kind=separated)
    """Where else to read, in this order, what the bucket does not have, or while it is out: URIs of folders, which have
    its objects under the same keys; with commas between them in the environment. `{bucket}` stands for its name. A pair
    of a URI and a `Config` is reached by that, others as the bucket is. See :mod:`s3dlio.replicas`."""

    use_fips_endpoint: bool | None = _flag(None, "AWS_USE_FIPS_ENDPOINT")
    """Have AWS answer with validated cryptography; else as the profile says. For AWS's own hosts alone, as the next."""

    use_dualstack_endpoint: bool | None = _flag(None, "AWS_USE_DUALSTACK_ENDPOINT")
    """Have AWS's host have IPv6 addresses, too; else as the profile says."""

    use_accelerate_endpoint: bool | None = _flag(None, "S3DLIO_USE_ACCELERATE_ENDPOINT")
    """Go by AWS's edge locations (S3 Transfer Acceleration); else as the section `s3` of the profile says."""

    gcs_endpoint: str | None = _setting(None, "STORAGE_EMULATOR_HOST")
    """`http(s)://host[:port]`, or `host:port` for http, of a server that speaks Google's JSON API; else Google."""

    azure_account: str | None = _setting(None, "AZURE_STORAGE_ACCOUNT_NAME")
    """Storage account of `az://container`; where there is none, it is in the URI: `az://account/container`."""

    azure_endpoint: str | None = _setting(None, "AZURE_BLOB_ENDPOINT_URL")
    """`http(s)://host[:port][/account]` of a server that speaks Azure Blob Storage's API; else the account's."""

    addressing: Addressing = _setting("auto", "S3DLIO_ADDRESSING")
    """`virtual` puts the bucket into the host name, `path` into the path; `auto` is virtual on AWS, path elsewhere."""

    profile: str | None = None
    """Take credentials from this profile alone, ahead of keys in the environment."""

    user_agent: str = _setting("s3dlio", "S3DLIO_USER_AGENT")
    """How requests introduce themselves."""

    anonymous: bool = _flag(False, "S3DLIO_ANONYMOUS")
    """Send unsigned requests, as public data allows. For S3 alone, `AWS_NO_SIGN_REQUEST` and `AWS_SKIP_SIGNATURE` ask
    for that as well."""

    requester_pays: bool = _flag(False, "S3DLIO_REQUESTER_PAYS")
    """Agree to be charged for what is asked of a bucket of S3 that demands it of its users."""

    sse: Sse | None = _setting(None, "S3DLIO_SSE")
    """How S3 encrypts what is written: `AES256` with keys of its own, `aws:kms` or `aws:kms:dsse` with one of KMS; else
    as the bucket says."""

    sse_kms_key_id: str | None = _setting(None, "S3DLIO_SSE_KMS_KEY_ID")
    """The key of KMS, by its id or ARN; else the account's own for S3. Without `sse`, it means `aws:kms`."""

    sse_c_key_file: str | None = _setting(None, "S3DLIO_SSE_C_KEY_FILE")
    """A file with the key of 32 bytes, as they are or in base64, that S3 encrypts with and keeps no copy of (SSE-C).
    Every object that is written, read or copied is of this key. It is read when a store is first used, in each process,
    and sent where nobody on the way can read it: over https, or to this host."""

    checksums: Checksums = _setting("when_there", "S3DLIO_CHECKSUMS")
    """Whether bytes are compared by checksums: `when_there` compares what is read with those that the service tells,
    and sends them along where it is known to compare; `off` does neither; `require` has a whole object of which none is
    told be a :class:`s3dlio.errors.ChecksumError`, and sends them with all that is written to a service. For S3,
    `AWS_RESPONSE_CHECKSUM_VALIDATION` and `AWS_REQUEST_CHECKSUM_CALCULATION`, or the profile's settings of these names,
    may say `when_required`, which makes `when_there` mean `off` for reads, or writes."""

    ca_bundle: str | None = _setting(None, "S3DLIO_CA_BUNDLE")
    """Certificate authorities to trust: a file, or a folder that `openssl rehash` has prepared. Else, for S3 alone,
    those of `AWS_CA_BUNDLE`, the profile's `ca_bundle`, or `REQUESTS_CA_BUNDLE`; else those of `SSL_CERT_FILE` and
    `SSL_CERT_DIR`; else the system's."""

    verify_tls: bool = _flag(True, "S3DLIO_VERIFY_TLS")
    """Check certificates and host names. Switching it off warns."""

    proxy: str | None = _setting(None, "S3DLIO_PROXY", kind=ProxyUrl)
    """`http://[user:password@]host[:port]` of an HTTP proxy for whatever the store asks, of services that have
    credentials too; `none`, or empty, for no proxy. Else `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say,
    when a store is opened, see :mod:`s3dlio.proxy`. User and password are percent-encoded; no `repr` shows them, but a
    pickled configuration has them."""

    bind: str | None = _setting(None, "S3DLIO_BIND")
    """Network interfaces of this machine that connections are spread over: names and addresses, in a list or with
    commas between them. Else the system chooses. What credentials are asked of is not bound."""

    connections: int = _setting(64, "S3DLIO_CONNECTIONS")
    """Most connections to one endpoint."""

    part_size: int = _setting(8 * MiB, "S3DLIO_PART_SIZE")
    """Objects above this are read in ranges and written in parts of this size."""

    parts_in_flight: int = _setting(8, "S3DLIO_PARTS_IN_FLIGHT")
    """Most ranges or parts of large objects under way at once, over all objects of a store."""

    memory_limit: int = _setting(256 * MiB, "S3DLIO_MEMORY_LIMIT")
    """Half of this is the most that one sequence of reads fetches ahead of its consumer, so that two can go side
    by side: a pass over a data set, a batch of its objects, the load of a checkpoint. One body or range that is larger
    comes alone. What was handed over and single reads are not counted. A writer of small pieces holds up to this
    limit in buffers of its own, or one part where that is larger. As much, once for the process, is kept for later
    arrays and tensors of readers."""

    cache: str | None = _setting(None, "S3DLIO_CACHE")
    """A folder of this machine in which what is read from a service is kept; the next time it is read from there, see
    :mod:`s3dlio.cache.store`. An empty text means none, whatever the environment says."""

    cache_size: int = _setting(64 * GiB, "S3DLIO_CACHE_SIZE")
    """Bytes that the folder may have. What was used longest ago is removed."""

    file_threads: int = _setting(16, "S3DLIO_FILE_THREADS")
    """Most threads that one `file://` or `direct://` store works on files with, or one store on its cache."""

    durable: Durable = _setting("full", "S3DLIO_DURABLE")
    """What a write to a file waits for: `full` has the file and its directories on the disk, so it survives a power
    failure; `file` the file alone, so its name may be lost, or still mean the old version; `none` waits for nothing."""

    follow_symlinks: bool = _flag(False, "S3DLIO_FOLLOW_SYMLINKS")
    """Follow symbolic links below the root of a `file://` or `direct://` store, wherever they lead."""

    max_attempts: int = _setting(10, "AWS_MAX_ATTEMPTS")
    """Most times one request is sent. Ten bear an outage of half a minute, see :mod:`s3dlio.transport.retry`."""

    request_timeout: float = _setting(math.inf, "S3DLIO_REQUEST_TIMEOUT")
    """Longest time for one request, all its attempts together; large objects and listings are many requests."""

    connect_timeout: float = _setting(20.0, "S3DLIO_CONNECT_TIMEOUT")
    """Longest wait for a connection, TLS included."""

    stall_timeout: float = _setting(60.0, "S3DLIO_STALL_TIMEOUT")
    """Longest wait without a byte moving. There is no limit on the whole."""

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) is None and item.metadata.get("default", "") is None:
                object.__setattr__(self, item.name, item.default_factory())  # type: ignore[operator]
        object.__setattr__(self, "replicas", _kept(self.replicas))
        for name in ENDPOINTS:
            object.__setattr__(self, name, _listed(name, getattr(self, name)))
        object.__setattr__(self, "bind", joined(self.bind))
        _check(self)

    def __repr__(self) -> str:  # of one half made, too: an error on the way has it in its frames
        return f"Config({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def _hiding_proxy(make: Callable[..., None]) -> Callable[..., None]:
    """What makes a configuration, its frames without a proxy's password: an error passes them."""

    @wraps(make)
    def init(config: Config, *args: Any, **settings: Any) -> None:
        hide_proxy(settings)
        make(config, *args, **settings)

    return init


Config.__init__ = _hiding_proxy(Config.__init__)  # type: ignore[method-assign]


def _from_environment(variables: Sequence[str], default: Any, kind: Callable[[str], Any]) -> Any:
    found = next((variable for variable in variables if os.environ.get(variable, "").strip()), None)
    if found is None:
        return default
    text = os.environ[found].strip()
    try:
        return kind(text)
    except ValueError:
        wanted = "true or false" if kind is parse_flag else "a number"
        raise ConfigError(f"{found} must be {wanted}, not {text!r}") from None


_POSITIVE = (
    *("connections", "part_size", "parts_in_flight", "memory_limit", "cache_size", "file_threads"),
    *("max_attempts", "request_timeout", "connect_timeout"),
)

_CHOICES = {
    "addressing": get_args(Addressing),
    "durable": get_args(Durable),
    "sse": (None, *get_args(Sse)),
    "checksums": get_args(Checksums),
    **dict.fromkeys(("anonymous", "requester_pays", "verify_tls", "follow_symlinks"), (True, False)),
    **dict.fromkeys(("use_fips_endpoint", "use_dualstack_endpoint", "use_accelerate_endpoint"), (True, False, None)),
}

ENDPOINTS = ("endpoint", "gcs_endpoint", "azure_endpoint")

_TEXTS = (
    *("region", "endpoint", "gcs_endpoint", "azure_account", "azure_endpoint", "profile", "ca_bundle", "proxy", "bind"),
    *("sse_kms_key_id", "sse_c_key_file", "cache"),
)


def _kept(replicas: Any) -> tuple[str | tuple[str, Config], ...]:
    """A configuration can be a key of a dictionary. Errors: `ConfigError`."""
    if not isinstance(replicas, list | tuple):
        raise ConfigError(f"replicas must be a list, not {type(replicas).__name__}")
    kept = tuple(tuple(each) if isinstance(each, list) else each for each in replicas)
    for each in kept:
        uri = each if isinstance(each, str) else _uri_of(each)
        if uri is None or "?" in uri or ("@" in uri and not uri.startswith("abfss://")):
            raise ConfigError("replicas are URIs without user or query, or pairs of such a URI and a Config")
    return kept


def _uri_of(replica: Any) -> str | None:
    """That of a pair, if it is one."""
    match replica:
        case (str(uri), Config()):
            return uri
    return None


def _listed(name: str, given: Any) -> Any:
    """One text for several endpoints."""
    given = joined(given)
    if not isinstance(given, str) or {",", "{", "@"}.isdisjoint(given):
        return given
    try:
        return ",".join(endpoint_urls(given))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error.message}") from None


def _check(config: Config) -> None:
    for name in (*_POSITIVE, "stall_timeout"):
        value = getattr(config, name)
        if not isinstance(value, int | float) or not value > 0:
            raise ConfigError(f"{name} must be a number above zero, not {value!r}")
    agent = config.user_agent
    if not isinstance(agent, str) or not (agent.isascii() and agent.isprintable()):
        raise ConfigError(f"user_agent must be printable ASCII, as HTTP headers are, not {agent!r}")
    for name, choices in _CHOICES.items():
        if getattr(config, name) not in choices:
            raise ConfigError(f"{name} must be one of {', '.join(map(str, choices))}, not {getattr(config, name)!r}")
    for name in _TEXTS:
        value = getattr(config, name)
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{name} must be text, not {type(value).__name__}")
        if value and name.endswith("endpoint") and not {"@", "?"}.isdisjoint(value):
            raise ConfigError(f"{name} must not hold a user, a password or a query: it is shown in errors")
    parse_proxy(config.proxy or "", "proxy")
    if config.sse_kms_key_id and config.sse == "AES256":
        raise ConfigError("sse_kms_key_id is a key of KMS: it cannot be combined with sse='AES256'")
    if config.sse_c_key_file and (config.sse or config.sse_kms_key_id):
        raise ConfigError("an object has one key: sse_c_key_file cannot be combined with sse or sse_kms_key_id")
