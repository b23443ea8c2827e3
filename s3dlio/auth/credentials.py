"""Where credentials come from, and how they stay fresh.

Theory of operation. Keys in the environment are taken as they are. Everything else (profiles, roles, web identity, SSO,
containers, instance metadata) is botocore's work: imported on first use, run in a thread, asked for a frozen snapshot.

:class:`RefreshingCredentials` keeps such a snapshot fresh. The invariant: at most one load is under way, and it belongs
to no caller. A system task runs it; callers who must wait for it wait for an event, so cancelling any of them changes
nothing for the rest. The end of the Trio run abandons the load: its thread ends by itself and its result is dropped.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import trio

from ..config import Config
from ..errors import ConfigError, NoCredentialsError, PermissionDeniedError, ProfileNotFoundError, StoreError
from .sigv4 import Credentials, fits_header

_log = logging.getLogger("s3dlio.auth")

ADVISORY = 15 * 60.0
"""Seconds before expiry from which new credentials are fetched while the old ones serve."""

MANDATORY = 10 * 60.0
"""Seconds before expiry from which everyone waits for new ones."""

RETRY_AFTER = 60.0
"""Seconds until the next try after an early refresh failed."""

LEAST_USE = 1.0
"""Seconds that anything loaded is used, whatever its expiry: a source that repeats itself is not asked in a loop."""


_ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CONNECTION_STRING",
    "GOOGLE_APPLICATION_CREDENTIALS",
)


def environment_mark() -> int:
    """A number that changes when the credentials in the environment do. It tells nothing of them."""
    return hash(tuple(map(os.environ.get, _ENVIRONMENT)))


class CredentialsProvider(Protocol):
    """Gives out credentials to sign with. Belongs to one Trio run at a time."""

    async def get(self) -> Credentials | None:
        """The credentials of this moment; `None` means anonymous. Errors: `PermissionDeniedError` and below."""

    async def refresh(self, rejected: Credentials) -> bool:
        """The server refused `rejected` as expired: fetch anew. Whether there are different ones now."""


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


class Expiring(Protocol):
    """What can be kept fresh: values with a time, in POSIX seconds, from which they are refused."""

    @property
    def expires_at(self) -> float | None:
        """`None` for never."""


_system_random = random.SystemRandom()
T = TypeVar("T", bound=Expiring)


def refresh_times(now: float, expires_at: float | None, chance: float) -> tuple[float, float]:
    """When a value loaded at `now` should be replaced, and when it must be. All in POSIX seconds.

    `chance` in [0, 1) spreads the first moment over most of the advisory window, so that a fleet that started together
    does not refresh together. A value with little time left is given at least half of it.
    """
    if expires_at is None:
        return math.inf, math.inf
    left = expires_at - now
    early, late = min(ADVISORY, left / 2), min(MANDATORY, left / 3)
    renew = left - early + 0.8 * chance * (early - late)
    return now + max(renew, LEAST_USE), now + max(left - late, LEAST_USE)


class _Flight(Generic[T]):
    """One load under way: ends with a value or an error, then `landed` is set."""

    __slots__ = ("error", "landed", "value")

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.value: T | None = None
        self.error: StoreError = PermissionDeniedError("the search for credentials was cut short")


class RefreshingCredentials(Generic[T]):
    """Keeps what the blocking function `load` returns fresh: see :func:`refresh_times` and the module's introduction.

    `clock` gives POSIX seconds. `jitter` gives the `chance` of :func:`refresh_times`, by default from the system's
    randomness: seeding `random` alike in many processes must not bring their refreshes into step.
    """

    def __init__(
        self,
        load: Callable[[], T],
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = _system_random.random,
    ) -> None:
        self._load = load
        self._clock = clock
        self._jitter = jitter
        self._value: T | None = None
        self._renew_at = self._required_at = -math.inf
        self._flight: _Flight[T] | None = None

    async def get(self) -> T:
        """The value of this moment. No checkpoint while it is fresh. Errors: those of `load`, as `StoreError`."""
        now = self._clock()
        if self._value is None or now >= self._required_at:
            return await self._join()
        if now >= self._renew_at and self._flight is None:
            self._start()
        return self._value

    async def refresh(self, rejected: T) -> bool:
        """Fetch anew unless somebody did since `rejected` was given out. Whether there is a different value now."""
        if self._value is not None and self._value != rejected:
            return True
        self._renew_at = self._required_at = -math.inf
        return await self._join() != rejected

    async def _join(self) -> T:
        flight = self._flight or self._start()
        await flight.landed.wait()
        if flight.value is None:
            raise copy.copy(flight.error) from flight.error.__cause__
        return flight.value

    def _start(self) -> _Flight[T]:
        self._flight = flight = _Flight[T]()
        trio.lowlevel.spawn_system_task(self._fly, flight)
        return flight

    async def _fly(self, flight: _Flight[T]) -> None:
        """The system task. Its own limiter: threads busy with files do not delay it."""
        try:
            flight.value = await trio.to_thread.run_sync(
                self._load, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
            )
            self._value = flight.value
            self._renew_at, self._required_at = refresh_times(self._clock(), flight.value.expires_at, self._jitter())
        except Exception as error:
            flight.error = error if isinstance(error, StoreError) else _failed(type(error).__name__, error)
            self._renew_at = self._clock() + RETRY_AFTER
            if self._value is not None:
                _log.warning("credentials could not be refreshed, the old ones serve on: %s", flight.error)
        finally:
            self._flight = None
            flight.landed.set()

    def __repr__(self) -> str:
        return f"RefreshingCredentials({self._value!r})"


def _failed(reason: str, error: Exception) -> PermissionDeniedError:
    """The error for a source of credentials that failed with `error`, which is chained, but without its frames.

    Those, and what it was raised from, have variables and texts with what a file held or a server answered: keys.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    if isinstance(error, json.JSONDecodeError):
        error.doc = ""
    failed = PermissionDeniedError(f"credentials could not be loaded: {reason}")
    failed.__cause__ = error
    return failed


