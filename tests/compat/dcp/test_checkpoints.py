"""Distributed checkpoints of one process, by PyTorch's own calls, on a real server."""

from __future__ import annotations

import os
import pickle
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch.distributed.checkpoint._extension import ZStandard
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import (
    DefaultLoadPlanner,
    DefaultSavePlanner,
    _EmptyStateDictLoadPlanner,
)
from torch.distributed.checkpoint.planner import WriteItem
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict, load
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, async_save, save

import s3dlio
from s3dlio.compat.s3torchconnector import S3ClientConfig, S3Exception, S3ReaderConstructor
from s3dlio.compat.s3torchconnector.dcp import (
    BinaryPrefixStrategy,
    HexPrefixStrategy,
    RoundRobinPrefixStrategy,
    S3FileSystem,
    S3PrefixStrategyBase,
    S3StorageReader,
    S3StorageWriter,
)
from s3dlio.compat.s3torchconnector.dcp.s3_file_system import StorageMetadata

from ...servers.seaweedfs import SeaweedFS
from .conftest import ALONE, REPLACING, Notes

pytestmark = [pytest.mark.filterwarnings(ALONE), pytest.mark.filterwarnings(REPLACING)]

REGION = "us-east-1"
Writer = partial(S3StorageWriter, REGION)
Reader = partial(S3StorageReader, REGION)


def state(number: float = 1) -> dict[str, Any]:
    """Tensors of several types and sizes, in a structure with other things."""
    return {
        "model": {"weight": torch.full((300, 50), number), "bias": torch.arange(50, dtype=torch.float64) * number},
        "half": torch.full((1000,), number, dtype=torch.bfloat16),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(number),
        "empty": torch.zeros(0),
        "list": [torch.ones(3) * number, "text", 5],
        "step": int(number),
    }


def blank() -> dict[str, Any]:
    return state(0)


def keys(path: str) -> list[str]:
    """The names of a checkpoint's files, relative to its path."""
    folder = path.rstrip("/") + "/"
    prefix = folder.split("/", 3)[3]
    return sorted(entry.key.removeprefix(prefix) for entry in s3dlio.list(folder))


def assert_same(found: dict[str, Any], number: float = 1) -> None:
    expected = state(number)
    for name in ("weight", "bias"):
        assert torch.equal(found["model"][name], expected["model"][name])
    for name in ("half", "flags", "scalar", "empty"):
        assert torch.equal(found[name], expected[name])
    assert torch.equal(found["list"][0], expected["list"][0])
    assert found["list"][1:] == ["text", 5]
    assert found["step"] == expected["step"]


def loaded(path: str, **options: Any) -> dict[str, Any]:
    into = blank()
    load(into, storage_reader=Reader(path, **options))
    return into


@pytest.mark.parametrize(
    "constructor",
    [
        None,
        S3ReaderConstructor.dcp_optimized(max_gap_size=0),
        S3ReaderConstructor.dcp_optimized(max_gap_size=float("inf")),
        S3ReaderConstructor.sequential(),
        S3ReaderConstructor.range_based(),
        S3ReaderConstructor.range_based(buffer_size=0),
    ],
    ids=["default", "no gap", "any gap", "sequential", "range based", "range based, no buffer"],
)
def test_what_was_saved_is_loaded_by_every_kind_of_reader(constructor: Any, path: str) -> None:
    save(state(), storage_writer=Writer(path))
    assert_same(loaded(path, reader_constructor=constructor))


def test_the_readers_of_files_work_without_our_own_way_of_loading(path: str) -> None:
    """A reader class of the user's that opens files itself gets readers of the ranges."""

    class Opening(S3StorageReader):
        def read_data(self, plan: Any, planner: Any) -> Any:
            return super(S3StorageReader, self).read_data(plan, planner)

    save(state(), storage_writer=Writer(path))
    into = blank()
    load(into, storage_reader=Opening(REGION, path))
    assert_same(into)


