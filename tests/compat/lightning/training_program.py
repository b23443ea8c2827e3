"""Training runs in processes of their own: `python -m tests.compat.lightning.training_program OPTIONS...`.

For each `OPTIONS`, which are JSON, a process is forked. It trains on `data/` in the `folder`, makes a checkpoint in its
`checkpoints/` every few steps, and begins where the newest one there ends. What is printed are lines of JSON: the name
of that one, or null; the number and loss of each step; and how the process ended, as `{"ended": exit code}`.

With `die_after` the process kills itself after that step. With `asynchronous`, checkpoints are
saved in a thread; the newest save before `die_after` then stops half way, and the process dies after that, too.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO, CheckpointIO

import s3dlio
from s3dlio.compat.s3torchconnector.lightning import S3LightningCheckpoint

from .halfway import SMALL_PARTS, half_way
from .training import Classifier, ResumableLoader, trainer

EPOCHS = 3
EVERY = 5
"""Steps between checkpoints. They fall inside the epochs."""

_LONG = 60
"""Seconds after which a process that should have died ends in any case."""


class Report(Callback):
    """Prints each step and its loss; after the step `last` it calls `die`."""

    def __init__(self, last: int | None, die: Callable[[], None]) -> None:
        self._last = last
        self._die = die

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        print(json.dumps((trainer.global_step, outputs["loss"].item())), flush=True)
        if trainer.global_step == self._last:
            self._die()


class HeldCheckpoint(S3LightningCheckpoint):
    """The save of the step `held` stops half way, for good; then `stopped` is set."""

    def __init__(self, held: int) -> None:
        super().__init__("us-east-1", SMALL_PARTS)
        self.stopped = threading.Event()
        self._held = held

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if checkpoint["global_step"] != self._held:
            super().save_checkpoint(checkpoint, path)
            return
        with half_way(self._stop):
            super().save_checkpoint(checkpoint, path)

    def _stop(self) -> None:
        self.stopped.set()
        threading.Event().wait(_LONG)


def newest(folder: str) -> str | None:
    """The name of the newest checkpoint in the folder."""
    return max((PurePosixPath(entry.key).name for entry in s3dlio.list(folder)), default=None)


def main(folder: str, *, die_after: int | None = None, asynchronous: bool = False) -> None:
    """Train to the end, or until the process dies."""
    checkpoints = f"{folder}/checkpoints/"
    plugin = HeldCheckpoint((die_after or 0) // EVERY * EVERY if asynchronous else 0)

    def die() -> None:
        if asynchronous:
            plugin.stopped.wait(_LONG)
        os.kill(os.getpid(), signal.SIGKILL)

    begin = newest(checkpoints)
    print(json.dumps(begin), flush=True)
    saved = ModelCheckpoint(checkpoints, "{step:03}", every_n_train_steps=EVERY, save_top_k=-1)
    outer: CheckpointIO = AsyncCheckpointIO(plugin) if asynchronous else plugin
    run = trainer(outer, Report(die_after, die), saved, max_epochs=EPOCHS)
    run.fit(
        Classifier(heavy=asynchronous),
        ResumableLoader(f"{folder}/data/"),
        ckpt_path=f"{checkpoints}{begin}" if begin else None,
    )


if __name__ == "__main__":
    for options in sys.argv[1:]:
        process = multiprocessing.get_context("fork").Process(target=main, kwargs=json.loads(options))
        process.start()
        process.join()
        print(json.dumps({"ended": process.exitcode}), flush=True)
