"""What a configuration and the profile in use say together."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from ...auth.aws import ProfileSettings
from ...auth.environment import variable
from ...config import Addressing, Checksums, Config, endpoint_in_environment
from ...errors import ConfigError
from .route import Variant


def with_profile(config: Config, settings: ProfileSettings) -> Config:
    """The configuration, with what it leaves open taken from the profile. Errors: `ConfigError`."""
    style = settings.addressing_style if config.addressing == "auto" else None
    ca_bundle = config.ca_bundle or variable("AWS_CA_BUNDLE") or settings.ca_bundle or variable("REQUESTS_CA_BUNDLE")
    return replace(
        config,
        region=config.region or settings.region,
        endpoint=_endpoint(config.endpoint, settings),
        ca_bundle=ca_bundle or None,
        addressing=cast("Addressing", style or config.addressing),
        use_fips_endpoint=_first(config.use_fips_endpoint, settings.use_fips_endpoint),
        use_dualstack_endpoint=_first(config.use_dualstack_endpoint, settings.use_dualstack_endpoint),
        use_accelerate_endpoint=_first(config.use_accelerate_endpoint, settings.use_accelerate_endpoint),
    )


def _first(asked: bool | None, otherwise: bool | None) -> bool | None:
    return otherwise if asked is None else asked


def _endpoint(configured: str | None, settings: ProfileSettings) -> str:
    """The endpoint, or an empty one for AWS: in its place `None` would be looked for in the environment again."""
    if settings.ignore_configured_endpoint_urls and configured == endpoint_in_environment():
        return ""
    return configured or settings.endpoint_url or ""


def compared(config: Config, settings: ProfileSettings) -> tuple[Checksums, Checksums]:
    """What `checksums` means for reads, and for writes.

    Where they are compared when they are there, AWS's own settings may say that only those are which a service demands.
    Source: "Data integrity protections" in the AWS SDKs and Tools Reference Guide. Errors: `ConfigError`.
    """
    return (
        _compared(config.checksums, "response_checksum_validation", settings.response_checksum_validation),
        _compared(config.checksums, "request_checksum_calculation", settings.request_checksum_calculation),
    )


def _compared(checksums: Checksums, name: str, in_profile: str | None) -> Checksums:
    said = variable(f"AWS_{name.upper()}") or in_profile or "when_supported"
    if said.lower() not in ("when_supported", "when_required"):
        raise ConfigError(f"{name} must be when_supported or when_required, not {said!r}")
    return "off" if checksums == "when_there" and said.lower() == "when_required" else checksums


def variant_of(config: Config) -> Variant:
    """Which of AWS's hosts are asked for."""
    return Variant(
        fips=bool(config.use_fips_endpoint),
        dualstack=bool(config.use_dualstack_endpoint),
        accelerate=bool(config.use_accelerate_endpoint),
    )
