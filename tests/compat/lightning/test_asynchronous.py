"""Saves in a thread, by Lightning's `AsyncCheckpointIO` around the plugin."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from torch import Tensor
from torch.utils.data import DataLoader

import s3dlio
from s3dlio.compat.s3torchconnector import S3Exception
from s3dlio.compat.s3torchconnector.lightning import S3LightningCheckpoint

from ...servers.seaweedfs import SeaweedFS
from .halfway import SMALL_PARTS, ballast, half_way
from .training import ADVICE, EXAMPLES, STEPS, Classifier, ResumableLoader, examples, trainer

pytestmark = ADVICE


class Weights(Callback):
    """Notes the model's weights after every step."""

    def __init__(self) -> None:
        self.noted: dict[int, dict[str, Tensor]] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.noted[trainer.global_step] = copy.deepcopy(pl_module.state_dict())


class Gate:
    """Where a save stops half way: `reached` is set there, and it goes on when `opened` is."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.opened.wait(60)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """Every save of a checkpoint with ballast stops at this gate."""
    gate = Gate()
    with half_way(gate):
        yield gate
        gate.opened.set()


@pytest.fixture
def plain(s3_environment: SeaweedFS) -> S3LightningCheckpoint:
    return S3LightningCheckpoint("us-east-1", SMALL_PARTS)


def test_saves_wait_in_line_and_teardown_waits_for_all(plain: S3LightningCheckpoint, gate: Gate, bucket: str) -> None:
    """What is saved is what was there at the time of the call."""
    plugin = AsyncCheckpointIO(plain)
    weights = torch.zeros(1)
    for number in range(4):
        weights.fill_(number)
        checkpoint = {"weights": weights, "ballast": [] if number else ballast()}
        plugin.save_checkpoint(checkpoint, f"s3://{bucket}/{number}.ckpt")
    weights.fill_(-1)
    gate.reached.wait()
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(plugin.teardown)
        assert not list(s3dlio.list(f"s3://{bucket}"))
        assert not ended.done()
        gate.opened.set()
        ended.result()
    assert [plain.load_checkpoint(f"s3://{bucket}/{number}.ckpt")["weights"].item() for number in range(4)] == [
        0,
        1,
        2,
        3,
    ]


def test_a_plugin_can_be_used_again_after_its_teardown(plain: S3LightningCheckpoint, bucket: str) -> None:
    plugin = AsyncCheckpointIO(plain)
    for epoch in range(2):
        plugin.save_checkpoint({"epoch": epoch}, f"s3://{bucket}/model.ckpt")
        plugin.teardown()
        assert plugin.load_checkpoint(f"s3://{bucket}/model.ckpt") == {"epoch": epoch}
    plugin.remove_checkpoint(f"s3://{bucket}/model.ckpt")
    assert not list(s3dlio.list(f"s3://{bucket}"))


def test_an_error_in_the_thread_is_raised_by_teardown(plain: S3LightningCheckpoint, gate: Gate, bucket: str) -> None:
    """The older checkpoint stays, and so do those that were saved before the error."""
    uri = f"s3://{bucket}/model.ckpt"
    plain.save_checkpoint({"epoch": 0}, uri)
    plugin = AsyncCheckpointIO(plain)
    plugin.save_checkpoint({"ballast": ballast()}, f"s3://{bucket}/before.ckpt")
    plugin.save_checkpoint({"epoch": 1, "bad": threading.Lock()}, uri)
    gate.opened.set()
    with pytest.raises(TypeError, match=r"cannot pickle '_thread\.lock' object"):
        plugin.teardown()
    gc.collect()
    assert plain.load_checkpoint(uri) == {"epoch": 0}
    assert len(plain.load_checkpoint(f"s3://{bucket}/before.ckpt")["ballast"]) == 3


def test_a_run_whose_saves_are_refused_ends_with_that_error(
    data: str, bucket: str, s3_environment: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_environment.as_readonly().environment().items():
        monkeypatch.setenv(name, value)
    saved = ModelCheckpoint(f"s3://{bucket}/checkpoints")
    run = trainer(AsyncCheckpointIO(S3LightningCheckpoint("us-east-1")), saved, max_epochs=1)
    with pytest.raises(S3Exception, match="Client error: Forbidden"):
        run.fit(Classifier(), ResumableLoader(data))
    assert not list(s3dlio.list(f"s3://{bucket}/checkpoints"))


def test_workers_that_are_forked_while_a_save_is_half_done_disturb_nothing(
    data: str, bucket: str, plain: S3LightningCheckpoint, gate: Gate
) -> None:
    """They inherit the writer with its half of an upload, use the network and end; then the save goes on."""
    plugin, uri = AsyncCheckpointIO(plain), f"s3://{bucket}/model.ckpt"
    plugin.save_checkpoint({"ballast": ballast()}, uri)
    gate.reached.wait()
    loader = DataLoader(examples(data), num_workers=2, multiprocessing_context="fork")
    assert sum(1 for _ in loader) == EXAMPLES
    assert not s3dlio.exists(uri)
    gate.opened.set()
    plugin.teardown()
    loaded = plain.load_checkpoint(uri)["ballast"]
    assert all(torch.equal(*pair) for pair in zip(loaded, ballast(), strict=True))


def test_a_run_saves_every_step_while_workers_come_and_go(data: str, bucket: str, plain: S3LightningCheckpoint) -> None:
    folder = f"s3://{bucket}/checkpoints/"
    saved, weights = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1), Weights()
    run = trainer(AsyncCheckpointIO(plain), weights, saved, max_epochs=3)
    run.fit(Classifier(), ResumableLoader(data, workers=2))
    assert list(weights.noted) == list(range(1, 3 * STEPS + 1))
    for step, expected in weights.noted.items():
        loaded = plain.load_checkpoint(f"{folder}step={step}.ckpt")
        assert loaded["global_step"] == step
        assert all(torch.equal(loaded["state_dict"][name], value) for name, value in expected.items())
