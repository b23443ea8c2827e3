"""Choosing among endpoints and putting them out of the rotation: pure decisions."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.transport.balance import LEAST, Health, Load, choose
from s3dlio.transport.retry import Failure

MiB = 1 << 20
PASSING = (Failure.BROKEN, Failure.STALLED, Failure.TRANSIENT)


@dataclass(eq=False)
class Place:
    """An endpoint, by its load."""

    load: Load = field(default_factory=Load)


def places(count: int) -> list[Place]:
    return [Place() for _ in range(count)]


def shares(among: list[Place], count: int, size: int = MiB, now: float = 0.0, *, seed: int = 0) -> list[int]:
    """How many of `count` choices each gets, with nothing owed in between."""
    chance, found = random.Random(seed), Counter[int]()
    for _ in range(count):
        found[among.index(choose(among, [], size, now, chance))] += 1
    return [found[number] for number in range(len(among))]


def owing(among: list[Place], count: int, size: int = MiB, now: float = 0.0, *, seed: int = 0) -> list[int]:
    """How many of `count` requests each has, which are all under way."""
    chance, found = random.Random(seed), Counter[int]()
    for _ in range(count):
        chosen = choose(among, [], size, now, chance)
        chosen.load.owed += size
        found[among.index(chosen)] += 1
    return [found[number] for number in range(len(among))]


def put_out(place: Place, now: float = 0.0) -> None:
    assert place.load.failed(Failure.NOT_SENT, LEAST, 0.0, now, 0.0)


def test_equal_ones_get_equal_shares() -> None:
    assert all(95 <= share <= 105 for share in owing(places(9), 900))


def test_clients_that_know_nothing_of_each_other_spread_evenly() -> None:
    total: Counter[int] = Counter()
    for client in range(24):
        total.update(dict(enumerate(owing(places(9), 150, seed=client))))
    mean = 24 * 150 / 9
    assert all(abs(share - mean) < 0.05 * mean for share in total.values())


def test_a_slow_one_gets_what_it_can_do() -> None:
    among = places(4)
    for number, place in enumerate(among):
        for _ in range(20):
            place.load.answered(MiB, 0.1 if number == 0 else 0.01, 0.0)
    slow, *quick = owing(among, 310)
    assert 5 <= slow <= 15
    assert all(90 <= share <= 110 for share in quick)


@pytest.mark.parametrize(("clients", "count"), [(1, 64), (4, 16)])
def test_batches_are_hardly_held_up_by_a_slow_one(clients: int, count: int) -> None:
    """A client begins a batch when its last one is there, and knows nothing of others; a place answers in turn."""
    rates, chance = [30.0, 30.0, 30.0, 3.0], random.Random(0)
    known, free = [places(len(rates)) for _ in range(clients)], [0.0] * len(rates)
    left, done, now, coming = [0] * clients, 0, 0.0, list[tuple[float, int, int, float, int]]()
    while now < 40:
        for client in (each for each in range(clients) if not left[each]):
            left[client] = count
            for _ in range(count):
                number = known[client].index(chosen := choose(known[client], [], MiB, now, chance))
                free[number] = max(free[number], now) + 1 / rates[number]
                heapq.heappush(coming, (free[number], client, number, now, chosen.load.owe(MiB)))
        now, client, number, begun, then = heapq.heappop(coming)
        load = known[client][number].load
        load.answered(load.settle(MiB, then), now - begun, now)
        left[client], done = left[client] - 1, done + 1
    assert done > 0.85 * sum(rates) * now
    assert all(
        place.load.owed == MiB * sum(key[1:3] == (client, number) for key in coming)
        for client, among in enumerate(known)
        for number, place in enumerate(among)
    )


def test_bad_news_is_believed_at_once_and_good_news_by_and_by() -> None:
    bad, good = places(2), places(2)
    for place in (*bad, *good):
        for _ in range(20):
            place.load.answered(MiB, 0.1, 0.0)
    bad[0].load.answered(MiB, 10.0, 0.0)
    good[0].load.answered(MiB, 0.001, 0.0)
    assert owing(bad, 200)[0] < 10
    assert 95 < owing(good, 200)[0] < 110


def test_good_news_of_one_that_was_not_seen_for_long_is_believed_at_once() -> None:
    among = places(2)
    among[0].load.answered(MiB, 1.0, 0.0)
    for place in among:
        place.load.answered(MiB, 0.01, 100.0)
    assert owing(among, 200, now=100.0)[0] > 40


def test_a_busy_one_is_not_slow() -> None:
    among = places(2)
    for _ in range(20):
        among[0].load.answered(10 * MiB, 0.1, 0.0)
        among[1].load.answered(MiB, 0.01, 0.0)
    assert all(45 <= share <= 55 for share in owing(among, 100))


def test_who_refuses_at_once_is_not_quick() -> None:
    among = places(2)
    for place in among:
        place.load.answered(MiB, 0.01, 0.0)
    for _ in range(3):
        assert not among[0].load.failed(Failure.THROTTLED, MiB, 0.0, 0.0, 0.0)
    assert among[0].load.health is Health.IN
    assert owing(among, 100)[0] < 5


def test_what_was_seen_is_forgotten() -> None:
    among = places(2)
    among[0].load.failed(Failure.THROTTLED, MiB, 0.0, 0.0, 0.0)
    among[1].load.answered(MiB, 0.01, 0.0)
    assert shares(among, 50) == [0, 50]
    assert shares(among, 50, now=300.0)[0] > 10


def test_a_slow_one_is_tried_anew_by_one_request() -> None:
    among = places(4)
    for place in among[1:]:
        place.load.answered(MiB, 0.01, 0.0)
    among[0].load.answered(MiB, 1.0, 0.0)
    assert owing(among, 48, now=300.0)[0] == 1


def test_a_single_refused_connection_puts_out_and_a_probe_comes_later_and_later() -> None:
    load, waits = Load(), []
    assert load.failed(Failure.NOT_SENT, LEAST, 0.0, 0.0, 1.0)
    for _ in range(8):
        waits.append(load.probe_at)
        load.put_out(0.0, 1.0)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    load.answered(LEAST, 0.01, 0.0)
    assert load.failed(Failure.NOT_SENT, LEAST, 0.0, 0.0, 0.0)
    assert load.probe_at == 0.5


@pytest.mark.parametrize("failure", PASSING)
def test_three_failures_in_a_row_put_out(failure: Failure) -> None:
    load = Load()
    assert [load.failed(failure, LEAST, 0.0, 0.0, 0.0) for _ in range(2)] == [False, False]
    load.answered(LEAST, 0.01, 0.0)
    assert [load.failed(failure, LEAST, 0.0, 0.0, 0.0) for _ in range(3)] == [False, False, True]
    assert load.health is Health.OUT
    due = load.probe_at
    assert not load.failed(failure, LEAST, 0.0, 9.0, 0.0)
    assert load.probe_at == due


def test_a_final_answer_is_no_failure_of_the_endpoint() -> None:
    load = Load()
    assert not any(load.failed(Failure.FINAL, LEAST, 0.0, 0.0, 0.0) for _ in range(9))
    assert load.health is Health.IN


def test_those_out_are_passed_over() -> None:
    among = places(4)
    put_out(among[2])
    assert owing(among, 90)[2] == 0


def test_with_fewer_than_half_left_all_are_asked() -> None:
    among = places(4)
    for place in among[:2]:
        put_out(place)
    assert shares(among, 60)[:2] == [0, 0]
    put_out(among[2])
    assert all(share > 5 for share in shares(among, 60))


def test_one_on_trial_gets_one_request() -> None:
    among = places(3)
    put_out(among[0])
    among[0].load.health = Health.TRIED
    assert owing(among, 60)[0] == 1
    assert not among[0].load.failed(Failure.TRANSIENT, LEAST, 0.0, 1.0, 0.0)
    assert among[0].load.health is Health.OUT


def test_its_share_returns_little_by_little() -> None:
    among = places(2)
    put_out(among[0])
    among[0].load.health = Health.TRIED
    for place in among:
        place.load.answered(MiB, 0.01, 100.0)
    got = [owing(among, 100, now=now)[0] for now in (100.0, 105.0, 111.0) if [_forget(place) for place in among]]
    assert got[0] < 15 < 25 < got[1] < 40 < 45 < got[2] < 55


def _forget(place: Place) -> bool:
    place.load.owed = 0
    return True


@given(
    st.lists(st.sampled_from(Health), min_size=1, max_size=6),
    st.sets(st.integers(0, 5)),
    st.integers(0, 1 << 40),
    st.randoms(use_true_random=False),
)
def test_one_that_was_not_tried_is_found_whatever_has_befallen_the_rest(
    health: list[Health], tried: set[int], size: int, chance: random.Random
) -> None:
    among = places(len(health))
    for place, state in zip(among, health, strict=True):
        place.load.health = state
    before = [place for number, place in enumerate(among) if number in tried][: len(among) - 1]
    chosen = choose(among, before, size, 0.0, chance)
    assert chosen not in before
    inside = [place for place in among if place.load.health is not Health.OUT]
    if 2 * len(inside) >= len(among) and any(place not in before for place in inside):
        assert chosen in inside
