"""The examples of the original's README, run with only the import changed, on a real server: each has its effect.

They come from the installed distribution. What a reader fills in is filled in: the bucket, keys and prefixes, the names
that an example takes from the one before it. Each also runs with the original itself, so that what is asked here is
not more than it does.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import types
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import s3fs
import torch
from lightning import LightningModule
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.utils.data import DataLoader, DistributedSampler

import s3dlio

from ..servers.seaweedfs import SeaweedFS
from .differential.kit import process_group

PACKAGES = {"original": "s3torchconnector", "ours": "s3dlio.compat.s3torchconnector"}
REGION = "us-east-1"
TRAIN = {f"train/{number}": bytes([number]) * 10 * number for number in range(1, 5)}
SKIPPED = 100 << 20
"""Where the range of one example begins."""

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{beginning}")
    for beginning in (
        "torch.distributed is .*, assuming the intent is to",
        "This DataLoader will create 4 worker processes",
        "Starting from v1.9.0, `tensorboardX` has been removed",
        "`max_epochs` was not set",
        "The '.*' does not have many workers",
        r"The number of training batches \(2\) is smaller than the logging interval",
        r".isinstance\(treespec, LeafSpec\). is deprecated",
    )
]
"""What PyTorch and Lightning say of jobs as small as these, on machines that may be small too."""


class Network(nn.Module):
    """In the place of a ResNet, which torchvision has."""

    made: list[Network]

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
        self.made.append(self)


class Regression(LightningModule):
    """What the example with a trainer trains, for one epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return DataLoader(torch.ones(4, 2), batch_size=2)  # type: ignore[arg-type]

    def on_train_epoch_end(self) -> None:
        self.trainer.should_stop = True


@dataclass
class Place:
    """Where an example runs, and by which package."""

    bucket: str
    package: str

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    def keys(self, prefix: str = "") -> list[str]:
        return [entry.key for entry in s3dlio.list(self.uri(prefix))]

    def module(self, name: str) -> Any:
        return importlib.import_module(f"{self.package}.{name}")


def _readme() -> str:
    payload = importlib.metadata.metadata("s3torchconnector").get_payload()  # type: ignore[attr-defined]
    assert isinstance(payload, str)
    return payload


EXAMPLES: list[str] = re.findall(r"^```py\n(.*?)^```$", _readme(), re.MULTILINE | re.DOTALL)


def example_of(mark: str) -> str:
    """The one example in which `mark` stands."""
    (found,) = [example for example in EXAMPLES if mark in example]
    return found


def filled_in(text: str, place: Place) -> str:
    """An example with the import changed, and with the place in the place of its placeholders."""
    text = re.sub(r"^from s3torchconnector\b", f"from {place.package}", text, flags=re.MULTILINE)
    for placeholder, value in {
        "<BUCKET>": place.bucket,
        "<PREFIX>": "train/",
        "<KEY>": "checkpoint",
        '"CHECKPOINT_URI"': repr(place.uri("checkpoint")),
        '"my-bucket"': repr(place.bucket),
        "s3://bucket_name/key_prefix/": place.uri("key_prefix/"),
    }.items():
        text = text.replace(placeholder, value)
    assert not re.search(r"<[A-Z]+>", text)
    return text


