"""A training job on Lightning in small: its data and its checkpoints are in a bucket, and each step can be compared.

The order of the data depends on the epoch alone, and the loader tells Lightning how far it has come, so that a run that
goes on from a checkpoint sees the batches that the interrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

import s3dlio
from s3dlio.compat.s3torchconnector import S3MapDataset, S3Reader

from .halfway import ballast

EXAMPLES = 24
BATCH = 4
STEPS = EXAMPLES // BATCH
"""Steps of an epoch."""

_FEATURES = 16

Batch = tuple[Tensor, Tensor]

ADVICE = [
    pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\). is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),
]
"""What Lightning warns of in a run as small as these: a call of its own, and that there are no worker processes."""


def fill(folder: str) -> None:
    """Put the examples into the folder, a URI that ends in a slash: `NUMBER-LABEL`, 16 float32 each."""
    features = torch.randn(EXAMPLES, _FEATURES, generator=torch.Generator().manual_seed(7))
    uris = [f"{folder}{number:03}-{int(row.sum() > 0)}" for number, row in enumerate(features)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(s3dlio.put, uris, [row.numpy().tobytes() for row in features]))


def decode(item: S3Reader) -> Batch:
    return torch.frombuffer(bytearray(item.read()), dtype=torch.float32), torch.tensor(int(item.key[-1]))


def examples(folder: str) -> S3MapDataset:
    return S3MapDataset.from_prefix(folder, region="us-east-1", transform=decode)


class EpochOrder(Sampler[int]):
    """A permutation that depends on the epoch alone, from `start` on. Lightning calls `set_epoch`."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.epoch))
        return iter(order[self.start :].tolist())

    def __len__(self) -> int:
        return self.count


class ResumableLoader(DataLoader[Any]):
    """Batches of the examples in a folder. Its state is how many of the epoch's batches it has given."""

    def __init__(self, folder: str, workers: int = 0) -> None:
        self._order = EpochOrder(EXAMPLES)
        self._given = 0
        self._resume_at = 0
        super().__init__(
            examples(folder),
            batch_size=BATCH,
            sampler=self._order,
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )

    def __iter__(self) -> Any:
        self._given, self._resume_at = self._resume_at, 0
        self._order.start = self._given * BATCH
        for batch in super().__iter__():
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"given": self._given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume_at = state["given"] % STEPS


class Classifier(pl.LightningModule):
    """Two layers, trained with momentum and a learning rate that falls. A heavy one makes large checkpoints."""

    def __init__(self, *, heavy: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(_FEATURES, 8), nn.ReLU(), nn.Linear(8, 2))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)
        for number, tensor in enumerate(ballast() if heavy else ()):
            self.register_buffer(f"ballast{number}", tensor)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.8)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _loss(self, batch: Batch) -> Tensor:
        inputs, labels = batch
        return nn.functional.cross_entropy(self.layers(inputs), labels)


class EvaluatedClassifier(Classifier):
    """The same, with validation and test."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("test_loss", self._loss(batch))


class Curve(Callback):
    """Notes the loss of every step, by the count of steps done."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses[trainer.global_step] = outputs["loss"].item()


def trainer(plugin: CheckpointIO, *callbacks: Callback, **settings: Any) -> pl.Trainer:
    """A quiet `Trainer` on the CPU whose checkpoints go through `plugin`, and are made by a callback or by hand."""
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
    }
    return pl.Trainer(accelerator="cpu", devices=1, plugins=[plugin], callbacks=[*callbacks], **(quiet | settings))
