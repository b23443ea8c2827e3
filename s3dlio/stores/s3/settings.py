"""What a configuration and the profile in use say together."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from ...auth.aws import ProfileSettings
from ...auth.environment import variable
from ...config import Addressing, Config, endpoint_in_environment
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


def variant_of(config: Config) -> Variant:
    """Which of AWS's hosts are asked for."""
    return Variant(
        fips=bool(config.use_fips_endpoint),
        dualstack=bool(config.use_dualstack_endpoint),
        accelerate=bool(config.use_accelerate_endpoint),
    )
