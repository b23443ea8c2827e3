"""Distributed jobs, one after the other: `python -m tests.compat.dcp.ranks JOB...`, and what each of their ranks does.

A `JOB` is a list in JSON: the number of ranks, and :func:`main`'s arguments. What a rank found out is written as JSON
into the folder `results`, one file a rank. The last line that is printed is a list of texts: what ended each job, empty
where nothing did.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import WriteItem
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, async_save, save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.nn.parallel import DistributedDataParallel

from s3dlio.compat.s3torchconnector.dcp import (
    BinaryPrefixStrategy,
    HexPrefixStrategy,
    RoundRobinPrefixStrategy,
    S3StorageReader,
    S3StorageWriter,
)

from ..forked_ranks import run_ranks

REGION = "us-east-1"
ROW = 1024
TENSORS = 16
LARGE = 256
"""MiB of the checkpoint that four ranks save."""

warnings.filterwarnings("ignore", message="Detected an existing checkpoint", category=UserWarning)


def writer(path: str, **options: Any) -> S3StorageWriter:
    return S3StorageWriter(REGION, path, **options)


def reader(path: str) -> S3StorageReader:
    return S3StorageReader(REGION, path)


def rows(tensor: int, first: int, stop: int, version: int = 0) -> torch.Tensor:
    """Rows of a tensor whose every number follows from its place. They look random, so that nothing compresses them."""
    places = torch.arange(first * ROW, stop * ROW, dtype=torch.int64) + (tensor << 40) + (version << 50)
    return ((places * 6364136223846793005 + 1442695040888963407) >> 31).to(torch.int32).reshape(-1, ROW)


def sharded(count: int, make: Callable[[int, int, int], torch.Tensor]) -> dict[str, Any]:
    """`TENSORS` tensors of `count` rows each, split among the ranks."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    part = count // dist.get_world_size()
    first = dist.get_rank() * part
    return {
        f"layer {number}": DTensor.from_local(make(number, first, first + part), mesh, [Shard(0)])
        for number in range(TENSORS)
    }


def zeros(_: int, first: int, stop: int) -> torch.Tensor:
    return torch.zeros(stop - first, ROW, dtype=torch.int32)


def rows_of(mebibytes: int) -> int:
    """Rows of each tensor, for a checkpoint of that size in all."""
    return (mebibytes << 20) // (TENSORS * ROW * 4)


def is_version(state: dict[str, Any], count: int, version: int = 0) -> bool:
    """Whether every local shard is what it should be, to the bit."""
    expected = sharded(count, lambda number, first, stop: rows(number, first, stop, version))
    return all(torch.equal(state[name].to_local(), expected[name].to_local()) for name in expected)


def loaded(path: str, count: int) -> dict[str, Any]:
    state = sharded(count, zeros)
    load(state, storage_reader=reader(path))
    return state


# The steps


def save_and_load(path: str, mebibytes: int) -> dict[str, Any]:
    """Save a sharded state and load it."""
    count = rows_of(mebibytes)
    state = sharded(count, rows)
    save(state, storage_writer=writer(path))
    local = sum(each.to_local().nbytes for each in state.values())
    del state
    return {"bytes": local, "equal": is_version(loaded(path, count), count)}


class Dying(DefaultSavePlanner):
    """Kills its process when most of what this rank saves has been given out."""

    def resolve_data(self, write_item: WriteItem) -> Any:
        if write_item.index.fqn == f"layer {TENSORS - 2}" and dist.get_rank() == dist.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().resolve_data(write_item)


def die(path: str, mebibytes: int) -> dict[str, Any]:
    """Save, over what may be there, a later version; the last rank dies in the middle.

    The others see that, and wait for the launcher, which tells of the rank that ended first, to end them.
    """
    later = sharded(rows_of(mebibytes), lambda number, first, stop: rows(number, first, stop, version=1))
    try:
        save(later, storage_writer=writer(path), planner=Dying())
    except Exception:
        signal.pause()
    raise AssertionError("this save was not to end")


