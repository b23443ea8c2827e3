"""Lightning's `Trainer` with checkpoints in a bucket: all that it does with them by itself, on a real server."""

from __future__ import annotations

import pickle
from pathlib import PurePosixPath
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

import s3dlio
from s3dlio.compat.s3torchconnector.lightning import S3LightningCheckpoint

from .training import ADVICE, BATCH, STEPS, Classifier, Curve, EvaluatedClassifier, ResumableLoader, examples, trainer

pytestmark = ADVICE


@pytest.fixture
def folder(bucket: str) -> str:
    return f"s3://{bucket}/checkpoints/"


def keys(folder: str) -> list[str]:
    """What is in the folder, by names within it."""
    return [PurePosixPath(entry.key).name for entry in s3dlio.list(folder)]


def fitted(data: str, plugin: S3LightningCheckpoint, model: Classifier) -> Any:
    """A trainer that has trained `model` for an epoch, and saved nothing."""
    run = trainer(plugin, max_epochs=1)
    evaluated = isinstance(model, EvaluatedClassifier)
    run.fit(model, ResumableLoader(data), DataLoader(examples(data)) if evaluated else None)
    return run


def test_the_best_checkpoints_stay_and_the_others_are_removed(
    data: str, folder: str, plugin: S3LightningCheckpoint
) -> None:
    saved = ModelCheckpoint(folder, "{step}", monitor="loss", save_top_k=2, every_n_train_steps=1, save_last=True)
    curve = Curve()
    trainer(plugin, curve, saved, max_epochs=1).fit(Classifier(), ResumableLoader(data))
    best = sorted(curve.losses, key=curve.losses.__getitem__)[:2]
    assert set(best) != {1, 2}, "the first two were saved, and one at least was removed"
    assert set(keys(folder)) == {"last.ckpt", *(f"step={step}.ckpt" for step in best)}
    assert saved.best_model_path == f"{folder}step={best[0]}.ckpt"
    assert plugin.load_checkpoint(saved.best_model_path)["global_step"] == best[0]
    assert plugin.load_checkpoint(saved.last_model_path)["global_step"] == STEPS


def test_each_epochs_checkpoint_takes_the_place_of_the_older_one(
    data: str, folder: str, plugin: S3LightningCheckpoint
) -> None:
    trainer(plugin, ModelCheckpoint(folder), max_epochs=3).fit(Classifier(), ResumableLoader(data))
    assert keys(folder) == [f"epoch=2-step={3 * STEPS}.ckpt"]


def test_checkpoints_go_below_a_root_in_a_bucket(data: str, bucket: str, plugin: S3LightningCheckpoint) -> None:
    run = trainer(plugin, default_root_dir=f"s3://{bucket}/runs", enable_checkpointing=True, max_epochs=1)
    run.fit(Classifier(), ResumableLoader(data))
    (saved,) = s3dlio.list(f"s3://{bucket}/runs/")
    assert saved.key == f"runs/checkpoints/epoch=0-step={STEPS}.ckpt"


def test_a_second_run_sees_the_checkpoints_of_the_first(data: str, folder: str, plugin: S3LightningCheckpoint) -> None:
    """Lightning looks through s3fs, which finds the server by the same variables; it warns, and counts the name up."""
    loaders = ResumableLoader(data)
    trainer(plugin, ModelCheckpoint(folder, "same"), max_epochs=1).fit(Classifier(), loaders)
    with pytest.warns(UserWarning, match=f"Checkpoint directory {folder} exists and is not empty"):
        trainer(plugin, ModelCheckpoint(folder, "same"), max_epochs=1).fit(Classifier(), loaders)
    assert keys(folder) == ["same-v1.ckpt", "same.ckpt"]


@pytest.mark.parametrize("weights_only", [False, True], ids=["everything", "weights"])
def test_a_saved_model_is_evaluated_as_the_trained_one(
    weights_only: bool, data: str, folder: str, plugin: S3LightningCheckpoint
) -> None:
    trained, uri, loader = EvaluatedClassifier(), f"{folder}model.ckpt", DataLoader(examples(data), batch_size=BATCH)
    run = fitted(data, plugin, trained)
    run.save_checkpoint(uri, weights_only=weights_only)
    for what in ("validate", "test"):
        expected = getattr(run, what)(trained, loader, verbose=False)
        evaluate = getattr(trainer(plugin), what)
        assert evaluate(EvaluatedClassifier(), loader, verbose=False) != expected
        assert evaluate(EvaluatedClassifier(), loader, ckpt_path=uri, verbose=False) == expected


def test_a_checkpoint_of_weights_only_has_no_more_than_it_needs(
    data: str, folder: str, plugin: S3LightningCheckpoint
) -> None:
    run = fitted(data, plugin, Classifier())
    run.save_checkpoint(f"{folder}all.ckpt")
    run.save_checkpoint(f"{folder}weights.ckpt", weights_only=True)
    whole, weights = (plugin.load_checkpoint(f"{folder}{name}.ckpt") for name in ("all", "weights"))
    assert {"optimizer_states", "lr_schedulers"} <= whole.keys() - weights.keys()
    with pytest.raises(KeyError, match="checkpoint contains only the model"):
        trainer(plugin, max_epochs=2).fit(Classifier(), ResumableLoader(data), ckpt_path=f"{folder}weights.ckpt")


def test_what_a_checkpoint_may_hold_when_it_is_loaded_is_the_callers_to_say(
    data: str, folder: str, plugin: S3LightningCheckpoint
) -> None:
    """PyTorch refuses classes that it does not know, unless it is told to trust the checkpoint."""
    uri = f"{folder}model.ckpt"
    model = Classifier()
    model.save_hyperparameters({"root": PurePosixPath("/somewhere"), "curve": Curve})
    run = fitted(data, plugin, model)
    run.save_checkpoint(uri)
    for untrusting in (None, True):
        with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
            trainer(plugin, max_epochs=1).fit(
                Classifier(), ResumableLoader(data), ckpt_path=uri, weights_only=untrusting
            )
    trainer(plugin, max_epochs=1).fit(Classifier(), ResumableLoader(data), ckpt_path=uri, weights_only=False)


def test_a_model_is_loaded_without_the_plugin(data: str, folder: str, plugin: S3LightningCheckpoint) -> None:
    """`load_from_checkpoint` goes through s3fs, so what the plugin wrote is an ordinary file to others."""
    model = Classifier()
    fitted(data, plugin, model).save_checkpoint(f"{folder}model.ckpt")
    loaded = Classifier.load_from_checkpoint(f"{folder}model.ckpt")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
