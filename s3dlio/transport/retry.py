"""Whether and when a failed request is sent again: pure decisions, no clock, no I/O.

The delay after the n-th attempt is random between half and all of min(scale * 2^(n-1), 20 s); the scale is 0.5 s after
a throttle and 0.2 s after anything else. So ten attempts, the default, bear an outage of half a minute, and fifty
seconds in the mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from ..errors import ThrottledError, error_class

RETRYABLE_STATUS = frozenset({408, 429, 500, 502, 503, 504})
RETRYABLE_CODES = frozenset(
    {"InternalError", "RequestTimeout", "RequestTimeoutException", "OperationAborted", "ConditionalRequestConflict"}
)


class Failure(Enum):
    """What became of one attempt."""

    NOT_SENT = "not sent"
    BROKEN = "broken"
    STALLED = "stalled"
    LATE = "late"
    THROTTLED = "throttled"
    TRANSIENT = "transient"
    FINAL = "final"


def failure_of(status: int, code: str | None) -> Failure:
    """The kind of an error answer."""
    if status in (429, 503) or error_class(status, code) is ThrottledError:
        return Failure.THROTTLED
    if status in RETRYABLE_STATUS or code in RETRYABLE_CODES:
        return Failure.TRANSIENT
    return Failure.FINAL


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The numbers. Times are seconds; `max_attempts` counts requests, the first included, `time_limit` is for all."""

    max_attempts: int = 10
    time_limit: float = math.inf
    throttle_scale: float = 0.5
    scale: float = 0.2
    max_delay: float = 20.0
    max_server_extra: float = 5.0

    def may_retry(self, failure: Failure, attempt: int, *, idempotent: bool) -> bool:
        """Whether attempt number `attempt`, ended by `failure`, may be followed by another.

        An attempt whose outcome is unknown is repeated only where repeating it changes nothing.
        """
        if failure is Failure.FINAL or attempt >= self.max_attempts:
            return False
        return idempotent or failure not in (Failure.BROKEN, Failure.STALLED)

    def delay(self, failure: Failure, attempt: int, jitter: float, server_asks: float | None = None) -> float:
        """Seconds to wait; `jitter` is random in [0, 1). The server may ask for up to five seconds more."""
        scale = self.throttle_scale if failure is Failure.THROTTLED else self.scale
        longest = min(math.ldexp(scale, min(attempt, 64) - 1), self.max_delay)
        own = longest * (1 + jitter) / 2
        return own if server_asks is None else min(max(own, server_asks), own + self.max_server_extra)
