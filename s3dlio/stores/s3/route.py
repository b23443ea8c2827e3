"""Which host answers for a bucket, and with which path: pure.

Source: "Virtual hosting of general purpose buckets", Amazon S3 User Guide; host names from the AWS General Reference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ...config import Addressing
from ...errors import ConfigError, ErrorContext, InvalidUriError
from ...transport.endpoint import Endpoint, parse_endpoint

DEFAULT_REGION = "us-east-1"

_REGION = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,253}[A-Za-z0-9]|[A-Za-z0-9]")
_DNS_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_AWS_HOST = re.compile(r"s3[.-].*\.amazonaws\.com(?:\.cn)?|s3\.amazonaws\.com")
_ADDRESS = re.compile(r"[0-9.]+|.*:.*")


@dataclass(frozen=True, slots=True)
class Route:
    """How one bucket is reached: below the endpoint, objects are at `path`, a slash, and the quoted key."""

    endpoint: Endpoint
    path: str
    region: str


def check_region(region: str) -> str:
    """A region that may become part of a host name. Errors: `ConfigError`."""
    if not _REGION.fullmatch(region):
        raise ConfigError(f"not a region: {region!r}")
    return region


def check_bucket(bucket: str) -> str:
    """A bucket's name that changes neither host nor path. Errors: `InvalidUriError`."""
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise InvalidUriError(f"not a bucket name: {bucket!r}", ErrorContext(bucket=bucket))
    return bucket


def route(bucket: str, region: str, endpoint: str | None, addressing: Addressing) -> Route:
    """The route to `bucket`, at `endpoint` or, where that is `None`, at AWS. Errors: `ConfigError`."""
    server = parse_endpoint(endpoint) if endpoint else Endpoint("https", _aws_host(check_region(region)), 443)
    if _virtual(bucket, server, addressing):
        return Route(replace(server, host=f"{bucket}.{server.host}"), "", region)
    return Route(server, f"/{bucket}", region)


def _aws_host(region: str) -> str:
    return f"s3.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")


def _virtual(bucket: str, server: Endpoint, addressing: Addressing) -> bool:
    """Whether the bucket goes into the host name. A dotted one has no certificate; an address has no names under it."""
    possible = bool(_DNS_BUCKET.fullmatch(bucket)) and not _ADDRESS.fullmatch(server.host)
    if "." in bucket and server.tls:
        possible = False
    return possible and (addressing == "virtual" or (addressing == "auto" and is_aws(server)))


def is_aws(server: Endpoint) -> bool:
    """Whether the host is one of Amazon's."""
    return bool(_AWS_HOST.fullmatch(server.host))


def regional_endpoint(config_endpoint: str | None, region: str) -> str | None:
    """Where to ask for a bucket that turned out to be in `region`: another host at AWS, the same one elsewhere."""
    if config_endpoint is None or is_aws(parse_endpoint(config_endpoint)):
        return None
    check_region(region)
    return config_endpoint