@pytest.mark.parametrize("ending", ["", "/", "/a+b %20é/", "/1.0.0"])
def test_a_path_may_be_written_in_any_way(ending: str, path: str) -> None:
    save(state(), storage_writer=Writer(path + ending))
    assert_same(loaded(path + ending))


@pytest.mark.parametrize("options", [{"thread_count": 4}, {"single_file_per_rank": False}])
def test_several_files_are_one_checkpoint(options: dict[str, Any], path: str) -> None:
    save(state(), storage_writer=Writer(path, **options))
    assert len(keys(path)) > 3
    assert_same(loaded(path))


class Dated(S3PrefixStrategyBase):
    def generate_prefix(self, rank: int) -> str:
        return f"2026/rank-{rank}-"


@pytest.mark.parametrize(
    ("strategy", "name"),
    [
        (None, "__0_0.distcp"),
        (RoundRobinPrefixStrategy(["one", "two"], epoch_num=5), "one/epoch_5/__0_0.distcp"),
        (BinaryPrefixStrategy(epoch_num=1), "0000000000/epoch_1/__0_0.distcp"),
        (HexPrefixStrategy(min_prefix_length=4), "0000/__0_0.distcp"),
        (Dated(), "2026/rank-0-0.distcp"),
    ],
)
def test_files_are_named_by_the_strategy(strategy: Any, name: str, path: str) -> None:
    save(state(), storage_writer=Writer(path, prefix_strategy=strategy))
    assert keys(path) == sorted([".metadata", name])
    assert_same(loaded(path))


def test_a_transformed_stream_comes_back(path: str) -> None:
    save(state(), storage_writer=Writer(path, _extensions=[ZStandard()]))
    assert_same(loaded(path))


