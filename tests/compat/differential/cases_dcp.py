"""Distributed checkpoints saved and loaded by `torch.distributed.checkpoint`, in one process."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint._extension import ZStandard
from torch.distributed.checkpoint.default_planner import (
    DefaultSavePlanner,
    _EmptyStateDictLoadPlanner,
)
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from .kit import REGION, Library, Place, case, process_group, tried

# --- saving and loading ----------------------------------------------------------------------------------------------


def example(step: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    return {
        "model": {
            "weight": torch.randn(20, 30, generator=generator),
            "bias": torch.ones(3, dtype=torch.float16) * step,
        },
        "list": [torch.arange(4) + step, "text", {"deep": torch.tensor(True)}],
        "step": step,
        "object": {"a", "b"},
        "scalar": torch.tensor(2.5 * step),
        "empty": torch.zeros(0, 3),
    }


def blank(value: Any) -> Any:
    """The same structure with other contents, to load into."""
    if isinstance(value, torch.Tensor):
        return torch.zeros_like(value)
    if isinstance(value, dict):
        return {key: blank(each) for key, each in value.items()}
    return [blank(each) for each in value] if isinstance(value, list) else None


def save(lib: Library, path: str, state: dict[str, Any], **options: Any) -> Any:
    writer = lib.dcp.S3StorageWriter(REGION, path, **options)
    state_dict_saver.save(state, storage_writer=writer, no_dist=True)
    return writer


def load(lib: Library, path: str, state: dict[str, Any], **options: Any) -> dict[str, Any]:
    state_dict_loader.load(state, storage_reader=lib.dcp.S3StorageReader(REGION, path, **options), no_dist=True)
    return state


@case
def a_state_and_back(lib: Library, at: Place) -> object:
    save(lib, at.scratch("checkpoint"), example())
    return at.names(), load(lib, at.scratch("checkpoint"), blank(example()))


@case
def paths_with_a_slash_at_the_end(lib: Library, at: Place) -> object:
    save(lib, at.scratch("one/"), example())
    save(lib, at.scratch("two"), example())
    return at.names(), load(lib, at.scratch("one"), blank(example())), load(lib, at.scratch("two/"), blank(example()))


@case
def paths_with_special_characters(lib: Library, at: Place) -> object:
    path = at.scratch("run 1/epoch=2, é+%20/step#3?")
    save(lib, path, example())
    return at.names(), load(lib, path, blank(example()))


@case
def a_checkpoint_at_the_top_of_a_bucket(lib: Library, at: Place) -> object:
    """Where its files would lie: nothing is written."""
    writer, reader = (kind(REGION, f"s3://{at.bucket}") for kind in (lib.dcp.S3StorageWriter, lib.dcp.S3StorageReader))
    return writer.fs.concat_path(writer.path, ".metadata"), reader.fs.concat_path(reader.path, "__0_0.distcp")


@case
def a_model_and_its_optimizer(lib: Library, at: Place) -> object:
    torch.manual_seed(5)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    save(lib, at.scratch("checkpoint"), state)
    return at.names(), load(
        lib, at.scratch("checkpoint"), {"model": blank(state["model"]), "optimizer": blank(state["optimizer"])}
    )


@case
def objects_with_a_state(lib: Library, at: Place) -> object:
    @dataclass
    class Counter:
        count: int = 0
        history: list[int] = field(default_factory=list)

        def state_dict(self) -> dict[str, Any]:
            return {"count": self.count, "history": torch.tensor(self.history)}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.count, self.history = state["count"], state["history"].tolist()

    save(lib, at.scratch("checkpoint"), {"counter": Counter(3, [1, 2])})
    fresh = Counter(0, [0, 0])
    load(lib, at.scratch("checkpoint"), {"counter": fresh})
    return fresh


@case
def every_kind_of_tensor(lib: Library, at: Place) -> object:
    kinds = (torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.int64, torch.bool, torch.complex64)
    state: dict[str, Any] = {str(kind): torch.arange(6).to(kind).reshape(2, 3) for kind in kinds}
    state |= {"view": torch.arange(10)[3:7], "transposed": torch.arange(6).reshape(2, 3).T}
    save(lib, at.scratch("checkpoint"), state)
    return load(lib, at.scratch("checkpoint"), blank(state))


@case
def a_tensor_of_more_than_a_part(lib: Library, at: Place) -> object:
    state = {"large": torch.arange(3_000_000, dtype=torch.int32), "small": torch.ones(2)}
    config = lib.config(part_size=5 << 20)
    save(lib, at.scratch("checkpoint"), state, s3client_config=config)
    return load(lib, at.scratch("checkpoint"), blank(state), s3client_config=config)


@case
def several_files_of_a_rank(lib: Library, at: Place) -> object:
    state = {f"tensor{number}": torch.full((number + 1,), float(number)) for number in range(6)}
    save(lib, at.scratch("checkpoint"), state, thread_count=3)
    return at.names(), load(lib, at.scratch("checkpoint"), blank(state))


@case
def a_file_for_every_item(lib: Library, at: Place) -> object:
    state = {f"tensor{number}": torch.full((number + 1,), float(number)) for number in range(4)} | {"object": "text"}
    save(lib, at.scratch("checkpoint"), state, single_file_per_rank=False)
    return at.names(), load(lib, at.scratch("checkpoint"), blank(state))


@case
def files_in_the_folders_of_a_strategy(lib: Library, at: Place) -> object:
    strategies = [
        lib.dcp.BinaryPrefixStrategy(epoch_num=3, min_prefix_length=4, prefix_count=2),
        lib.dcp.HexPrefixStrategy(min_prefix_length=2),
        lib.strategies.RoundRobinPrefixStrategy(["shard1", "shard2"], epoch_num=5),
        lib.dcp.DefaultPrefixStrategy(),
    ]
    loaded = []
    for number, strategy in enumerate(strategies):
        path = at.scratch(str(number))
        save(lib, path, example(), prefix_strategy=strategy, thread_count=2)
        loaded.append(load(lib, path, {"step": None, "scalar": torch.tensor(0.0)}))
    return at.names(), loaded


def _save_by_ranks(lib: Library, path: str, ranks: int, **options: Any) -> None:
    """What each of several ranks does when all save the same small state, one after the other."""
    writer = lib.dcp.S3StorageWriter(REGION, path, **options)
    planners, plans = [DefaultSavePlanner() for _ in range(ranks)], []
    writer.set_up_storage_writer(True)
    for rank, planner in enumerate(planners):
        planner.set_up_planner({f"step of {rank}": rank}, is_coordinator=rank == 0)
        plans.append(writer.prepare_local_plan(planner.create_local_plan()))
    plans, metadata = planners[0].create_global_plan(plans)
    written = [
        writer.write_data(planner.finish_plan(plan), planner).value()
        for plan, planner in zip(writer.prepare_global_plan(plans), planners, strict=True)
    ]
    writer.finish(metadata, written)


@case
def a_file_of_every_thread_of_every_rank(lib: Library, at: Place) -> object:
    """Also where it has nothing to save: tools count the files, and move them by name."""
    binary = lib.dcp.BinaryPrefixStrategy(epoch_num=2, min_prefix_length=3, prefix_count=4)
    _save_by_ranks(lib, at.scratch("default"), 3, thread_count=4)
    _save_by_ranks(lib, at.scratch("binary"), 4, thread_count=2, prefix_strategy=binary)
    save(lib, at.scratch("alone"), {"step": torch.tensor(1)}, thread_count=2)
    return [(name, len(at.get(name)) > 0) for name in at.names()]


@case
def loading_a_part(lib: Library, at: Place) -> object:
    save(lib, at.scratch("checkpoint"), example(), thread_count=2)
    parts: list[dict[str, Any]] = [
        {"scalar": torch.tensor(0.0)},
        {"model": {"bias": torch.zeros(3, dtype=torch.float16)}},
        {"step": None},
        {},
    ]
    return [load(lib, at.scratch("checkpoint"), part) for part in parts]


@case
def loading_what_was_not_saved(lib: Library, at: Place) -> object:
    save(lib, at.scratch("checkpoint"), {"a": torch.ones(2)})
    return tried(lambda: load(lib, at.scratch("checkpoint"), {"a": torch.zeros(2), "b": torch.zeros(2)}))[:2]


@case
def loading_into_another_shape(lib: Library, at: Place) -> object:
    save(lib, at.scratch("checkpoint"), {"a": torch.ones(2, 3)})
    return tried(lambda: load(lib, at.scratch("checkpoint"), {"a": torch.zeros(3, 2)}))[:2]


@case
def loading_into_another_type(lib: Library, at: Place) -> object:
    save(lib, at.scratch("checkpoint"), {"a": torch.arange(3.0)})
    return load(lib, at.scratch("checkpoint"), {"a": torch.zeros(3, dtype=torch.int64)})


@case
def a_checkpoint_that_is_not_there(lib: Library, at: Place) -> object:
    return tried(lambda: load(lib, at.scratch("absent"), {"a": torch.zeros(2)}))


@case
def a_file_of_a_checkpoint_that_is_not_there(lib: Library, at: Place) -> object:
    save(lib, at.scratch("checkpoint"), {"a": torch.ones(2)})
    at.client.delete_object(Bucket=at.bucket, Key=f"{at.below}checkpoint/__0_0.distcp")
    return [
        tried(load, lib, at.scratch("checkpoint"), {"a": torch.zeros(2)}, reader_constructor=each)
        for each in _constructors(lib)
    ]


def _constructors(lib: Library) -> list[Any]:
    makers = lib.root.S3ReaderConstructor
    return [
        None,
        makers.sequential(),
        makers.range_based(),
        makers.range_based(0),
        makers.dcp_optimized(0),
        makers.dcp_optimized(float("inf")),
    ]


@case
def loading_with_each_constructor(lib: Library, at: Place) -> object:
    save(lib, at.scratch("checkpoint"), example(), thread_count=2)
    return [
        load(lib, at.scratch("checkpoint"), blank(example()), reader_constructor=each) for each in _constructors(lib)
    ]


@case
def loading_a_part_with_each_constructor(lib: Library, at: Place) -> object:
    save(lib, at.scratch("checkpoint"), example())
    part: dict[str, Any] = {
        "model": {"bias": torch.zeros(3, dtype=torch.float16)},
        "list": [torch.zeros(4, dtype=torch.int64)],
        "step": None,
    }
    return [load(lib, at.scratch("checkpoint"), blank(part), reader_constructor=each) for each in _constructors(lib)]


@case
def a_reader_that_is_used_again(lib: Library, at: Place) -> object:
    save(lib, at.scratch("checkpoint"), example())
    reader = lib.dcp.S3StorageReader(REGION, at.scratch("checkpoint"))
    found: list[dict[str, Any]] = [{"step": None}, {"scalar": torch.tensor(0.0)}, blank(example())]
    for state in found:
        state_dict_loader.load(state, storage_reader=reader, no_dist=True)
    return found


@case
def a_checkpoint_without_a_template(lib: Library, at: Place) -> object:
    save(lib, at.scratch("checkpoint"), example())
    state: dict[str, Any] = {}
    reader = lib.dcp.S3StorageReader(REGION, at.scratch("checkpoint"))
    _load_state_dict(state, storage_reader=reader, planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    return state


@case
def compressed_checkpoints(lib: Library, at: Place) -> object:
    state = {"zeros": torch.zeros(10_000), "object": "text", "numbers": torch.arange(100)}
    save(lib, at.scratch("checkpoint"), state, _extensions=[ZStandard()])
    (name,) = [name for name in at.names() if name.endswith(".distcp")]
    small = len(at.get(name)) < 5000
    return small, [
        load(lib, at.scratch("checkpoint"), blank(state), reader_constructor=each) for each in _constructors(lib)
    ]


@case
def saving_elsewhere_with_the_same_writer(lib: Library, at: Place) -> object:
    writer = lib.dcp.S3StorageWriter(REGION, at.scratch("one"))
    for name, step in (("one", 1), ("two", 2)):
        state_dict_saver.save(
            {"step": torch.tensor(step)}, checkpoint_id=at.scratch(name), storage_writer=writer, no_dist=True
        )
    return at.names(), [load(lib, at.scratch(name), {"step": torch.tensor(0)}) for name in ("one", "two")], writer.path


@case
def a_reader_sent_elsewhere(lib: Library, at: Place) -> object:
    save(lib, at.scratch("one"), {"step": torch.tensor(1)})
    save(lib, at.scratch("two"), {"step": torch.tensor(2)})
    reader = lib.dcp.S3StorageReader(REGION, at.scratch("one"))
    state = {"step": torch.tensor(0)}
    state_dict_loader.load(state, checkpoint_id=at.scratch("two"), storage_reader=reader, no_dist=True)
    return state


@case
def checkpoint_ids_that_are_refused(lib: Library, at: Place) -> object:
    writer = lib.dcp.S3StorageWriter(REGION, at.scratch("one"))
    reader = lib.dcp.S3StorageReader(REGION, at.scratch("one"))
    state = {"step": torch.tensor(0)}
    return [
        tried(lambda: state_dict_saver.save(state, checkpoint_id="no uri", storage_writer=writer, no_dist=True)),
        tried(lambda: state_dict_loader.load(state, checkpoint_id="no uri", storage_reader=reader, no_dist=True)),
    ]


@case
def saving_over_a_checkpoint(lib: Library, at: Place) -> object:
    for step in (1, 2):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            save(lib, at.scratch("checkpoint"), example(step))
    loaded = load(lib, at.scratch("checkpoint"), blank(example()))
    return loaded, ["existing checkpoint" in str(each.message) for each in seen]


@case
def a_checkpoint_that_must_not_be_replaced(lib: Library, at: Place) -> object:
    save(lib, at.scratch("checkpoint"), example(1), overwrite=False)
    again = tried(lambda: save(lib, at.scratch("checkpoint"), example(2), overwrite=False))
    return (
        again[1],
        "Checkpoint already exists" in again[2],
        at.names(),
        load(lib, at.scratch("checkpoint"), blank(example())),
    )


@case
def saving_in_the_background(lib: Library, at: Place) -> object:
    writer = lib.dcp.S3StorageWriter(REGION, at.scratch("checkpoint"))
    with process_group(0, 1):
        future = state_dict_saver.async_save(example(), storage_writer=writer, no_dist=True)
        assert not isinstance(future, state_dict_saver.AsyncSaveResponse)
        future.result()
    return at.names(), load(lib, at.scratch("checkpoint"), blank(example()))


@case
def saving_fails_where_an_item_cannot_be_pickled(lib: Library, at: Place) -> object:
    found = tried(lambda: save(lib, at.scratch("checkpoint"), {"bad": _Unpicklable()}))
    return found[:2], ".metadata" in at.names(), tried(lambda: load(lib, at.scratch("checkpoint"), {"bad": None}))[:2]


class _Unpicklable:
    def __reduce__(self) -> str:
        raise LookupError("cannot be pickled")
