"""Which host answers for a bucket, and with which path: pure.

At AWS, a host is made of the region and its partition's domain; with FIPS, dual stack and acceleration it is what
botocore's rules for endpoints make of them. AWS's rules hold for AWS's hosts: elsewhere a region is any name.

Source: "Virtual hosting of general purpose buckets", "Amazon S3 Transfer Acceleration" and "Making requests over IPv6"
in the Amazon S3 User Guide; domains from botocore's `partitions.json`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ...config import Addressing
from ...errors import ConfigError, ErrorContext, InvalidUriError
from ...transport.endpoint import Endpoint, parse_endpoint
from ...transport.http1 import quote_path
from .directory import zone_of

DEFAULT_REGION = "us-east-1"

_DOMAIN = "amazonaws.com"
_CHINA = "amazonaws.com.cn"
_DOMAINS = {
    "cn": _CHINA,
    "eusc-de": "amazonaws.eu",
    "us-iso": "c2s.ic.gov",
    "us-isob": "sc2s.sgov.gov",
    "eu-isoe": "cloud.adc-e.uk",
    "us-isof": "csp.hci.ic.gov",
}
"""The partitions whose domain is not `amazonaws.com`, by what their regions begin with."""

_OTHER_PARTITION = re.compile(rf"({'|'.join(_DOMAINS)})-[a-z0-9]+-[0-9]+")
_REGION = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SIGNED_REGION = re.compile(r"[!-+\-.0-~]{1,128}")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,253}[A-Za-z0-9]|[A-Za-z0-9]")
_DNS_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_AWS_DOMAIN = rf"(?:{'|'.join(map(re.escape, (_CHINA, _DOMAIN, *_DOMAINS.values())))})"
_AWS_HOST = re.compile(rf"s3(-accelerate)?(-fips)?(\.dualstack)?(?:[.-][a-z0-9-]+)?\.{_AWS_DOMAIN}")
_ADDRESS = re.compile(r"[0-9.]+|.*:.*")


class Variant(NamedTuple):
    """Which of AWS's hosts are asked: those with validated cryptography, with IPv6, at the edge of its network."""

    fips: bool = False
    dualstack: bool = False
    accelerate: bool = False


PLAIN = Variant()


@dataclass(frozen=True, slots=True)
class Route:
    """How one bucket is reached: below the endpoint, objects are at `path`, a slash, and the quoted key.

    `aws` is whether the host is one of Amazon's for general buckets; `express` whether the bucket is a directory.
    """

    endpoint: Endpoint
    path: str
    region: str
    aws: bool
    express: bool = False


def check_region(region: str) -> str:
    """A region that may become part of a host name. Errors: `ConfigError`."""
    if not _REGION.fullmatch(region):
        raise ConfigError(f"not a region of AWS: {region!r}")
    return region


def _check_signed(region: str) -> str:
    """A region that is only signed for: any name that the header has room for. Errors: `ConfigError`."""
    if not _SIGNED_REGION.fullmatch(region):
        raise ConfigError(f"not the name of a region: {region!r}")
    return region


def check_bucket(bucket: str) -> str:
    """A bucket's name that changes neither host nor path. Errors: `InvalidUriError`."""
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise InvalidUriError(f"not a bucket name: {bucket!r}", ErrorContext(bucket=bucket))
    return bucket


def route(bucket: str, region: str, endpoint: str | None, addressing: Addressing, variant: Variant = PLAIN) -> Route:
    """The route to `bucket`, at `endpoint` or, where that is `None`, at AWS by `variant`. Errors: `ConfigError`."""
    zone = zone_of(bucket)
    if zone and variant.accelerate:
        raise ConfigError("there is no acceleration for directory buckets")
    if endpoint:
        server = parse_endpoint(endpoint)
        signed = check_region(region) if _is_s3(server) else _check_signed(region)
    else:
        signed, variant = _canonical(check_region(region), variant)
        server = Endpoint("https", _aws_host(signed, variant, zone), 443)
        addressing = "virtual" if zone else addressing
    if variant.accelerate:
        _check_accelerated(bucket, endpoint)
    aws = not zone and bool(re.fullmatch(rf".*\.{_AWS_DOMAIN}", server.host))
    if _virtual(bucket, server, "virtual" if variant.accelerate else addressing):
        return Route(replace(server, host=f"{bucket}.{server.host}"), "", signed, aws, bool(zone))
    return Route(server, f"/{quote_path(bucket)}", signed, aws, bool(zone))


