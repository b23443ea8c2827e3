"""Keeping what authorises requests fresh, whatever it is.

Theory of operation. :class:`Refreshing` holds a value that expires, and knows how to load another. The
invariant: at most one load is under way, and it belongs to no caller. A system task runs it; callers who must wait for
it wait for an event, so cancelling any of them changes nothing for the rest. The end of the Trio run abandons the load:
its thread ends by itself and its result is dropped. So does a limit: what asks for credentials may hang.

:class:`SharedCredentials` is one such value for all stores of a run that would load the same. Each run has its own, and
so has each process, a forked one too.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

import trio

from ..errors import PermissionDeniedError, StoreError

_log = logging.getLogger("s3dlio.auth")

ADVISORY = 15 * 60.0
"""Seconds before expiry from which new credentials are fetched while the old ones serve."""

MANDATORY = 10 * 60.0
"""Seconds before expiry from which everyone waits for new ones."""

RETRY_AFTER = 60.0
"""Seconds until the next try after an early refresh failed."""

LOAD_LIMIT = 60.0
"""Seconds that a load may take."""

LEAST_USE = 1.0
"""Seconds that anything loaded is used, whatever its expiry: a source that repeats itself is not asked in a loop."""


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


class Refreshing(ABC, Generic[T]):
    """Keeps what :meth:`_fetch` returns fresh: see :func:`refresh_times` and the module's introduction.

    `clock` gives POSIX seconds. `jitter` gives the `chance` of :func:`refresh_times`, by default from the system's
    randomness: seeding `random` alike in many processes must not bring their refreshes into step.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.time, jitter: Callable[[], float] = _system_random.random
    ) -> None:
        self._clock = clock
        self._jitter = jitter
        self._value: T | None = None
        self._renew_at = self._required_at = -math.inf
        self._flight: _Flight[T] | None = None

    @abstractmethod
    async def _fetch(self) -> T:
        """Another value."""

    async def get(self) -> T:
        """The value of this moment. No checkpoint while it is fresh. Errors: those of the load, as `StoreError`."""
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
        """The system task."""
        try:
            with trio.fail_after(LOAD_LIMIT):
                flight.value = await self._fetch()
            self._value = flight.value
            self._renew_at, self._required_at = refresh_times(self._clock(), flight.value.expires_at, self._jitter())
        except Exception as error:
            flight.error = _failure(error)
            self._renew_at = self._clock() + RETRY_AFTER
            if self._value is not None:
                _log.warning("credentials could not be refreshed, the old ones serve on: %s", flight.error)
        finally:
            self._flight = None
            flight.landed.set()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._value!r})"


class RefreshingCredentials(Refreshing[T]):
    """:class:`Refreshing`, of what the blocking function `load` returns."""

    def __init__(
        self,
        load: Callable[[], T],
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = _system_random.random,
    ) -> None:
        super().__init__(clock=clock, jitter=jitter)
        self._load = load

    async def _fetch(self) -> T:
        """Its own limiter: threads busy with files do not delay it."""
        return await trio.to_thread.run_sync(self._load, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))


_shared: trio.lowlevel.RunVar[dict[Hashable, RefreshingCredentials[Any]]] = trio.lowlevel.RunVar("s3dlio credentials")
_KEPT = 16


class SharedCredentials(Generic[T]):
    """The :class:`RefreshingCredentials` of `load` that all who have an equal `key` use together, in one Trio run.

    `key` is asked for at the first use, and only then; so this may be made outside of any run. The last few are kept
    for who comes later.
    """

    def __init__(self, load: Callable[[], T], key: Callable[[], Hashable]) -> None:
        self._load = load
        self._key = key
        self._found: RefreshingCredentials[T] | None = None

    async def get(self) -> T:
        """As :meth:`Refreshing.get`."""
        return await (self._found or self._find()).get()

    async def refresh(self, rejected: T) -> bool:
        """As :meth:`Refreshing.refresh`."""
        return await (self._found or self._find()).refresh(rejected)

    def _find(self) -> RefreshingCredentials[T]:
        try:
            known = _shared.get()
        except LookupError:
            _shared.set(known := {})
        key = self._key()
        self._found = found = known.pop(key, None) or RefreshingCredentials(self._load)
        known[key] = found
        if len(known) > _KEPT:
            del known[next(iter(known))]
        return found

    def __repr__(self) -> str:
        return f"SharedCredentials({self._found!r})"


def _failure(error: Exception) -> StoreError:
    match error:
        case StoreError():
            return error
        case trio.TooSlowError():
            return PermissionDeniedError(
                f"no credentials within {LOAD_LIMIT:g} seconds: the credential_process of the profile, or the service "
                "that hands them out, does not answer"
            )
        case _:
            return load_failed(type(error).__name__, error)


def load_failed(reason: str, error: Exception) -> PermissionDeniedError:
    """The error for a source of credentials that failed with `error`, which is chained, but without its frames.

    Those, and what it was raised from, have variables and texts with what a file held or a server answered: keys.
    """
    error.__traceback__ = error.__cause__ = error.__context__ = None
    if isinstance(error, json.JSONDecodeError):
        error.doc = ""
    failed = PermissionDeniedError(f"credentials could not be loaded: {reason}")
    failed.__cause__ = error
    return failed
