"""The plugin as Lightning and programs see it: paths, copies, processes, imports."""

from __future__ import annotations

import copy
import inspect
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import lightning
import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import CheckpointIO
from s3torchconnector.lightning import S3LightningCheckpoint as Original
from torch.utils.data import DataLoader

from s3dlio.compat.s3torchconnector import S3ClientConfig, S3Exception
from s3dlio.compat.s3torchconnector import lightning as ours
from s3dlio.compat.s3torchconnector.lightning import S3LightningCheckpoint

from ...interpreter import run_python
from ...servers.seaweedfs import SeaweedFS
from .training import ADVICE, STEPS, Classifier, examples

pytestmark = ADVICE

METHODS: dict[str, Callable[[S3LightningCheckpoint, Any], object]] = {
    "save": lambda plugin, path: plugin.save_checkpoint({}, path),
    "load": lambda plugin, path: plugin.load_checkpoint(path),
    "remove": lambda plugin, path: plugin.remove_checkpoint(path),
}


def test_names_and_signatures_are_those_of_the_original() -> None:
    assert ours.__all__ == ["S3LightningCheckpoint"]
    assert issubclass(S3LightningCheckpoint, CheckpointIO)
    for name in ("__init__", "save_checkpoint", "load_checkpoint", "remove_checkpoint", "teardown"):
        mine, theirs = (inspect.signature(getattr(kind, name)).parameters for kind in (S3LightningCheckpoint, Original))
        assert [(each.name, each.kind, each.default) for each in mine.values()] == [
            (each.name, each.kind, each.default) for each in theirs.values()
        ]
    assert S3LightningCheckpoint("eu-north-1").region == "eu-north-1"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", [PurePosixPath("/model.ckpt"), b"s3://bucket/key", None], ids=repr)
def test_a_path_that_is_no_string(path: Any, method: str) -> None:
    text = f"{type(path).__name__!r} is not a supported type for 'path'. Must be a string formatted as an S3 uri."
    with pytest.raises(TypeError) as caught:
        METHODS[method](S3LightningCheckpoint("us-east-1"), path)
    assert str(caught.value) == text


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("", "Only s3:// URIs are supported"),
        ("model.ckpt", "Only s3:// URIs are supported"),
        ("/folder/model.ckpt", "Only s3:// URIs are supported"),
        (".temp.ckpt", "Only s3:// URIs are supported"),
        ("https://host/model.ckpt", "Only s3:// URIs are supported"),
        ("S3://bucket/model.ckpt", "Only s3:// URIs are supported"),
        ("s3:///model.ckpt", "Bucket name must be non-empty"),
    ],
)
def test_a_path_that_is_no_uri(path: str, text: str, method: str) -> None:
    with pytest.raises(ValueError, match=text):
        METHODS[method](S3LightningCheckpoint("us-east-1"), path)


def test_a_checkpoint_or_bucket_that_is_not_there(plugin: S3LightningCheckpoint, bucket: str) -> None:
    with pytest.raises(S3Exception) as caught:
        plugin.load_checkpoint(f"s3://{bucket}/absent.ckpt")
    assert str(caught.value) == "Service error: The key does not exist"
    assert isinstance(caught.value, FileNotFoundError)
    with pytest.raises(S3Exception) as caught:
        plugin.load_checkpoint("s3://absent-bucket/model.ckpt")
    assert str(caught.value) == "Service error: The bucket does not exist"
    plugin.remove_checkpoint(f"s3://{bucket}/absent.ckpt")


def test_an_endpoint_and_a_configuration_are_used(
    s3_server: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, s3_server.environment()[name])
    plugin = S3LightningCheckpoint("us-east-1", S3ClientConfig(max_attempts=2), s3_server.endpoint)
    plugin.save_checkpoint({"epoch": 1}, f"s3://{bucket}/model.ckpt", {"storage": "options mean nothing"})
    assert plugin.load_checkpoint(f"s3://{bucket}/model.ckpt") == {"epoch": 1}
    unsigned = S3LightningCheckpoint("us-east-1", S3ClientConfig(unsigned=True), s3_server.endpoint)
    with pytest.raises(S3Exception, match="Client error: Forbidden"):
        unsigned.load_checkpoint(f"s3://{bucket}/model.ckpt")


