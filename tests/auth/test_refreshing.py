"""Keeping credentials fresh: on a clock that tests set, with real threads."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from s3dlio.auth.refreshing import (
    ADVISORY,
    LEAST_USE,
    MANDATORY,
    RETRY_AFTER,
    RefreshingCredentials,
    SharedCredentials,
    refresh_times,
)
from s3dlio.errors import NoCredentialsError, PermissionDeniedError

from .fakes import Clock

HOUR = 3600.0
START = 1_700_000_000.0


@dataclass(frozen=True)
class Ticket:
    number: int
    expires_at: float | None


class Source:
    """A blocking `load` that hands out numbered tickets, counts, and can be held up or made to fail."""

    def __init__(self, clock: Clock, lifetime: float | None = HOUR) -> None:
        self.clock = clock
        self.lifetime = lifetime
        self.loads = 0
        self.most_at_once = 0
        self.failure: Callable[[], Exception] | None = None
        self.same_again = False
        self.gate = threading.Event()
        self.gate.set()
        self.gave_up = False
        self._inside = 0
        self._lock = threading.Lock()

    def __call__(self) -> Ticket:
        with self._lock:
            self.loads += 1
            self._inside += 1
            self.most_at_once = max(self.most_at_once, self._inside)
        try:
            self.gave_up = not self.gate.wait(30)
            assert not self.gave_up
            if self.failure is not None:
                raise self.failure()
            number = 1 if self.same_again else self.loads
            return Ticket(number, None if self.lifetime is None else self.clock() + self.lifetime)
        finally:
            with self._lock:
                self._inside -= 1


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
def source(clock: Clock) -> Source:
    return Source(clock)


@pytest.fixture
def tickets(source: Source, clock: Clock) -> RefreshingCredentials[Ticket]:
    return RefreshingCredentials(source, clock=clock, jitter=lambda: 0.0)


async def number(tickets: RefreshingCredentials[Ticket]) -> int:
    return (await tickets.get()).number


@given(
    left=st.floats(-1e6, 1e6),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_times_are_in_order_and_before_expiry(left: float, chance: float) -> None:
    renew, required = refresh_times(START, START + left, chance)
    assert START + LEAST_USE <= renew <= required
    assert required <= START + max(left, LEAST_USE)
    if left >= 2 * ADVISORY:
        assert START + left - ADVISORY - 1e-6 <= renew < required == START + left - MANDATORY


def test_chance_spreads_the_first_moment_over_minutes() -> None:
    moments = [refresh_times(START, START + HOUR, chance / 64)[0] for chance in range(64)]
    assert len(set(moments)) == 64
    assert max(moments) - min(moments) > 3 * 60


async def test_the_default_jitter_differs_between_instances(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    moments: set[float] = set()

    def recorded(now: float, expires_at: float | None, chance: float) -> tuple[float, float]:
        moments.add(chance)
        return refresh_times(now, expires_at, chance)

    monkeypatch.setattr("s3dlio.auth.refreshing.refresh_times", recorded)
    for _ in range(8):
        await RefreshingCredentials(Source(clock), clock=clock).get()
    assert len(moments) == 8


async def test_what_does_not_expire_is_loaded_once(
    clock: Clock, tickets: RefreshingCredentials[Ticket], source: Source
) -> None:
    source.lifetime = None
    for _ in range(3):
        assert await number(tickets) == 1
        clock.now += 1000 * HOUR
    assert source.loads == 1


async def test_many_who_need_the_first_value_share_one_load(
    tickets: RefreshingCredentials[Ticket], source: Source
) -> None:
    source.gate.clear()
    got: list[int] = []

    async def take() -> None:
        got.append(await number(tickets))

    async with trio.open_nursery() as nursery:
        for _ in range(64):
            nursery.start_soon(take)
        await wait_all_tasks_blocked()
        source.gate.set()
    assert (got, source.loads) == ([1] * 64, 1)


async def test_old_ones_serve_while_an_early_refresh_runs(
    clock: Clock, tickets: RefreshingCredentials[Ticket], source: Source
) -> None:
    await tickets.get()
    clock.now += HOUR - ADVISORY - 1
    assert await number(tickets) == 1
    assert source.loads == 1
    clock.now += 2
    source.gate.clear()
    assert [await number(tickets) for _ in range(5)] == [1] * 5
    source.gate.set()
    await _idle(tickets)
    assert await number(tickets) == source.loads == 2


async def test_all_wait_where_a_refresh_is_mandatory(
    clock: Clock, tickets: RefreshingCredentials[Ticket], source: Source
) -> None:
    await tickets.get()
    clock.now += HOUR - MANDATORY
    assert await number(tickets) == 2


async def test_a_failed_early_refresh_keeps_the_old_ones_and_waits_before_the_next_try(
    clock: Clock, tickets: RefreshingCredentials[Ticket], source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    await tickets.get()
    clock.now += HOUR - ADVISORY + 1
    source.failure = lambda: OSError("no route")
    with caplog.at_level(logging.WARNING, "s3dlio.auth"):
        for _ in range(3):
            assert await number(tickets) == 1
            await _idle(tickets)
    assert source.loads == 2
    assert "serve on" in caplog.text
    source.failure = None
    clock.now += RETRY_AFTER
    assert await number(tickets) == 1
    await _idle(tickets)
    assert await number(tickets) == 3


async def test_a_failed_mandatory_refresh_is_everyones_error_and_the_next_one_may_succeed(
    clock: Clock, tickets: RefreshingCredentials[Ticket], source: Source
) -> None:
    await tickets.get()
    clock.now += HOUR - MANDATORY + 1
    source.failure = lambda: OSError("no route")
    source.gate.clear()
    errors: list[PermissionDeniedError] = []

    async def take() -> None:
        with pytest.raises(PermissionDeniedError, match="OSError") as caught:
            await tickets.get()
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(take)
        await wait_all_tasks_blocked()
        source.gate.set()
    assert source.loads == 2
    assert len(set(map(id, errors))) == 4
    assert {str(error.__cause__) for error in errors} == {"no route"}
    source.failure = None
    assert await number(tickets) == 3


async def test_errors_of_ours_keep_their_type(tickets: RefreshingCredentials[Ticket], source: Source) -> None:
    source.failure = lambda: NoCredentialsError("nothing found")
    with pytest.raises(NoCredentialsError, match="nothing found"):
        await tickets.get()


async def test_the_chained_error_brings_no_frames_of_the_source(tickets: RefreshingCredentials[Ticket]) -> None:
    def load() -> Ticket:
        answer = "canary-in-a-local"
        raise KeyError(len(answer))

    with pytest.raises(PermissionDeniedError) as caught:
        await RefreshingCredentials(load).get()
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "KeyError" in shown
    assert "canary" not in shown


async def test_cancelling_whoever_began_a_refresh_disturbs_nobody(
    tickets: RefreshingCredentials[Ticket], source: Source
) -> None:
    source.gate.clear()
    got: list[int] = []

    async def take() -> None:
        got.append(await number(tickets))

    async with trio.open_nursery() as nursery:
        first = await nursery.start(_in_own_scope, tickets)
        for _ in range(8):
            nursery.start_soon(take)
        await wait_all_tasks_blocked()
        first.cancel()
        await wait_all_tasks_blocked()
        assert got == []
        source.gate.set()
    assert (got, source.loads) == ([1] * 8, 1)


async def _in_own_scope(tickets: RefreshingCredentials[Ticket], task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await tickets.get()


async def test_when_all_are_cancelled_the_load_still_counts(
    tickets: RefreshingCredentials[Ticket], source: Source
) -> None:
    source.gate.clear()
    for _ in range(20):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(tickets.get)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    source.gate.set()
    assert await number(tickets) == source.loads == 1


def test_the_end_of_a_run_abandons_its_load_and_the_next_run_begins_anew(clock: Clock) -> None:
    source = Source(clock)
    tickets = RefreshingCredentials(source, clock=clock)
    source.gate.clear()

    async def leave() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tickets.get)
            while source.loads == 0:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    trio.run(leave)
    assert not source.gave_up, "the run waited for the thread"
    source.gate.set()
    assert trio.run(number, tickets) == source.loads == 2


async def test_three_hours_of_one_hour_credentials(clock: Clock, source: Source) -> None:
    tickets = RefreshingCredentials(source, clock=clock)
    given_out: list[Ticket] = []

    async def take() -> None:
        ticket = await tickets.get()
        assert ticket.expires_at is not None
        assert ticket.expires_at > clock.now
        given_out.append(ticket)

    for _ in range(int(3 * HOUR / 20)):
        clock.now += 20
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(take)
    assert len(given_out) == 8 * 540
    assert source.most_at_once == 1
    assert 4 <= source.loads <= 5


async def test_a_refused_value_is_replaced_once_for_all(tickets: RefreshingCredentials[Ticket], source: Source) -> None:
    refused = await tickets.get()
    source.gate.clear()
    answers: list[bool] = []

    async def report() -> None:
        answers.append(await tickets.refresh(refused))

    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(report)
        nursery.start_soon(tickets.get)
        await wait_all_tasks_blocked()
        source.gate.set()
    assert (answers, source.loads) == ([True] * 16, 2)
    assert await tickets.refresh(refused)
    assert source.loads == 2


async def test_the_same_again_is_no_help(tickets: RefreshingCredentials[Ticket], source: Source) -> None:
    source.same_again = True
    source.lifetime = None
    refused = await tickets.get()
    assert not await tickets.refresh(refused)
    assert source.loads == 2
    assert await tickets.get() == refused
    assert source.loads == 2


async def test_a_source_that_repeats_an_expired_value_is_not_asked_in_a_loop(
    clock: Clock, tickets: RefreshingCredentials[Ticket], source: Source
) -> None:
    source.lifetime = -HOUR
    for _ in range(50):
        await tickets.get()
    assert source.loads == 1
    clock.now += LEAST_USE
    await tickets.get()
    assert source.loads == 2


async def _idle(tickets: RefreshingCredentials[Ticket]) -> None:
    """Until no load is under way."""
    while tickets._flight is not None:
        await tickets._flight.landed.wait()


async def test_what_is_shared_is_kept_but_not_for_ever(clock: Clock) -> None:
    source = Source(clock, lifetime=None)
    for _ in range(2):
        for name in range(3):
            await SharedCredentials(source, partial(int, name)).get()
    assert source.loads == 3
    for name in range(100):
        await SharedCredentials(source, partial(int, name)).get()
    assert source.loads == 100
    await SharedCredentials(source, lambda: 0).get()
    assert source.loads == 101


async def test_a_load_that_hangs_is_given_up_and_the_next_one_may_succeed(
    tickets: RefreshingCredentials[Ticket], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3dlio.auth.refreshing.LOAD_LIMIT", 0.05)
    source.gate.clear()
    with pytest.raises(PermissionDeniedError, match=r"no credentials within 0.05 seconds: the credential_process"):
        await tickets.get()
    source.gate.set()
    monkeypatch.setattr("s3dlio.auth.refreshing.LOAD_LIMIT", 60.0)
    assert await number(tickets) == 2
