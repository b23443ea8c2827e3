"""Retry decisions: the formula and its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.transport.retry import Failure, RetryPolicy, failure_of

POLICY = RetryPolicy(max_attempts=3)
failures = st.sampled_from(Failure)
jitters = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (500, None, Failure.TRANSIENT),
        (502, None, Failure.TRANSIENT),
        (503, None, Failure.THROTTLED),
        (504, None, Failure.TRANSIENT),
        (408, None, Failure.TRANSIENT),
        (429, None, Failure.THROTTLED),
        (503, "SlowDown", Failure.THROTTLED),
        (400, "SlowDown", Failure.THROTTLED),
        (400, "RequestTimeout", Failure.TRANSIENT),
        (200, "InternalError", Failure.TRANSIENT),
        (409, "OperationAborted", Failure.TRANSIENT),
        (409, "ConditionalRequestConflict", Failure.TRANSIENT),
        (409, None, Failure.FINAL),
        (400, None, Failure.FINAL),
        (403, "AccessDenied", Failure.FINAL),
        (404, None, Failure.FINAL),
        (412, None, Failure.FINAL),
        (416, None, Failure.FINAL),
        (501, None, Failure.FINAL),
        (505, None, Failure.FINAL),
        (307, None, Failure.FINAL),
    ],
)
def test_kinds_of_failure(status: int, code: str | None, expected: Failure) -> None:
    assert failure_of(status, code) is expected


@pytest.mark.parametrize("failure", Failure)
def test_what_may_be_sent_again(failure: Failure) -> None:
    may = [POLICY.may_retry(failure, attempt, idempotent=True) for attempt in (1, 2, 3, 4)]
    assert may == ([False] * 4 if failure is Failure.FINAL else [True, True, False, False])
    ambiguous = failure in (Failure.BROKEN, Failure.STALLED, Failure.FINAL)
    assert POLICY.may_retry(failure, 1, idempotent=False) is not ambiguous


@pytest.mark.parametrize(
    ("failure", "attempt", "jitter", "delay"),
    [
        (Failure.THROTTLED, 1, 0.0, 0.25),
        (Failure.THROTTLED, 1, 0.5, 0.375),
        (Failure.THROTTLED, 2, 0.5, 0.75),
        (Failure.THROTTLED, 6, 0.5, 12.0),
        (Failure.THROTTLED, 7, 0.5, 15.0),
        (Failure.THROTTLED, 5000, 0.5, 15.0),
        (Failure.TRANSIENT, 1, 0.5, 0.15),
        (Failure.NOT_SENT, 2, 0.5, 0.3),
        (Failure.BROKEN, 3, 0.0, 0.4),
        (Failure.STALLED, 20, 0.5, 15.0),
    ],
)
def test_the_formula(failure: Failure, attempt: int, jitter: float, delay: float) -> None:
    assert POLICY.delay(failure, attempt, jitter) == pytest.approx(delay)


@given(failures, st.integers(1, 1000), jitters, st.none() | st.floats(0, 1e9))
def test_bounds_of_the_delay(failure: Failure, attempt: int, jitter: float, asked: float | None) -> None:
    own = POLICY.delay(failure, attempt, jitter)
    delay = POLICY.delay(failure, attempt, jitter, asked)
    assert 0 <= own <= 20
    assert own <= delay <= own + 5
    if asked is not None and asked <= own + 5:
        assert delay == max(own, asked)


@pytest.mark.parametrize("failure", [failure for failure in Failure if failure is not Failure.FINAL])
def test_half_a_minute_is_outlasted_by_default(failure: Failure) -> None:
    policy = RetryPolicy()
    attempts = range(1, policy.max_attempts)
    assert policy.may_retry(failure, attempts[-1], idempotent=True)
    assert sum(policy.delay(failure, attempt, jitter=0.0) for attempt in attempts) > 30
