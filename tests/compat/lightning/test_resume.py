"""A run that was interrupted and goes on from its newest checkpoint has the losses of one that was not, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from s3dlio.compat.s3torchconnector.lightning import S3LightningCheckpoint

from .training import ADVICE, STEPS, Classifier, Curve, ResumableLoader, fill, trainer
from .training_program import EPOCHS, EVERY

pytestmark = ADVICE

LAST = EPOCHS * STEPS


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums depend on how many threads share them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Run(NamedTuple):
    """A process that trained: the name of the checkpoint that it began with, its losses, its exit code."""

    begin: str | None
    losses: dict[int, float]
    ended: int


def runs(*options: dict[str, object]) -> list[Run]:
    """Processes that train, one after the other."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.compat.lightning.training_program", *map(json.dumps, options)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=Path(__file__).parents[3],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    found: list[Run] = []
    lines: list[Any] = []
    for line in map(json.loads, done.stdout.splitlines()):
        if isinstance(line, dict):
            assert line["ended"] in (0, -signal.SIGKILL), done.stderr
            found.append(Run(lines[0], dict(lines[1:]), line["ended"]))
            lines = []
        else:
            lines.append(line)
    assert len(found) == len(options), done.stderr
    return found


def uninterrupted(data: str, plugin: S3LightningCheckpoint, *callbacks: ModelCheckpoint) -> dict[int, float]:
    curve = Curve()
    trainer(plugin, curve, *callbacks, max_epochs=EPOCHS).fit(Classifier(), ResumableLoader(data))
    assert list(curve.losses) == list(range(1, LAST + 1))
    return curve.losses


def test_a_killed_run_goes_on_as_if_nothing_had_been(bucket: str, plugin: S3LightningCheckpoint) -> None:
    """Killed in the second epoch. Where saves are asynchronous, the newest one was half done: it does not count."""
    die_after, plans = STEPS + EVERY, {False: f"s3://{bucket}/plain", True: f"s3://{bucket}/asynchronous"}
    options: list[dict[str, object]] = []
    for asynchronous, folder in plans.items():
        fill(f"{folder}/data/")
        going_on = {"folder": folder, "asynchronous": asynchronous}
        options += {**going_on, "die_after": die_after}, going_on
    expected, found = uninterrupted(f"{plans[False]}/data/", plugin), runs(*options)
    for asynchronous in plans:
        whole = die_after // EVERY * EVERY - (EVERY if asynchronous else 0)
        assert whole % STEPS, "within an epoch"
        killed, resumed = found[2 * asynchronous :][:2]
        assert killed == Run(None, {step: expected[step] for step in range(1, die_after + 1)}, -signal.SIGKILL)
        rest = {step: expected[step] for step in range(whole + 1, LAST + 1)}
        assert resumed == Run(f"step={whole:03}.ckpt", rest, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_from_any_checkpoint(workers: int, data: str, bucket: str, plugin: S3LightningCheckpoint) -> None:
    """Made by the first step, within an epoch, at the end of one, and before the last step."""
    folder = f"s3://{bucket}/checkpoints/"
    saved = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    expected = uninterrupted(data, plugin, saved)
    for begin in (1, STEPS - 1, STEPS, STEPS + EVERY, 2 * STEPS, LAST - 1)[:: 2 if workers else 1]:
        curve, unsaved = Curve(), ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=0)
        trainer(plugin, curve, unsaved, max_epochs=EPOCHS).fit(
            Classifier(), ResumableLoader(data, workers), ckpt_path=f"{folder}step={begin}.ckpt"
        )
        assert curve.losses == {step: expected[step] for step in range(begin + 1, LAST + 1)}