def alike(routes: Sequence[Route]) -> Route:
    """The first of `routes`, which requests are made for: the others differ in the server alone.

    Errors: `ConfigError` where they do not.
    """
    first = routes[0]
    for other in routes[1:]:
        if (other.path, other.aws, other.endpoint.tls) != (first.path, first.aws, first.endpoint.tls):
            raise ConfigError(f"endpoints of one store must be of one kind: {first.endpoint} and {other.endpoint}")
    return first


def _canonical(region: str, variant: Variant) -> tuple[str, Variant]:
    """Without what old names of regions said beside the region."""
    plain = region.replace("fips-", "").replace("-fips", "")
    return DEFAULT_REGION if plain == "aws-global" else plain, variant._replace(fips=variant.fips or plain != region)


def _aws_host(region: str, variant: Variant, zone: str | None = None) -> str:
    domain = _domain(region)
    if variant.fips and (variant.accelerate or domain == _CHINA):
        raise ConfigError(f"there are no FIPS endpoints in {region!r}, and none with acceleration")
    if variant.accelerate and domain == _CHINA:
        raise ConfigError(f"there is no acceleration in {region!r}")
    dualstack = ".dualstack" if variant.dualstack else ""
    if variant.accelerate:
        return f"s3-accelerate{dualstack}.{domain}"
    if zone:
        return f"s3express-{'fips-' if variant.fips else ''}{zone}{dualstack}.{region}.{domain}"
    return f"s3{'-fips' if variant.fips else ''}{dualstack}.{region}.{domain}"


def _domain(region: str) -> str:
    match = _OTHER_PARTITION.fullmatch(region)
    return _DOMAINS[match[1]] if match else _DOMAIN


def _check_accelerated(bucket: str, endpoint: str | None) -> None:
    if endpoint:
        raise ConfigError("acceleration is for AWS's own hosts: it cannot be combined with an endpoint")
    if not _DNS_BUCKET.fullmatch(bucket) or "." in bucket:
        raise ConfigError(
            f"bucket {bucket!r} cannot be accelerated: its name must fit into that of a host, without dots"
        )


def _virtual(bucket: str, server: Endpoint, addressing: Addressing) -> bool:
    """Whether the bucket goes into the host name. A dotted one has no certificate; an address has no names under it."""
    possible = bool(_DNS_BUCKET.fullmatch(bucket)) and not _ADDRESS.fullmatch(server.host)
    if "." in bucket and server.tls:
        possible = False
    return possible and (addressing == "virtual" or (addressing == "auto" and _is_s3(server)))


def _is_s3(server: Endpoint) -> bool:
    """Whether the host is one of those that Amazon has for S3."""
    return bool(_AWS_HOST.fullmatch(server.host))


def regional_endpoint(endpoint: str | None, region: str) -> str | None:
    """Where to ask for a bucket that turned out to be in `region`: another host at AWS, the same one elsewhere.

    Errors: `ConfigError` where `region` is none.
    """
    if not endpoint:
        return None
    return ",".join(_regional(url, region) for url in endpoint.split(","))


def _regional(endpoint: str, region: str) -> str:
    server = parse_endpoint(endpoint)
    match = _AWS_HOST.fullmatch(server.host)
    if match is None or match[1]:
        _check_signed(region)
        return endpoint
    host = _aws_host(check_region(region), Variant(bool(match[2]), bool(match[3])))
    return str(replace(server, host=host))