def test_a_checkpoint_is_loaded_without_a_template(path: str) -> None:
    save({"a": torch.arange(5), "b": {"c": "text"}}, storage_writer=Writer(path))
    found: dict[str, Any] = {}
    _load_state_dict(found, storage_reader=Reader(path), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    assert torch.equal(found["a"], torch.arange(5))
    assert found["b"] == {"c": "text"}


def test_a_part_of_a_checkpoint_costs_its_own_bytes(path: str, notes: Notes) -> None:
    save({"model": torch.zeros(1000), "optimizer": torch.zeros(1_000_000)}, storage_writer=Writer(path))
    notes.ranges.clear()
    load({"model": torch.zeros(1000)}, storage_reader=Reader(path))
    bodies = [(start, end) for key, start, end in notes.ranges if key.endswith(".distcp")]
    assert sum(end - start for start, end in bodies) < 10_000


def test_a_missing_entry_is_an_error(path: str) -> None:
    save({"a": torch.zeros(3)}, storage_writer=Writer(path))
    with pytest.raises(CheckpointException, match="Missing key in checkpoint state_dict"):
        load({"b": torch.zeros(3)}, storage_reader=Reader(path))


def test_what_is_not_there_is_not_loaded(path: str) -> None:
    with pytest.raises(CheckpointException, match="Service error: The key does not exist"):
        load(blank(), storage_reader=Reader(path))


def test_writers_and_readers_can_be_pickled(path: str) -> None:
    save(state(), storage_writer=pickle.loads(pickle.dumps(Writer(path, prefix_strategy=Dated()))))
    into = blank()
    load(into, storage_reader=pickle.loads(pickle.dumps(Reader(path))))
    assert_same(into)


def test_one_writer_and_one_reader_serve_many_checkpoints(path: str) -> None:
    writer, reader = Writer(path), Reader(path)
    for number in range(3):
        save(state(number), storage_writer=writer, checkpoint_id=f"{path}/{number}")
    for number in range(3):
        into = blank()
        load(into, storage_reader=reader, checkpoint_id=f"{path}/{number}")
        assert_same(into, number)


def test_the_endpoint_and_the_configuration_are_honoured(
    s3_environment: SeaweedFS, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    config = S3ClientConfig(part_size=5 << 20, max_attempts=2)
    save(state(), storage_writer=Writer(path, config, endpoint=s3_environment.endpoint))
    assert_same(loaded(path, s3client_config=config, endpoint=s3_environment.endpoint))


def test_plans_hold_the_prefix_as_in_the_original(path: str) -> None:
    writer = Writer(path, prefix_strategy=RoundRobinPrefixStrategy(["a", "b"]))
    planner = DefaultSavePlanner()
    planner.set_up_planner({"x": torch.zeros(1)}, is_coordinator=True)
    plans = writer.prepare_global_plan([planner.create_local_plan()] * 3)
    assert [plan.storage_data for plan in plans] == [StorageMetadata(f"{'aba'[n]}/__{n}_") for n in range(3)]


def test_items_are_loaded_in_the_order_of_their_bytes(path: str) -> None:
    saved = {f"{number:02}": torch.zeros(number + 1) for number in range(20)}
    save(saved, storage_writer=Writer(path, thread_count=2))
    reader, planner = Reader(path), DefaultLoadPlanner()
    metadata = reader.read_metadata()
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    planner.set_up_planner(dict(reversed(saved.items())), metadata, is_coordinator=True)
    plan = reader.prepare_local_plan(planner.create_local_plan())
    offsets = [metadata.storage_data[item.storage_index].offset for item in plan.items]
    assert offsets == sorted(offsets)


# What a save does to what is there


class Unsavable(DefaultSavePlanner):
    """Fails when it is asked for one of the items."""

    def resolve_data(self, write_item: WriteItem) -> Any:
        if write_item.index.fqn == "model.weight":
            raise OSError("the item is lost")
        return super().resolve_data(write_item)


def test_metadata_is_written_in_one_request(path: str, notes: Notes) -> None:
    save(state(), storage_writer=Writer(path))
    save(state(2), storage_writer=Writer(path))
    writes = [(name, key) for name, key in notes.requests if key and ".metadata" in key and name not in _READING]
    assert [name for name, _ in writes] == ["PutObject", "PutObject"]
    assert_same(loaded(path), 2)


_READING = ("HeadObject", "GetObject")


def test_a_new_checkpoint_takes_the_place_of_the_old_one_whole(path: str) -> None:
    save(state(), storage_writer=Writer(path, thread_count=3))
    old = set(keys(path)) - {".metadata"}
    save(state(2), storage_writer=Writer(path))
    assert_same(loaded(path), 2)
    assert not old & set(keys(path))
    assert len(keys(path)) == 2


def test_each_thread_has_a_file_also_without_items(path: str) -> None:
    for number in (1, 2):
        save({"tensor": torch.full((3,), number)}, storage_writer=Writer(path, thread_count=3))
        assert len(keys(path)) == 4
    into = {"tensor": torch.zeros(3, dtype=torch.int64)}
    load(into, storage_reader=Reader(path))
    assert into["tensor"].tolist() == [2, 2, 2]


class Planted:
    """A pickle of this says that it was loaded."""

    loaded: ClassVar[list[str]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return Planted.loaded.append, ("planted",)


def test_a_save_unpickles_nothing_that_it_finds(path: str) -> None:
    s3dlio.put(f"{path}/.metadata", pickle.dumps(Planted()))
    s3dlio.put(f"{path}/__0_0.distcp", b"of the one before")
    save(state(), storage_writer=Writer(path))
    assert Planted.loaded == []
    assert_same(loaded(path))
    assert len(keys(path)) == 2


def test_a_save_removes_nothing_that_only_the_old_metadata_names(tmp_path: Path) -> None:
    kept = tmp_path / "kept.distcp"
    kept.write_bytes(b"of somebody else")
    path = f"file://{tmp_path}/checkpoint"
    save(state(), storage_writer=Writer(path))
    metadata = pickle.loads(s3dlio.get(f"{path}/.metadata"))
    for stored in metadata.storage_data.values():
        stored.relative_path = "../kept.distcp"
    s3dlio.put(f"{path}/.metadata", pickle.dumps(metadata))
    save(state(2), storage_writer=Writer(path))
    assert kept.exists()
    assert_same(loaded(path), 2)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # PyTorch prints them and goes on
def test_a_save_that_fails_leaves_what_was_there(threads: int, path: str) -> None:
    with pytest.raises(CheckpointException, match="the item is lost"):
        save(state(), storage_writer=Writer(path, thread_count=threads), planner=Unsavable())
    assert ".metadata" not in keys(path)
    save(state(), storage_writer=Writer(path))
    with pytest.raises(CheckpointException, match="the item is lost"):
        save(state(2), storage_writer=Writer(path, thread_count=threads), planner=Unsavable())
    assert_same(loaded(path))


def test_a_save_that_cannot_publish_leaves_what_was_there(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save(state(), storage_writer=Writer(path))
    writer = Writer(path)
    opened = writer.fs.create_stream

    def refusing(target: Any, mode: str) -> Any:
        if str(target).endswith(".metadata") and mode == "wb":
            raise S3Exception("Client error: refused")
        return opened(target, mode)

    monkeypatch.setattr(writer.fs, "create_stream", refusing)
    with pytest.raises(CheckpointException, match="refused"):
        save(state(2), storage_writer=writer)
    assert_same(loaded(path))


def test_a_new_checkpoint_stands_where_the_old_files_cannot_be_listed(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*_: object) -> list[str]:
        raise S3Exception("Client error: Forbidden")

    save(state(), storage_writer=Writer(path))
    monkeypatch.setattr(S3FileSystem, "names_in", refused)
    save(state(2), storage_writer=Writer(path))
    assert_same(loaded(path), 2)
    assert "stay where they are" in caplog.text
    assert len(keys(path)) == 3


def test_overwriting_can_be_forbidden(path: str) -> None:
    save(state(), storage_writer=Writer(path))
    with pytest.raises(CheckpointException, match="Checkpoint already exists"):
        save(state(2), storage_writer=Writer(path, overwrite=False))
    assert_same(loaded(path))


# Waiting for the disk


@pytest.mark.parametrize(
    ("given", "durable"), [({}, "full"), ({"sync_files": True}, "full"), ({"sync_files": False}, "none")]
)
def test_sync_files_says_what_a_write_to_a_file_waits_for(given: Any, durable: str, tmp_path: Path) -> None:
    writer = Writer(f"file://{tmp_path}/checkpoint", **given)
    assert writer.fs._client.store(str(tmp_path), "file").config.durable == durable  # type: ignore[attr-defined]


@pytest.mark.parametrize("sync_files", [True, False])
def test_no_save_waits_for_the_disks_of_the_whole_machine(
    sync_files: bool, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "sync", lambda: synced.append("all"))
    save(state(), storage_writer=Writer(path, sync_files=sync_files))
    assert_same(loaded(path))
    assert not synced


# In the background, and ranks that save without each other


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("kind", AsyncCheckpointerType)
def test_a_save_in_the_background(kind: AsyncCheckpointerType, path: str) -> None:
    being_saved = state()
    saving = async_save(being_saved, storage_writer=Writer(path), async_checkpointer_type=kind)
    being_saved["model"]["weight"].fill_(9)
    saving.result()  # type: ignore[union-attr]
    assert_same(loaded(path))


@pytest.mark.usefixtures("alone")
def test_an_error_in_the_background_is_the_futures(path: str) -> None:
    saving = async_save(state(), storage_writer=Writer(path), planner=Unsavable())
    with pytest.raises(CheckpointException, match="the item is lost"):
        saving.result()  # type: ignore[union-attr]
    assert ".metadata" not in keys(path)


@pytest.mark.usefixtures("alone")
def test_ranks_that_save_without_each_other_have_metadata_of_their_own(path: str) -> None:
    for number in (1, 2):
        save(state(number), storage_writer=Writer(path), use_collectives=False)
        assert len(keys(path)) == 2
        assert "__0.metadata" in keys(path)
    reader = Reader(path)
    assert reader.read_metadata(rank=0).storage_data is not None
