"""Checkpoints in every kind of place, by the plugin itself and by a `Trainer`.

A path that is given to `save_checkpoint` or as `ckpt_path` goes to the plugin as it is: there every scheme is good. A
folder, of `ModelCheckpoint` or `default_root_dir`, is looked at by Lightning itself, by means of fsspec. For `s3://`
that takes s3fs, which `test_trainer.py` uses, and for `gs://` and `az://` it takes gcsfs and adlfs, which no test here
installs: what Lightning says without them is in the guide.
"""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import s3dlio
from s3dlio.compat.s3torchconnector import S3Exception
from s3dlio.compat.s3torchconnector.lightning import S3LightningCheckpoint

from ...places import Place
from .halfway import ballast
from .training import ADVICE, STEPS, Classifier, Curve, ResumableLoader, fill, trainer

MESSAGES = {
    "az": "Install adlfs to access Azure Datalake Gen2 and Azure Blob Storage",
    "gs": "Please install gcsfs to access Google Storage",
}
"""What fsspec says without the packages for these clouds."""

pytestmark = [*ADVICE, pytest.mark.usefixtures("environment")]


@pytest.fixture
def folder(place: Place) -> str:
    return f"{place.root}/{uuid4()}"


def test_the_plugin_saves_loads_and_removes(folder: str) -> None:
    plugin, uri = S3LightningCheckpoint(None), f"{folder}/a b+c%20=1.ckpt"
    for epoch in range(2):
        plugin.save_checkpoint({"epoch": epoch, "ballast": ballast()}, uri)
        loaded = plugin.load_checkpoint(uri)
        assert loaded["epoch"] == epoch
        assert all(torch.equal(*pair) for pair in zip(loaded["ballast"], ballast(), strict=True))
    assert plugin.load_checkpoint(uri, map_location="meta")["ballast"][0].is_meta
    plugin.remove_checkpoint(uri)
    plugin.remove_checkpoint(uri)
    with pytest.raises(S3Exception, match="Service error: The key does not exist"):
        plugin.load_checkpoint(uri)
    plugin.teardown()


def test_a_trainer_saves_and_another_one_goes_on(folder: str) -> None:
    data, uri = f"{folder}/data/", f"{folder}/model.ckpt"
    fill(data)
    plugin = S3LightningCheckpoint(None)
    whole, half, rest = Curve(), Curve(), Curve()
    trainer(plugin, whole, max_epochs=2).fit(Classifier(), ResumableLoader(data))
    first = trainer(plugin, half, max_epochs=1)
    first.fit(Classifier(), ResumableLoader(data))
    first.save_checkpoint(uri)
    trainer(plugin, rest, max_epochs=2).fit(Classifier(), ResumableLoader(data), ckpt_path=uri)
    assert list(half.losses) == list(range(1, STEPS + 1))
    assert half.losses | rest.losses == whole.losses
    assert not half.losses.keys() & rest.losses.keys()


@pytest.mark.parametrize("place", ["file", "direct"], indirect=True)
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
def test_checkpoints_of_every_epoch_go_to_a_folder(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are kept, and nothing is written elsewhere."""
    data, kept = f"{folder}/data/", f"{folder}/checkpoints"
    fill(data)
    monkeypatch.chdir(tmp_path)

    def saving() -> ModelCheckpoint:
        return ModelCheckpoint(kept, filename="{epoch}", monitor="epoch", mode="max", save_top_k=2, save_last=True)

    first, rest = saving(), Curve()
    trainer(S3LightningCheckpoint(None), first, max_epochs=3).fit(Classifier(), ResumableLoader(data))
    assert sorted(entry.key for entry in s3dlio.list(f"{kept}/")) == ["epoch=1.ckpt", "epoch=2.ckpt", "last.ckpt"]
    trainer(S3LightningCheckpoint(None), saving(), rest, max_epochs=4).fit(
        Classifier(), ResumableLoader(data), ckpt_path=first.best_model_path
    )
    assert list(rest.losses) == list(range(3 * STEPS + 1, 4 * STEPS + 1))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("place", "text"), [("az", MESSAGES["az"]), ("gs", MESSAGES["gs"])], indirect=["place"])
def test_a_folder_that_lightning_cannot_look_at_is_an_error(text: str, folder: str) -> None:
    with pytest.raises(ImportError, match=f"^{text}$"):
        trainer(S3LightningCheckpoint(None), ModelCheckpoint(f"{folder}/checkpoints"), max_epochs=1)
    assert text in (Path(__file__).parents[3] / "docs" / "migration.md").read_text()
