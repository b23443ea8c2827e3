"""Every setting: its name, its environment variable, its default, in one place.

A :class:`Config` is frozen, hashable and holds no secret; credentials are found when they are needed, see
:mod:`s3dlio.auth.aws`. A field that is not given, or `None`, comes from the first of its environment variables
that is set and not empty, else from its default. The environment is read when the `Config` is made, so a notebook may
change it between two stores.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from .errors import ConfigError

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30

Addressing = Literal["auto", "path", "virtual"]
Durable = Literal["full", "file", "none"]


def _setting(default: Any, *variables: str) -> Any:
    """A field whose default is read from the environment; `metadata` tells the variables and the built-in default."""
    metadata = {"variables": variables, "default": default}
    return field(default_factory=lambda: _from_environment(variables, default), metadata=metadata)


@dataclass(frozen=True)
class Config:
    """How stores of one kind are reached and how hard they are driven. Sizes are bytes, times seconds."""

    region: str | None = _setting(None, "AWS_REGION", "AWS_DEFAULT_REGION")
    """Region to sign for; else the profile's, else us-east-1. A wrong one is corrected by the server's answer."""

    endpoint: str | None = _setting(None, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    """`http(s)://host[:port]` of an S3-compatible server; else the profile's `endpoint_url`, else AWS."""

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

    user_agent: str = "s3dlio"
    """How requests introduce themselves."""

    anonymous: bool = False
    """Send unsigned requests."""

    ca_bundle: str | None = _setting(None, "AWS_CA_BUNDLE", "SSL_CERT_FILE")
    """File of certificate authorities to trust instead of the system's."""

    verify_tls: bool = True
    """Check certificates and host names. Switching it off warns."""

    connections: int = _setting(64, "S3DLIO_CONNECTIONS")
    """Most connections to one endpoint."""

    part_size: int = _setting(8 * MiB, "S3DLIO_PART_SIZE")
    """Objects above this are read in ranges and written in parts of this size."""

    parts_in_flight: int = _setting(8, "S3DLIO_PARTS_IN_FLIGHT")
    """Most ranges or parts of large objects under way at once, over all objects of a store."""

    memory_limit: int = _setting(256 * MiB, "S3DLIO_MEMORY_LIMIT")
    """Half of this is the most that one sequence of reads fetches ahead of its consumer, so that two can go side
    by side: a pass over a data set, a batch of its objects, the load of a checkpoint. One body or range that is larger
    comes alone. What was handed over, single reads and writers are not counted; a writer of small pieces holds up to
    `parts_in_flight` + 1 parts."""

    file_threads: int = _setting(16, "S3DLIO_FILE_THREADS")
    """Most threads that one `file://` or `direct://` store works on files with."""

    durable: Durable = _setting("full", "S3DLIO_DURABLE")
    """What a write to a file waits for: `full` has the file and its directories on the disk, so it survives a power
    failure; `file` the file alone, so its name may be lost, or still mean the old version; `none` waits for nothing."""

    follow_symlinks: bool = False
    """Follow symbolic links below the root of a `file://` or `direct://` store, wherever they lead."""

    max_attempts: int = _setting(3, "AWS_MAX_ATTEMPTS")
    """Most times one request is sent."""

    connect_timeout: float = _setting(20.0, "S3DLIO_CONNECT_TIMEOUT")
    """Longest wait for a connection, TLS included."""

    stall_timeout: float = _setting(60.0, "S3DLIO_STALL_TIMEOUT")
    """Longest wait without a byte moving. There is no limit on the whole."""

    def __post_init__(self) -> None:
        for item in fields(self):
            if getattr(self, item.name) is None:
                value = _from_environment(item.metadata.get("variables", ()), None)
                object.__setattr__(self, item.name, value)
        _check(self)


def _from_environment(variables: Sequence[str], default: Any) -> Any:
    found = next((variable for variable in variables if os.environ.get(variable)), None)
    if found is None:
        return default
    kind = type(default) if default is not None else str
    try:
        return kind(os.environ[found])
    except ValueError:
        raise ConfigError(f"{found} must be a number, not {os.environ[found]!r}") from None


_POSITIVE = (
    "connections", "part_size", "parts_in_flight", "memory_limit", "file_threads", "max_attempts", "connect_timeout",
)  # fmt: skip

_CHOICES = {"addressing": get_args(Addressing), "durable": get_args(Durable)}


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
            raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {getattr(config, name)!r}")
