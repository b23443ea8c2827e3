"""Checkpoints in every kind of place, by the plugin itself and by a `Trainer`.

A path that is given to `save_checkpoint` or as `ckpt_path` goes to the plugin as it is: there every scheme is good. A
folder, of `ModelCheckpoint` or `default_root_dir`, is looked at by Lightning itself, by means of fsspec. For `s3://`
that takes s3fs, which `test_trainer.py` uses, and for `gs://` and `az://` it takes gcsfs and adlfs, which no test here
installs. fsspec knows no `direct://`, and of `file://` Lightning makes a path without a scheme: both are errors, tested
below.
"""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from s3dlio.compat.s3torchconnector import S3Exception
from s3dlio.compat.s3torchconnector.lightning import S3LightningCheckpoint

from ...places import Place
from .halfway import ballast
from .training import ADVICE, STEPS, Classifier, Curve, ResumableLoader, fill, trainer

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


@pytest.mark.parametrize(
    ("place", "text"), [("file", "Only s3:// URIs"), ("direct", "Protocol not known: direct")], indirect=["place"]
)
def test_a_folder_that_lightning_cannot_look_at_is_an_error(
    text: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written elsewhere."""
    data = f"{folder}/data/"
    fill(data)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=text):
        trainer(S3LightningCheckpoint(None), ModelCheckpoint(f"{folder}/checkpoints"), max_epochs=1).fit(
            Classifier(), ResumableLoader(data)
        )
    assert not list(tmp_path.iterdir())
    assert not Path(folder.partition("://")[2], "checkpoints").exists()
