"""Whether and when a failed request is sent again: pure decisions, no clock, no I/O.

The figures are those of botocore 1.44's standard mode. Delay before attempt n+1: random(0, 1) * min(scale * 2^(n-1),
20 s), where scale is 1 s after a throttle and 0.05 s after anything else. Retries are paid from a quota of 500 tokens
shared by all requests to an endpoint, 14 each and 5 after a throttle, so that an outage does not multiply the load; a
retried success returns its cost and a first-try success pays one token back.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..errors import ThrottledError, error_class

RETRYABLE_STATUS = frozenset({408, 429, 500, 502, 503, 504})
RETRYABLE_CODES = frozenset({"InternalError", "RequestTimeout", "RequestTimeoutException", "OperationAborted"})


class Failure(Enum):
    """What became of one attempt."""

    NOT_SENT = "not sent"
    BROKEN = "broken"
    STALLED = "stalled"
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
    """The numbers. Times are seconds; `max_attempts` counts requests, the first included."""

    max_attempts: int = 3
    throttle_scale: float = 1.0
    scale: float = 0.05
    max_delay: float = 20.0
    cost: int = 14
    throttle_cost: int = 5
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
        own = jitter * min(scale * 2.0 ** (attempt - 1), self.max_delay)
        return own if server_asks is None else min(max(own, server_asks), own + self.max_server_extra)

    def price(self, failure: Failure) -> int:
        """What a retry after `failure` costs, in tokens."""
        return self.throttle_cost if failure is Failure.THROTTLED else self.cost


class RetryQuota:
    """Tokens that retries are paid from. One per endpoint; used from one Trio run."""

    def __init__(self, capacity: int = 500) -> None:
        self.capacity = capacity
        self.tokens = capacity

    def take(self, tokens: int) -> bool:
        """Pay for a retry, or learn that it cannot be afforded."""
        if tokens > self.tokens:
            return False
        self.tokens -= tokens
        return True

    def give_back(self, tokens: int) -> None:
        """Put tokens back, up to the capacity."""
        self.tokens = min(self.capacity, self.tokens + tokens)

    def __repr__(self) -> str:
        return f"<RetryQuota {self.tokens}/{self.capacity}>"