def aws_credentials(config: Config) -> CredentialsProvider:
    """What `config` asks for: nobody, a profile alone, the environment's keys, or botocore's default chain.

    Reads the environment now, files and networks on first use. Errors: `ConfigError` for keys no header can hold.
    """
    if config.anonymous:
        return StaticCredentials(None)
    in_environment = None if config.profile else _environment_keys()
    if in_environment is not None:
        return StaticCredentials(in_environment)
    return RefreshingCredentials(partial(_load_from_chain, config))


def _environment_keys() -> Credentials | None:
    found = Credentials(
        _variable("AWS_ACCESS_KEY_ID"),
        _variable("AWS_SECRET_ACCESS_KEY"),
        _variable("AWS_SESSION_TOKEN") or None,
    )
    return _usable(found) if found.access_key and found.secret_key else None


def _variable(name: str) -> str:
    """Without the line end that a secret read from a file often has."""
    return os.environ.get(name, "").strip()


def _usable(credentials: Credentials) -> Credentials:
    """The same, if requests can carry them."""
    if not (fits_header(credentials.access_key) and fits_header(credentials.token or "")):
        raise ConfigError("the access key or session token found holds a control character")
    return credentials


_NOT_OF_A_PROFILE = ("ec2-credentials-file", "boto-config", "container-role", "iam-role")


def _load_from_chain(config: Config) -> Credentials:
    """Blocking: a snapshot from botocore. A new session each time, so that changed files are seen."""
    failure: StoreError
    try:
        found = _session(config).get_credentials()
        if found is not None:
            return _usable(_snapshot(found))
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
    if config.profile:
        resolver = session.get_component("credential_provider")
        for method in _NOT_OF_A_PROFILE:
            resolver.remove(method)
    return session


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
    return _failed(reason, error)


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
    shared = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
    return f"{_config_file()} and {shared}"


def _config_file() -> str:
    return os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """What a profile says beside credentials, as it stands there; `None` where it is silent.

    `addressing_style` should be path, virtual or auto.
    """

    region: str | None = None
    endpoint_url: str | None = None
    ca_bundle: str | None = None
    addressing_style: str | None = None


def aws_profile(config: Config) -> ProfileSettings:
    """The settings of the profile in use. Blocking, and no work where there is neither a profile nor a config file.

    An `AWS_PROFILE` that does not exist matters only to who needs credentials: it has no settings. Errors:
    `ProfileNotFoundError` where `config.profile` does not exist, `ConfigError` where the file cannot be parsed.
    """
    named = config.profile or os.environ.get("AWS_PROFILE")
    if not named and not Path(_config_file()).expanduser().is_file():
        return ProfileSettings()
    try:
        session = _session(config)
        return _profile_settings(session.get_scoped_config(), session.full_config)
    except Exception as error:
        failure = _translate(error)
    if isinstance(failure, NoCredentialsError) and not config.profile:
        return ProfileSettings()
    raise failure


def _profile_settings(profile: dict[str, Any], everything: dict[str, Any]) -> ProfileSettings:
    """From parsed files; a subsection is a dictionary where it is well-formed and a string where not."""
    services = _section(_section(everything.get("services")).get(str(profile.get("services"))))
    return ProfileSettings(
        region=profile.get("region"),
        endpoint_url=_section(services.get("s3")).get("endpoint_url") or profile.get("endpoint_url"),
        ca_bundle=profile.get("ca_bundle"),
        addressing_style=_section(profile.get("s3")).get("addressing_style"),
    )


def _section(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}