def many(path: str, mebibytes: int) -> dict[str, Any]:
    """Load what four ranks saved; then, one after the other, what needs few bytes."""
    count = rows_of(LARGE)
    found: dict[str, Any] = {"of four": is_version(loaded(f"{path}/of four", count), count)}
    for name, parallel in (("fsdp", fully_shard_all), ("ddp", DistributedDataParallel)):
        found[name] = _trained(f"{path}/{name}", parallel)
    count = rows_of(mebibytes)
    for kind in AsyncCheckpointerType:
        found[f"async {kind.value}"] = _in_the_background(f"{path}/async {kind.value}", count, kind)
    strategies = {
        "round robin": RoundRobinPrefixStrategy(["one", "two", "three"], epoch_num=2),
        "binary": BinaryPrefixStrategy(epoch_num=2),
        "hex": HexPrefixStrategy(min_prefix_length=3),
        "saved over": HexPrefixStrategy(min_prefix_length=3),
        "default": None,
    }
    for name, strategy in strategies.items():
        save(sharded(count, rows), storage_writer=writer(f"{path}/{name}", prefix_strategy=strategy, thread_count=2))
        found[name] = is_version(loaded(f"{path}/{name}", count), count)
    found["replaced"] = _replaced(f"{path}/default", count)
    found["replicated to sharded"] = _replicated_to_sharded(f"{path}/replicated", count)
    for given in (True, False):
        save(sharded(count, rows), storage_writer=writer(f"{path}/sync {given}", sync_files=given))
        found[f"sync {given}"] = is_version(loaded(f"{path}/sync {given}", count), count)
    return found


def fully_shard_all(model: torch.nn.Module) -> torch.nn.Module:
    """FSDP2 around every layer and the whole."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.children():
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _trained(path: str, parallel: Callable[[torch.nn.Module], torch.nn.Module]) -> bool:
    """Train, save model and optimizer, train on; then load into fresh ones, train on, and come to the same."""
    torch.manual_seed(0)
    inputs, goal = torch.randn(64, 16), torch.randn(64, 4)

    def fresh(seed: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(seed)
        layers = (torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        model = parallel(torch.nn.Sequential(*layers))
        return model, torch.optim.AdamW(model.parameters(), lr=0.01)

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
        losses = []
        for _ in range(5):
            loss = torch.nn.functional.mse_loss(model(inputs), goal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss))
        return losses

    model, optimizer = fresh(1)
    train(model, optimizer)
    save(copy.deepcopy(_state_of(model, optimizer)), storage_writer=writer(path))
    expected = train(model, optimizer)
    model, optimizer = fresh(2)
    train(model, optimizer)
    state = _state_of(model, optimizer)
    load(state, storage_reader=reader(path))
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    return train(model, optimizer) == expected


def _state_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    of_model, of_optimizer = get_state_dict(model, optimizer)
    return {"model": of_model, "optimizer": of_optimizer}


def _in_the_background(path: str, count: int, kind: AsyncCheckpointerType) -> bool:
    state = sharded(count, rows)
    saving = async_save(state, storage_writer=writer(path), async_checkpointer_type=kind)
    for each in state.values():
        each.to_local().zero_()
    saving.result()  # type: ignore[union-attr]
    return is_version(loaded(path, count), count)


def _replaced(path: str, count: int) -> bool:
    later = sharded(count, lambda number, first, stop: rows(number, first, stop, version=1))
    save(later, storage_writer=writer(path))
    return is_version(loaded(path, count), count, version=1)


def _replicated_to_sharded(path: str, count: int) -> bool:
    """Saved whole by one rank, loaded in shards: each rank needs other rows of one and the same range."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    whole = {
        f"layer {number}": DTensor.from_local(rows(number, 0, count), mesh, [Replicate()]) for number in range(TENSORS)
    }
    save(whole, storage_writer=writer(path))
    return is_version(loaded(path, count), count)


STEPS = {each.__name__: each for each in (save_and_load, die, many)}


def main(step: str, path: str, results: str, mebibytes: int) -> None:
    """Take the step and write down what was found."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = STEPS[step](path, mebibytes)
    Path(results, f"{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    print(json.dumps([run_ranks(ranks, main, *arguments) for ranks, *arguments in map(json.loads, sys.argv[1:])]))
