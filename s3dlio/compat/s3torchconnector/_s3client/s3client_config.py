"""`S3ClientConfig`, and what it means in our own settings."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from ....config import Config, GiB, MiB
from ....endpoints import joined
from ....errors import ConfigError
from ..arguments import check, check_given, count, integer, real
from ..errors import S3Exception, translated

_SMALLEST_PART = 5 * MiB
_LARGEST_PART = 5 * GiB

_ONE_REQUEST = 87.5e6
"""Bytes a second that one request is reckoned to bring. Source: "Performance guidelines for Amazon S3", which says one
concurrent request for each 85 to 90 MB/s."""

_BYTES_IN_FLIGHT = 256 * MiB


@dataclass(frozen=True)
class S3ClientConfig:
    """How the S3 client works. Nothing is checked before the client is first used.

    - `throughput_target_gbps` (gigabits a second; 0 means the default): from it follows how many parts are in flight.
    - `part_size` (bytes, 5 MiB to 5 GiB) is the size of parallel range reads and of upload parts; those grow, so that
      10,000 of them, the most there can be, hold any object.
    - `unsigned` looks for no credentials and sends none, as a public bucket allows.
    - `force_path_style` puts the bucket into the path; without it, it is in the host name on AWS alone.
    - `max_attempts` is how often one request is sent before its error is raised; `AWS_MAX_ATTEMPTS` overrides it.
    - `profile` takes credentials from that profile of the AWS configuration files alone.
    - `requester_pays` says in every request that its sender pays for it, as some buckets demand.

    Settings that have no field here come from the environment: see :class:`s3dlio.Config`.
    Errors: `ValueError` for `requester_pays` with `unsigned`, as nobody could be charged. On first use: `S3Exception`
    for a value out of bounds, `TypeError` for one of the wrong type.
    """

    throughput_target_gbps: float = 10.0
    part_size: int = 8 * MiB
    unsigned: bool = False
    force_path_style: bool = False
    max_attempts: int = 10
    profile: str | None = None
    requester_pays: bool = False

    def __post_init__(self) -> None:
        if self.requester_pays and self.unsigned:
            raise ValueError("requester_pays needs signed requests: it cannot be used with unsigned=True")


_ENDPOINTS = {"s3": "endpoint", "az": "azure_endpoint", "abfss": "azure_endpoint", "gs": "gcs_endpoint"}


def store_config(
    scheme: str, region: str | None, endpoint: str | None, wanted: S3ClientConfig, **settings: Any
) -> Config:
    """The settings of the stores of one scheme behind one client; `settings` are further fields of :class:`Config`.

    A region or endpoint that is `None` or empty comes from the environment, and so does what is not asked for here.
    Files have no endpoint.
    Errors: `TypeError` for a value of the wrong type; `S3Exception` for one that cannot be used.
    """
    several = joined(endpoint)
    check_given(region=region, endpoint=several)
    _check(wanted)
    if several and scheme in _ENDPOINTS:
        settings[_ENDPOINTS[scheme]] = several
    if wanted.force_path_style:
        settings["addressing"] = "path"
    for name, given in (("anonymous", wanted.unsigned), ("requester_pays", wanted.requester_pays)):
        if given:
            settings[name] = True
    with translated():
        return Config(
            region=region or None,
            profile=wanted.profile,
            part_size=int(wanted.part_size),
            parts_in_flight=parts_in_flight(wanted.throughput_target_gbps, wanted.part_size),
            max_attempts=_max_attempts(wanted.max_attempts),
            **settings,
        )


def parts_in_flight(gbps: float, part_size: int) -> int:
    """How many parts of `part_size` bytes to have in flight for a throughput: enough, and not too much memory."""
    wanted = (gbps or S3ClientConfig.throughput_target_gbps) * 1e9 / 8 / _ONE_REQUEST
    return max(2, math.ceil(min(wanted, _BYTES_IN_FLIGHT // part_size)))


def _check(wanted: S3ClientConfig) -> None:
    target = real("throughput_target_gbps", wanted.throughput_target_gbps)
    if not target >= 0:
        raise S3Exception(f"invalid configuration: throughput_target_gbps must be zero or more, not {target}")
    if not _SMALLEST_PART <= count("part_size", wanted.part_size) <= _LARGEST_PART:
        raise S3Exception("invalid configuration: part size must be at between 5MiB and 5GiB")
    flags = ("unsigned", "force_path_style", "requester_pays")
    check(bool, **{name: getattr(wanted, name) for name in flags})
    integer("max_attempts", wanted.max_attempts)
    check_given(profile=wanted.profile)


def _max_attempts(configured: int) -> int:
    stated = os.environ.get("AWS_MAX_ATTEMPTS") or configured
    try:
        return int(stated)
    except ValueError:
        raise ConfigError(f"AWS_MAX_ATTEMPTS must be a number, not {stated!r}") from None