@pytest.fixture(params=list(PACKAGES.values()), ids=list(PACKAGES))
def place(
    request: pytest.FixtureRequest, s3_environment: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Place:
    """A bucket with a few objects below `train/`, and a torchvision whose one model is a small network."""
    for key, body in TRAIN.items():
        s3dlio.put(f"s3://{bucket}/{key}", body)
    torchvision: Any = types.ModuleType("torchvision")
    torchvision.models = types.SimpleNamespace(resnet18=Network)
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    monkeypatch.setattr(Network, "made", [], raising=False)
    return Place(bucket, request.param)


def run(place: Place, mark: str, **presupposed: Any) -> dict[str, Any]:
    """Run an example; the names it leaves are returned."""
    names = {"__name__": "example", "REGION": REGION} | presupposed
    exec(compile(filled_in(example_of(mark), place), mark, "exec"), names)
    return names


def _same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def _saved_state(place: Place) -> dict[str, Any]:
    """The state of a network, saved as a distributed checkpoint below `checkpoint/`."""
    state = Network().state_dict()
    writer = place.module("dcp").S3StorageWriter(REGION, place.uri("checkpoint/"))
    state_dict_saver.save(state, storage_writer=writer, no_dist=True)
    return state


MARKS = {
    "map_dataset = S3MapDataset.from_prefix(DATASET_URI, region=REGION)",
    'with checkpoint.writer(CHECKPOINT_URI + "epoch0.ckpt")',
    "thread_count=8",
    "import RoundRobinPrefixStrategy",
    "import BinaryPrefixStrategy",
    "import HexPrefixStrategy",
    "class CustomPrefixStrategy",
    "enable_sharding=True",
    "DistributedSampler(dataset)",
    "S3LightningCheckpoint",
    "s3writer.write(data)",
    "buffer_size=0",
    "S3ReaderConstructor.dcp_optimized()",
    "S3ReaderConstructor.sequential()",
}
"""What stands in one example alone."""


def test_every_example_is_run_here() -> None:
    assert sorted(EXAMPLES) == sorted(map(example_of, MARKS))


def test_datasets(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    names = run(place, "map_dataset = S3MapDataset.from_prefix(DATASET_URI, region=REGION)")
    assert capsys.readouterr().out.split() == list(TRAIN)
    assert (names["bucket"], names["key"], names["content"]) == (place.bucket, "train/1", TRAIN["train/1"])


def test_checkpoints(place: Place) -> None:
    names = run(place, 'with checkpoint.writer(CHECKPOINT_URI + "epoch0.ckpt")')
    assert place.keys("checkpoint/") == ["checkpoint/epoch0.ckpt"]
    assert _same(names["state_dict"], names["model"].state_dict())


def test_distributed_checkpoints(place: Place) -> None:
    run(place, "thread_count=8")
    saved, loaded = Network.made
    assert saved is not loaded
    assert _same(saved.state_dict(), loaded.state_dict())
    assert "checkpoint/.metadata" in place.keys("checkpoint/")


def _unless_ours(place: Place, error: type[Exception]) -> AbstractContextManager[object]:
    """The README is ahead of the original, which fails there; ours does what is written."""
    return nullcontext() if place.package == PACKAGES["ours"] else pytest.raises(error)


def test_folders_in_turn(place: Place) -> None:
    presupposed = {"torchvision": sys.modules["torchvision"], "DCP": state_dict_saver}
    with _unless_ours(place, ImportError):
        run(place, "import RoundRobinPrefixStrategy", **presupposed)
        assert place.keys("checkpoint/") == ["checkpoint/.metadata", "checkpoint/shard1/epoch_5/__0_0.distcp"]


@pytest.mark.parametrize(("kind", "prefix"), [("Binary", "0000000000"), ("Hex", "0000")])
def test_folders_of_digits(kind: str, prefix: str, place: Place) -> None:
    with _unless_ours(place, TypeError):
        assert run(place, f"import {kind}PrefixStrategy")["strategy"](0) == f"{prefix}/epoch_1/__0_"


def test_a_strategy_of_one_s_own(place: Place) -> None:
    strategy = run(place, "class CustomPrefixStrategy")["CustomPrefixStrategy"]("name")
    writer = place.module("dcp").S3StorageWriter(REGION, place.uri("checkpoint"), prefix_strategy=strategy)
    state_dict_saver.save({"a": torch.ones(2)}, storage_writer=writer, no_dist=True)
    assert place.keys("checkpoint/") == ["checkpoint/.metadata", "checkpoint/custom_name/0/0.distcp"]


def test_a_share_for_each_worker(place: Place) -> None:
    package = importlib.import_module(place.package)
    presupposed = {"S3IterableDataset": package.S3IterableDataset, "DataLoader": _ForkingLoader}
    names = run(place, "enable_sharding=True", DATASET_URI=place.uri("train/"), **presupposed)
    assert names["dataloader"].num_workers == 4
    assert sorted(key for batch in names["dataloader"] for key in batch) == list(TRAIN)


class _ForkingLoader(DataLoader[Any]):
    """Workers start in the same way everywhere, and read; a list is a batch."""

    def __init__(self, dataset: Any, **options: Any) -> None:
        super().__init__(dataset, **options, multiprocessing_context="fork", collate_fn=_keys_of)


def _keys_of(readers: list[Any]) -> list[str]:
    return [reader.key for reader in readers if len(reader.read()) == len(TRAIN[reader.key])]


def test_a_share_for_each_rank(place: Place) -> None:
    package = importlib.import_module(place.package)
    presupposed = {"S3MapDataset": package.S3MapDataset, "DataLoader": _ForkingLoader}
    found: list[str] = []
    for rank in range(2):
        with process_group(rank, 2):
            names = run(
                place,
                "DistributedSampler(dataset)",
                DATASET_URI=place.uri("train/"),
                DistributedSampler=DistributedSampler,
                **presupposed,
            )
        found += [key for batch in names["dataloader"] for key in batch]
    assert sorted(found) == list(TRAIN)


def test_a_trainer(place: Place) -> None:
    s3fs.S3FileSystem.clear_instance_cache()
    model = Regression()
    run(place, "S3LightningCheckpoint", model=model)
    (key,) = [key for key in place.keys("key_prefix/") if key.endswith(".ckpt")]
    saved = place.module("lightning").S3LightningCheckpoint(REGION).load_checkpoint(place.uri(key))
    assert _same(saved["state_dict"], model.state_dict())
    s3fs.S3FileSystem.clear_instance_cache()


def test_the_client(place: Place) -> None:
    names = run(place, "s3writer.write(data)")
    assert len(names["data"]) == 7 << 20
    assert names["data"] == s3dlio.get(place.uri("large_object.bin")) == b"content" * (1 << 20)


def test_a_range_of_a_large_object(place: Place) -> None:
    tail = bytes(range(256)) * 100
    with place.module("_s3client").S3Client(REGION).put_object(place.bucket, "large") as writer:
        for _ in range(SKIPPED >> 20):
            writer.write(bytes(1 << 20))
        writer.write(tail)
    names = run(place, "buffer_size=0", BUCKET_NAME=place.bucket, OBJECT_NAME="large")
    assert names["bytes_read"] == len(tail)
    assert names["buffer"].startswith(tail)


def test_loading_a_distributed_checkpoint(place: Place) -> None:
    saved, model_state_dict = _saved_state(place), Network().state_dict()
    presupposed = {"CHECKPOINT_URI": place.uri("checkpoint/"), "DCP": state_dict_loader}
    run(place, "S3ReaderConstructor.dcp_optimized()", model_state_dict=model_state_dict, **presupposed)
    assert _same(model_state_dict, saved)


def test_reading_whole_objects(place: Place) -> None:
    names = run(place, "S3ReaderConstructor.sequential()", DATASET_URI=place.uri("train/"))
    assert names["content"] == TRAIN["train/4"]
