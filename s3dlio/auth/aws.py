"""Where AWS credentials come from, and what a profile says beside them.

Keys in the environment are taken as they are. Everything else (profiles, roles, web identity, SSO, containers, instance
metadata) is botocore's work: imported on first use, run in a thread, asked for a frozen snapshot, which
:class:`.refreshing.SharedCredentials` keeps fresh, for all stores that would find the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..config import Config, flag_in_environment, parse_flag
from ..errors import ConfigError, NoCredentialsError, ProfileNotFoundError, StoreError
from ..proxy import parse_proxy
from .environment import environment_mark, variable
from .refreshing import SharedCredentials, load_failed
from .signer import fits_header
from .sigv4 import Credentials, CredentialsProvider


class StaticCredentials:
    """The same credentials for ever, or `None`: anonymous."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._credentials = credentials

    async def get(self) -> Credentials | None:
        """What it was made with. No checkpoint."""
        return self._credentials

    async def refresh(self, rejected: Credentials) -> bool:
        """There is nothing to fetch. No checkpoint."""
        return False

    def __repr__(self) -> str:
        return f"StaticCredentials({self._credentials!r})"


def aws_credentials(config: Config) -> CredentialsProvider:
    """What `config` asks for: nobody, a profile alone, the environment's keys, or botocore's default chain.

    Keys that say when they expire (`AWS_CREDENTIAL_EXPIRATION`) are botocore's work too: it reads them anew in time.
    Reads the environment now, files and networks on first use. Errors: `ConfigError` for keys no header can hold.
    """
    if config.anonymous or any(map(flag_in_environment, _UNSIGNED)):
        return StaticCredentials(None)
    in_environment = None if config.profile or variable("AWS_CREDENTIAL_EXPIRATION") else _environment_keys()
    if in_environment is not None:
        return StaticCredentials(in_environment)
    return SharedCredentials(partial(_load_from_chain, config), partial(_what_decides, config))


def _what_decides(config: Config) -> tuple[object, ...]:
    """All that the outcome of the search depends on, but for services."""
    asked = config.profile, config.region, config.proxy
    return "aws", *asked, environment_mark(), *map(_stamp, (_config_file(), _credentials_file()))


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).expanduser().stat()
    except (OSError, RuntimeError):
        return None
    return found.st_mtime_ns, found.st_size


def _has_text(path: str) -> bool:
    stamp = _stamp(path)
    return stamp is not None and stamp[1] > 0


def _environment_keys() -> Credentials | None:
    found = Credentials(
        variable("AWS_ACCESS_KEY_ID"),
        variable("AWS_SECRET_ACCESS_KEY"),
        variable("AWS_SESSION_TOKEN") or None,
    )
    return _usable(found) if found.access_key and found.secret_key else None


def _usable(credentials: Credentials) -> Credentials:
    """The same, if requests can carry them."""
    if not (fits_header(credentials.access_key) and fits_header(credentials.token or "")):
        raise ConfigError("the access key or session token found holds a control character")
    return credentials


_UNSIGNED = ("AWS_NO_SIGN_REQUEST", "AWS_SKIP_SIGNATURE")
_METADATA_ATTEMPTS = 4
_NOT_OF_A_PROFILE = ("ec2-credentials-file", "boto-config", "container-role", "iam-role")


def credentials_source(config: Config) -> str:
    """Where the credentials for `config` come from, in words that tell nothing of them. Blocking: as they are found.

    Errors: `ConfigError`, `NoCredentialsError`, `PermissionDeniedError`.
    """
    if config.anonymous or any(map(flag_in_environment, _UNSIGNED)):
        return "none: requests are not signed"
    if not (config.profile or variable("AWS_CREDENTIAL_EXPIRATION")) and _environment_keys() is not None:
        return "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    method = _from_chain(config)[1]
    in_files = f", of profile {config.profile or os.environ.get('AWS_PROFILE', 'default')!r} in {_files()}"
    return method + (in_files if method.endswith("-file") else "")


def _load_from_chain(config: Config) -> Credentials:
    """Blocking: a snapshot from botocore. A new session each time, so that changed files are seen."""
    return _from_chain(config)[0]


def _from_chain(config: Config) -> tuple[Credentials, str]:
    """The snapshot, and by which of its methods botocore had it."""
    failure: StoreError
    try:
        found = _session(config).get_credentials()
        if found is not None:
            return _usable(_snapshot(found)), str(found.method)
        failure = NoCredentialsError(_nothing_found(config))
    except ConfigError:
        raise
    except Exception as error:
        failure = _translate(error)
    if isinstance(failure, ProfileNotFoundError) and not config.profile:
        failure = NoCredentialsError(failure.message)  # `AWS_PROFILE` is one place to look at among others
    raise failure


def _session(config: Config) -> Any:
    from botocore.session import Session

    session = Session(profile=config.profile or None)
    if config.region:
        session.set_config_variable("region", config.region)
    attempts = max(_METADATA_ATTEMPTS, session.get_config_variable("metadata_service_num_attempts"))
    session.set_config_variable("metadata_service_num_attempts", attempts)
    resolver = session.get_component("credential_provider")
    _set_proxies(session, resolver, config.proxy)
    if config.profile:
        for method in _NOT_OF_A_PROFILE:
            resolver.remove(method)
    return session


def _set_proxies(session: Any, resolver: Any, setting: str | None) -> None:
    """Have services asked by the proxy of the settings, if they name one, and the instance's own by none.

    botocore heeds the environment; but a proxy would answer a question about this instance with its own role.
    """
    from botocore.config import Config as ClientConfig
    from botocore.httpsession import URLLib3Session

    if setting is not None:
        proxies = {} if parse_proxy(setting, "proxy") is None else dict.fromkeys(("http", "https"), setting)
        session.set_default_client_config(ClientConfig(proxies=proxies))
    fetcher = getattr(resolver.get_provider("iam-role"), "_role_fetcher", None)
    if fetcher is not None:
        fetcher._session = URLLib3Session(timeout=fetcher._timeout)


