"""Data sets in a job of several ranks: each object once an epoch, whatever the ranks, the workers and the order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from .rank_program import EPOCHS, STOP

COUNT = 21
KEYS = [f"{number:03}" for number in range(COUNT)]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What four ranks found, keys without their folder."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "train").mkdir()
    for key in KEYS:
        (folder / "train" / key).touch()
    done = subprocess.run(
        [sys.executable, "-m", "tests.compat.rank_program", f"file://{folder}/train/", str(folder)],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    texts = [(folder / f"{rank}.json").read_text() for rank in range(4)]
    return [
        json.loads(text.replace(str(folder / "train"), "").replace("train/", "").replace('"/', '"')) for text in texts
    ]


def order(*, shuffle: bool, epoch: int, seed: int = 5) -> list[str]:
    """The order before it is shared out."""
    if not shuffle:
        return KEYS
    return [KEYS[i] for i in torch.randperm(COUNT, generator=torch.Generator().manual_seed(seed + epoch))]


def shares_of(ranks: list[dict[str, Any]], world: int, case: str, epoch: int) -> list[list[str]]:
    return [found[str(world)][case][epoch] for found in ranks[:world]]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("shuffle", [False, True])
def test_each_object_comes_once_an_epoch(world: int, workers: int, shuffle: bool, ranks: list[dict[str, Any]]) -> None:
    for epoch in range(EPOCHS):
        shares = shares_of(ranks, world, f"{shuffle} {workers}", epoch)
        expected = order(shuffle=shuffle, epoch=epoch)
        assert sorted(key for share in shares for key in share) == KEYS
        assert [sorted(share) for share in shares] == [sorted(expected[rank::world]) for rank in range(world)]
        if workers < 2:  # the order of what several workers yield is the loader's
            assert shares == [expected[rank::world] for rank in range(world)]


@pytest.mark.timeout(300)
def test_two_ranks_go_on_where_four_stopped(ranks: list[dict[str, Any]]) -> None:
    expected = order(shuffle=True, epoch=0, seed=0)
    assert [found["taken"] for found in ranks] == [expected[rank::4][:STOP] for rank in range(4)]
    assert [found["rest"] for found in ranks[:2]] == [expected[4 * STOP :][rank::2] for rank in range(2)]


@pytest.mark.timeout(300)
def test_one_rank_lists_for_all(ranks: list[dict[str, Any]]) -> None:
    assert [found["one"]["listed"] for found in ranks] == [2, 0, 0, 0]
    assert [found["one"]["mapped"] for found in ranks] == [KEYS] * 4
    for epoch in range(EPOCHS):
        assert sorted(key for found in ranks for key in found["one"]["epochs"][epoch]) == KEYS


@pytest.mark.timeout(300)
def test_a_listing_that_fails_is_an_error_of_all_ranks(ranks: list[dict[str, Any]]) -> None:
    first, *others = [found["failed"] for found in ranks]
    assert first[0] == "OwnError: the shelf is empty"
    assert "pickle" in first[1]
    for told in others:
        assert told == [f"S3Exception: rank 0 could not list the objects: {error}" for error in first]