@pytest.mark.parametrize(
    ("version", "weights_only", "trusting"),
    [("2.5.6", None, True), ("2.6.0", None, False), ("2.5.6", True, False), ("2.6.0", False, True)],
)
def test_whether_a_checkpoint_is_trusted(
    version: str,
    weights_only: bool | None,
    trusting: bool,
    plugin: S3LightningCheckpoint,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lightning changed its mind with 2.6, where it is not said."""
    monkeypatch.setattr(lightning, "__version__", version)
    uri, checkpoint = f"s3://{bucket}/model.ckpt", {"path": PurePosixPath("/folder")}
    plugin.save_checkpoint(checkpoint, uri)
    if trusting:
        assert plugin.load_checkpoint(uri, weights_only=weights_only) == checkpoint
        return
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        plugin.load_checkpoint(uri, weights_only=weights_only)


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda plugin: pickle.loads(pickle.dumps(plugin))])
def test_a_copy_is_as_good(
    copied: Callable[[S3LightningCheckpoint], S3LightningCheckpoint], used: bool, s3_environment: SeaweedFS, bucket: str
) -> None:
    """Before and after the first use. Lightning copies plugins, and sends them to processes that it starts."""
    uri = f"s3://{bucket}/model.ckpt"
    plugin = S3LightningCheckpoint("us-east-1", S3ClientConfig(max_attempts=3), s3_environment.endpoint)
    if used:
        plugin.save_checkpoint({"epoch": 1}, uri)
    arrived = copied(plugin)
    assert arrived.region == "us-east-1"
    arrived.save_checkpoint({"epoch": 2}, uri)
    assert plugin.load_checkpoint(uri) == {"epoch": 2}


def test_processes_that_lightning_forks_save_and_hand_the_weights_back(
    data: str, bucket: str, plugin: S3LightningCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them, after this one has used the network. The weights come back in a file, which goes away again."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("MASTER_PORT", "")
    monkeypatch.delenv("MASTER_PORT")  # Lightning sets it; it goes away again
    saved = ModelCheckpoint(f"s3://{bucket}/checkpoints/", "model")
    run = pl.Trainer(
        accelerator="cpu", devices=2, strategy="ddp_fork", plugins=[plugin], callbacks=[saved], max_epochs=1,
        logger=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    model = Classifier()
    before = copy.deepcopy(model.state_dict())
    run.fit(model, DataLoader(examples(data), batch_size=4))
    loaded = plugin.load_checkpoint(f"s3://{bucket}/checkpoints/model.ckpt")
    assert loaded["global_step"] == STEPS // 2
    weights = model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in loaded["state_dict"].items())
    assert not all(torch.equal(weights[name], value) for name, value in before.items())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def _printed(code: str) -> str:
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_lightning_the_import_names_what_is_missing() -> None:
    """And only this import needs it."""
    code = """
import sys
sys.modules["lightning"] = None
import s3dlio.compat.s3torchconnector
try:
    import s3dlio.compat.s3torchconnector.lightning
except ModuleNotFoundError as error:
    print(error.name)
"""
    assert _printed(code) == "lightning\n"


def test_neither_lightning_nor_distributed_checkpoints_are_imported_unasked() -> None:
    code = """
import sys
import s3dlio.compat.s3torchconnector
heavy = "lightning", "torch.distributed.checkpoint", f"{s3dlio.compat.__name__}.s3torchconnector.dcp"
print([name for name in sys.modules if name in heavy])
"""
    assert _printed(code) == "[]\n"
