"""A save that fails raises, and leaves the checkpoint of that name as it was, or absent where there was none."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

import s3dlio
from s3dlio.compat.s3torchconnector import S3Exception
from s3dlio.compat.s3torchconnector.lightning import S3LightningCheckpoint
from s3dlio.model import ObjectMeta

from ...servers.seaweedfs import SeaweedFS
from .halfway import SMALL_PARTS, ballast, half_way
from .training import ADVICE, Classifier, ResumableLoader, trainer

pytestmark = ADVICE

OLDER = {"epoch": 1}


class Unpicklable:
    def __reduce__(self) -> NoReturn:
        raise RuntimeError("cannot be pickled")


class UnpicklableClassifier(Classifier):
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["bad"] = Unpicklable()


@pytest.fixture
def uri(bucket: str) -> str:
    return f"s3://{bucket}/checkpoints/model.ckpt"


@pytest.fixture
def readonly(s3_environment: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Changes the credentials to such as may only read. A bucket that is in use goes on with those that it has."""

    def change() -> None:
        for name, value in s3_environment.as_readonly().environment().items():
            monkeypatch.setenv(name, value)

    return change


def objects(uri: str) -> list[ObjectMeta]:
    """What the bucket holds beside the data, once everything that was dropped is gone."""
    gc.collect()
    return list(s3dlio.list(uri.rpartition("/")[0]))


def save_unpicklable(plugin: S3LightningCheckpoint, uri: str) -> None:
    plugin.save_checkpoint({"state_dict": ballast(), "bad": Unpicklable()}, uri)


def save_interrupted(plugin: S3LightningCheckpoint, uri: str) -> None:
    def interrupt() -> NoReturn:
        raise KeyboardInterrupt("half way")

    with half_way(interrupt):
        plugin.save_checkpoint({"state_dict": ballast()}, uri)


@pytest.mark.parametrize("older", [True, False], ids=["older", "none"])
@pytest.mark.parametrize(
    ("save", "kind", "text"),
    [(save_unpicklable, RuntimeError, "cannot be pickled"), (save_interrupted, KeyboardInterrupt, "half way")],
)
def test_a_failed_save_changes_nothing(
    save: Callable[[S3LightningCheckpoint, str], None],
    kind: type[BaseException],
    text: str,
    older: bool,
    s3_environment: SeaweedFS,
    uri: str,
) -> None:
    plugin = S3LightningCheckpoint("us-east-1", SMALL_PARTS)
    if older:
        plugin.save_checkpoint(OLDER, uri)
    before = objects(uri)
    with pytest.raises(kind, match=text):
        save(plugin, uri)
    assert objects(uri) == before
    if older:
        assert plugin.load_checkpoint(uri) == OLDER


@pytest.mark.parametrize("large", [False, True], ids=["one part", "several parts"])
def test_a_refused_save_changes_nothing_and_says_why(
    large: bool, readonly: Callable[[], None], plugin: S3LightningCheckpoint, uri: str
) -> None:
    plugin.save_checkpoint(OLDER, uri)
    before = objects(uri)
    readonly()
    refused = S3LightningCheckpoint("us-east-1", SMALL_PARTS)
    with pytest.raises(S3Exception, match="Client error: Forbidden") as caught:
        refused.save_checkpoint({"state_dict": ballast() if large else []}, uri)
    assert isinstance(caught.value, PermissionError)
    with pytest.raises(S3Exception, match="Client error: Forbidden"):
        refused.remove_checkpoint(uri)
    assert objects(uri) == before
    assert refused.load_checkpoint(uri) == OLDER


def test_a_run_ends_with_the_error_of_a_save_that_was_refused(
    data: str, readonly: Callable[[], None], plugin: S3LightningCheckpoint, uri: str
) -> None:
    plugin.save_checkpoint(OLDER, uri)
    readonly()
    refused = S3LightningCheckpoint("us-east-1", SMALL_PARTS)
    saved = ModelCheckpoint(uri.rpartition("/")[0], "model", enable_version_counter=False)
    with (
        pytest.warns(UserWarning, match="exists and is not empty"),
        pytest.raises(S3Exception, match="Client error: Forbidden"),
    ):
        trainer(refused, saved, max_epochs=1).fit(Classifier(), ResumableLoader(data))
    assert plugin.load_checkpoint(uri) == OLDER


def test_a_trainer_that_cannot_save_leaves_the_older_checkpoint(
    data: str, plugin: S3LightningCheckpoint, uri: str
) -> None:
    run = trainer(plugin, max_epochs=1)
    run.fit(UnpicklableClassifier(), ResumableLoader(data))
    plugin.save_checkpoint(OLDER, uri)
    before = objects(uri)
    with pytest.raises(RuntimeError, match="cannot be pickled"):
        run.save_checkpoint(uri)
    assert objects(uri) == before
    assert plugin.load_checkpoint(uri) == OLDER
