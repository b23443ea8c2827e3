"""`S3ClientConfig`, and what it means in our own settings."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ...config import Config, GiB, MiB
from ...errors import ConfigError
from .errors import S3Exception, translated

_SMALLEST_PART = 5 * MiB
_LARGEST_PART = 5 * GiB


@dataclass(frozen=True)
class S3ClientConfig:
    """How the S3 client works. Nothing is checked before the client is first used.

    `throughput_target_gbps` is accepted and has no effect: the transfers here adapt to what the network gives.
    `part_size` (bytes, 5 MiB to 5 GiB) is the size of parallel range reads and of upload parts. `unsigned` sends no
    credentials. `force_path_style` puts the bucket into the path. `max_attempts` is how often one request is sent;
    `AWS_MAX_ATTEMPTS` overrides it. `profile` takes credentials from that profile alone.
    """

    throughput_target_gbps: float = 10.0
    part_size: int = 8 * MiB
    unsigned: bool = False
    force_path_style: bool = False
    max_attempts: int = 10
    profile: str | None = None


_ENDPOINTS = {"s3": "endpoint", "az": "azure_endpoint", "abfss": "azure_endpoint", "gs": "gcs_endpoint"}


def store_config(scheme: str, region: str | None, endpoint: str | None, wanted: S3ClientConfig | None) -> Config:
    """The settings of the stores of one scheme behind one client.

    A region or endpoint that is `None` or empty comes from the environment. Files have no endpoint.
    Errors: `TypeError` for a part size that is no integer; `S3Exception` for a value that cannot be used.
    """
    wanted = wanted or S3ClientConfig()
    _check_part_size(wanted.part_size)
    where: dict[str, Any] = {_ENDPOINTS[scheme]: endpoint} if endpoint and scheme in _ENDPOINTS else {}
    with translated():
        return Config(
            region=region or None,
            addressing="path" if wanted.force_path_style else "auto",
            profile=wanted.profile,
            anonymous=wanted.unsigned,
            part_size=wanted.part_size,
            max_attempts=_max_attempts(wanted.max_attempts),
            **where,
        )


def _check_part_size(part_size: int) -> None:
    if not isinstance(part_size, int):
        raise TypeError(f"part_size must be an integer, not {type(part_size).__name__}")
    if not _SMALLEST_PART <= part_size <= _LARGEST_PART:
        raise S3Exception("invalid configuration: part size must be at between 5MiB and 5GiB")


def _max_attempts(configured: int) -> int:
    stated = os.environ.get("AWS_MAX_ATTEMPTS") or configured
    try:
        return int(stated)
    except ValueError:
        raise ConfigError(f"AWS_MAX_ATTEMPTS must be a number, not {stated!r}") from None
