"""The model that `benchmarks.costs` fits: pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.cost_model import QUANTITIES, Cost, Run, difference, fit

SHAPES = [(count, size) for count in (1000, 2000) for size in (32 << 10, 128 << 10)]
CPU = Cost(0.25, 90e-6, 0.4e-9)


def run(count: int, size: int) -> Run:
    """What a process takes of which everything is known."""
    requests = 1 + 1.001 * count
    return Run(count, size, requests, float(count * size), CPU.of(count, size), 20e6 + 70 * size)


def test_what_is_linear_is_found() -> None:
    model = fit([run(*shape) for shape in SHAPES], holds_few=True)
    assert (model["cpu"].fixed, model["cpu"].per_object, model["cpu"].per_byte) == pytest.approx((0.25, 90e-6, 0.4e-9))
    assert (model["memory"].fixed, model["memory"].per_byte) == pytest.approx((20e6, 70))
    larger = run(8000, 128 << 10)
    assert [difference(model, larger, name) for name in QUANTITIES] == pytest.approx([0] * 4)


def test_nothing_is_given_back_for_more_work() -> None:
    runs = [run(*shape) for shape in SHAPES]
    odd = [replace(each, cpu=0.5 - 1e-5 * number) for number, each in enumerate(runs)]
    cost = fit(odd, holds_few=False)["cpu"]
    assert min(cost.fixed, cost.per_object, cost.per_byte) >= 0
    assert cost.of(1000, 0) == pytest.approx(0.5, rel=0.01)


def test_a_difference_is_a_part_of_what_was_measured() -> None:
    model = fit([run(*shape) for shape in SHAPES], holds_few=True)
    dearer = replace(run(8000, 128 << 10), cpu=2 * CPU.of(8000, 128 << 10))
    assert difference(model, dearer, "cpu") == pytest.approx(-0.5)
