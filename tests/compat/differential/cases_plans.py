"""The writer and the reader of distributed checkpoints by themselves: what they are, and the plans they prepare."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.default_planner import (
    DefaultLoadPlanner,
    DefaultSavePlanner,
)
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, ReadItem, SavePlan

from .cases_dcp import blank, example, load, save
from .kit import REGION, Library, Place, case, tried

# --- the writer and the reader by themselves -------------------------------------------------------------------------


@case
def the_attributes_of_a_writer(lib: Library, at: Place) -> object:
    strategy = lib.dcp.HexPrefixStrategy()
    plain = lib.dcp.S3StorageWriter(REGION, "s3://b/k/")
    full = lib.dcp.S3StorageWriter(
        region=REGION, path="s3://b/k", s3client_config=lib.config(), prefix_strategy=strategy, thread_count=4
    )
    return [
        (type(each.fs), each.path, type(each.prefix_strategy), each.thread_count, each.sync_files, each.overwrite)
        for each in (plain, full)
    ]


@case
def the_attributes_of_a_reader(lib: Library, at: Place) -> object:
    reader = lib.dcp.S3StorageReader(REGION, "s3://b/k/")
    named = lib.dcp.S3StorageReader(
        region=REGION, path=Path("x"), s3client_config=None, reader_constructor=lib.root.S3ReaderConstructor.default()
    )
    return [(type(each.fs), each.path, each.sync_files, str(each.checkpoint_id)) for each in (reader, named)]


@case
def arguments_of_the_writer_and_the_reader(lib: Library, at: Place) -> object:
    writer, reader = lib.dcp.S3StorageWriter, lib.dcp.S3StorageReader
    accepted = writer(
        REGION, "s3://b", per_thread_copy_ahead=5, cache_staged_state_dict=True, single_file_per_rank=False
    )
    return (
        accepted.per_thread_copy_ahead,
        accepted.single_file_per_rank,
        [
            tried(lambda: writer(REGION)),
            tried(lambda: writer(REGION, "s3://b", absent=1)),
            tried(lambda: reader(REGION)),
            tried(lambda: reader(REGION, "s3://b", thread_count=2)),
            tried(lambda: writer(REGION, "s3://b", thread_count=1, s3_client=None)),
        ],
    )


@case
def a_path_that_is_no_uri(lib: Library, at: Place) -> object:
    return tried(lambda: save(lib, "no uri", example())), tried(lambda: load(lib, "no uri", blank(example())))


@case
def the_plans_of_all_ranks(lib: Library, at: Place) -> object:
    strategy = lib.strategies.RoundRobinPrefixStrategy(["x", "y"], 1)
    writer = lib.dcp.S3StorageWriter(REGION, at.scratch("checkpoint"), prefix_strategy=strategy)
    writer.reset()
    plans = [SavePlan([], planner_data=number) for number in range(3)]
    return [(plan.storage_data, plan.planner_data) for plan in writer.prepare_global_plan(plans)], plans[0].storage_data


@case
def the_metadata_of_a_checkpoint(lib: Library, at: Place) -> object:
    save(lib, at.scratch("checkpoint"), {"a": torch.ones(2, 3), "b": {"c": 5}})
    metadata = lib.dcp.S3StorageReader(REGION, at.scratch("checkpoint")).read_metadata()
    files = {index.fqn: stored.relative_path for index, stored in metadata.storage_data.items()}
    return (
        sorted(metadata.state_dict_metadata),
        metadata.state_dict_metadata["a"].size,
        files,
        sorted(metadata.planner_data),
    )


def _planned(lib: Library, at: Place, constructor: Any) -> tuple[Any, Any]:
    """A reader that knows a checkpoint of two files, and the plan to load all of it, in a wrong order."""
    state = {f"tensor{number}": torch.full((number + 1,), float(number)) for number in range(5)}
    save(lib, at.scratch("checkpoint"), state, thread_count=2)
    reader = lib.dcp.S3StorageReader(REGION, at.scratch("checkpoint"), reader_constructor=constructor)
    metadata = reader.read_metadata()
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    planner = DefaultLoadPlanner()
    planner.set_up_planner(blank(state), metadata, is_coordinator=True)
    plan = planner.create_local_plan()
    plan.items.reverse()
    return reader, plan


@case
def the_order_of_a_plan(lib: Library, at: Place) -> object:
    reader, plan = _planned(lib, at, None)
    prepared = reader.prepare_local_plan(plan)
    offsets = [reader.storage_data[item.storage_index].offset for item in prepared.items]
    return prepared is plan, offsets == sorted(offsets), len(offsets), {item.dest_index.fqn for item in prepared.items}


@case
def the_ranges_that_the_constructor_is_told(lib: Library, at: Place) -> object:
    constructor = lib.root.S3ReaderConstructor.dcp_optimized()
    reader, plan = _planned(lib, at, constructor)
    before = dict(constructor._item_ranges_by_file)
    reader.prepare_local_plan(plan)
    told = constructor._item_ranges_by_file
    ranges = {uri: [(item.start, item.end) for item in items] for uri, items in told.items()}
    found: dict[str, list[tuple[int, int]]] = {}
    for item in plan.items:
        stored = reader.storage_data[item.storage_index]
        found.setdefault(at.scratch(f"checkpoint/{stored.relative_path}"), []).append(
            (stored.offset, stored.offset + stored.length)
        )
    return before, sorted(ranges), ranges == found, len(found)


@case
def a_constructor_of_somebody_s_own_is_told(lib: Library, at: Place) -> object:
    class Told:
        def __init__(self) -> None:
            self._item_ranges_by_file: dict[str, Any] = {}
            self.calls: list[tuple[int, int, object]] = []
            self.made: list[str] = []

        def set_item_ranges_by_file(self, plan_items: Any, storage_data: Any, base_path: Any) -> None:
            self.calls.append((len(plan_items), len(storage_data), base_path))

        def __call__(self, bucket: str, key: str, get_object_info: Any, get_stream: Any) -> Any:
            self.made.append(key)
            return lib.s3reader.SequentialS3Reader(bucket, key, get_object_info, get_stream)

    told = Told()
    save(lib, at.scratch("checkpoint"), example())
    loaded = load(lib, at.scratch("checkpoint"), blank(example()), reader_constructor=told)
    return loaded, told.calls, sorted(set(told.made))


@case
def a_function_as_a_constructor(lib: Library, at: Place) -> object:
    made: list[str] = []

    def construct(bucket: str, key: str, get_object_info: Any, get_stream: Any) -> Any:
        made.append(key)
        return lib.s3reader.RangedS3Reader(bucket, key, get_object_info, get_stream, 1000)

    save(lib, at.scratch("checkpoint"), example())
    return load(lib, at.scratch("checkpoint"), blank(example()), reader_constructor=construct), sorted(set(made))


@case
def a_plan_without_items(lib: Library, at: Place) -> object:
    reader, _ = _planned(lib, at, lib.root.S3ReaderConstructor.dcp_optimized())
    return reader.prepare_local_plan(LoadPlan([])).items, len(reader._reader_constructor._item_ranges_by_file)


@case
def a_plan_before_the_metadata_is_known(lib: Library, at: Place) -> object:
    reader = lib.dcp.S3StorageReader(REGION, at.scratch("checkpoint"))
    item = ReadItem(
        LoadItemType.BYTE_IO, MetadataIndex("a"), torch.Size([0]), MetadataIndex("a"), torch.Size([0]), torch.Size([0])
    )
    return tried(lambda: reader.prepare_local_plan(LoadPlan([item])), unusual=AttributeError)[:2]


@case
def planners_of_somebody_s_own(lib: Library, at: Place) -> object:
    class Renaming(DefaultSavePlanner):
        def set_up_planner(self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False) -> None:
            renamed = {f"renamed.{key}": value for key, value in state_dict.items()}
            super().set_up_planner(renamed, storage_meta, is_coordinator)

    class Doubling(DefaultLoadPlanner):
        def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
            tensor *= 2

        def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
            super().load_bytes(read_item, value)

    writer = lib.dcp.S3StorageWriter(REGION, at.scratch("checkpoint"))
    state_dict_saver.save(
        {"a": torch.arange(4.0), "b": "text"}, storage_writer=writer, planner=Renaming(), no_dist=True
    )
    state: dict[str, Any] = {"renamed.a": torch.zeros(4), "renamed.b": None}
    state_dict_loader.load(
        state,
        storage_reader=lib.dcp.S3StorageReader(REGION, at.scratch("checkpoint")),
        planner=Doubling(),
        no_dist=True,
    )
    return state


@case
def storage_metadata(lib: Library, at: Place) -> object:
    kind = lib.module("dcp.s3_file_system").StorageMetadata
    return kind("x"), kind(prefix="x") == kind("x"), repr(kind("x")), tried(kind), pickle.loads(pickle.dumps(kind("y")))