def _snapshot(found: Any) -> Credentials:
    frozen = found.get_frozen_credentials()
    expiry = getattr(found, "_expiry_time", None)
    expires_at = expiry.timestamp() if expiry is not None else None
    return Credentials(frozen.access_key, frozen.secret_key, frozen.token or None, expires_at)


def _translate(error: Exception) -> StoreError:
    """One of ours for an error of botocore. To be raised when that is handled: `__context__` would keep its frames.

    Texts that quote a program or a server are not repeated, only chained.
    """
    from botocore import exceptions

    match error:
        case exceptions.ProfileNotFound():
            return ProfileNotFoundError(f"there is no profile {error.kwargs['profile']!r} in {_files()}")
        case exceptions.ConfigParseError():
            return ConfigError(f"{error.kwargs['path']} cannot be parsed")
        case exceptions.ClientError():
            reason = f"{error.operation_name} answered {error.response.get('Error', {}).get('Code')}"
        case exceptions.CredentialRetrievalError() | exceptions.MetadataRetrievalError():
            reason = f"{type(error).__name__} from {error.kwargs.get('provider', 'the metadata service')}"
        case exceptions.BotoCoreError() | RuntimeError() | OSError():
            reason = f"{type(error).__name__}: {error}"
        case _:
            reason = type(error).__name__
    return load_failed(reason, error)


def _nothing_found(config: Config) -> str:
    if config.profile:
        return f"profile {config.profile!r} leads to no credentials; looked at {_files()}"
    metadata = "off" if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true" else "no answer"
    return (
        "no credentials found; looked at AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
        f"profile {os.environ.get('AWS_PROFILE', 'default')!r} in {_files()}, web identity, container credentials, "
        f"instance metadata ({metadata}). For public data ask for anonymous access: Config(anonymous=True)"
    )


def _files() -> str:
    return f"{_config_file()} and {_credentials_file()}"


def _config_file() -> str:
    return os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")


def _credentials_file() -> str:
    return os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """What a profile says beside credentials, as it stands there; `None` where it is silent.

    `addressing_style` should be path, virtual or auto, the settings of checksums when_supported or when_required.
    """

    region: str | None = None
    endpoint_url: str | None = None
    ca_bundle: str | None = None
    addressing_style: str | None = None
    use_fips_endpoint: bool | None = None
    use_dualstack_endpoint: bool | None = None
    use_accelerate_endpoint: bool | None = None
    ignore_configured_endpoint_urls: bool = False
    response_checksum_validation: str | None = None
    request_checksum_calculation: str | None = None


def aws_profile(config: Config) -> ProfileSettings:
    """The settings of the profile in use. Blocking, and no work where there is no profile and no text in the files.

    An `AWS_PROFILE` that does not exist matters only to who needs credentials: it has no settings. Errors:
    `ProfileNotFoundError` where `config.profile` does not exist, `ConfigError` where the file cannot be parsed.
    """
    named = config.profile or os.environ.get("AWS_PROFILE")
    if not (named or _has_text(_config_file()) or _has_text(_credentials_file())):
        return ProfileSettings()
    try:
        session = _session(config)
        return _profile_settings(session.get_scoped_config(), session.full_config)
    except ConfigError:
        raise
    except Exception as error:
        failure = _translate(error)
    if isinstance(failure, NoCredentialsError) and not config.profile:
        return ProfileSettings()
    raise failure


def _profile_settings(profile: dict[str, Any], everything: dict[str, Any]) -> ProfileSettings:
    """From parsed files; a subsection is a dictionary where it is well-formed and a string where not."""
    s3 = _section(profile.get("s3"))
    ignored = flag_in_environment("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
    if ignored is None:
        ignored = _flag(profile, "ignore_configured_endpoint_urls") or False
    dualstack = _flag(s3, "use_dualstack_endpoint")
    return ProfileSettings(
        region=profile.get("region"),
        endpoint_url=None if ignored else _s3_service(profile, everything) or profile.get("endpoint_url"),
        ca_bundle=profile.get("ca_bundle"),
        addressing_style=s3.get("addressing_style"),
        use_fips_endpoint=_flag(profile, "use_fips_endpoint"),
        use_dualstack_endpoint=_flag(profile, "use_dualstack_endpoint") if dualstack is None else dualstack,
        use_accelerate_endpoint=_flag(s3, "use_accelerate_endpoint"),
        ignore_configured_endpoint_urls=ignored,
        response_checksum_validation=profile.get("response_checksum_validation"),
        request_checksum_calculation=profile.get("request_checksum_calculation"),
    )


def _s3_service(profile: dict[str, Any], everything: dict[str, Any]) -> str | None:
    """The endpoint that the `services` section of the profile has for S3."""
    name = profile.get("services")
    sections = _section(everything.get("services"))
    if name is not None and name not in sections:
        raise ConfigError(f"the profile names a services section {name!r} that is not in {_config_file()}")
    endpoint: str | None = _section(_section(sections.get(name)).get("s3")).get("endpoint_url")
    return endpoint


def _flag(section: dict[str, Any], name: str) -> bool | None:
    text = section.get(name)
    try:
        return None if text is None else parse_flag(str(text))
    except ValueError:
        raise ConfigError(f"{name} must be true or false in {_config_file()}, not {text!r}") from None


def _section(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}
