"""One rank of one measurement of :mod:`benchmarks.checkpoints`, under torchrun: `... LIBRARY PATH CASE RESULTS`.

Every rank saves its shards and loads them into others. The clock runs from one barrier to the next, so the seconds are
those of the slowest rank.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from .usage import begin_peak, cpu_seconds, memory

REGION = "us-east-1"
COLUMNS = 4096


@dataclass(frozen=True)
class CheckpointCase:
    """`count` tensors of `size` bytes each, all ranks together."""

    title: str
    count: int
    size: int


@dataclass(frozen=True)
class Phase:
    """Saving or loading: CPU time and growth of the resident set are of one rank."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def shards(case: CheckpointCase, fill: Callable[[int, int], torch.Tensor]) -> dict[str, DTensor]:
    """This rank's shards, by rows."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    rows = case.size // 4 // COLUMNS // dist.get_world_size()
    filled = [fill(number, rows) for number in range(case.count)]
    return {f"tensor {number}": DTensor.from_local(shard, mesh, [Shard(0)]) for number, shard in enumerate(filled)}


def random_rows(number: int, rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1000 * number + dist.get_rank())
    return torch.randn(rows, COLUMNS, generator=generator)


def written_rows(number: int, rows: int) -> torch.Tensor:
    """Memory that is there already, as that of a model is."""
    return torch.full((rows, COLUMNS), float(number))


def timed(work: Callable[[], object]) -> Phase:
    dist.barrier()
    resident = begin_peak()
    cpu, begin = cpu_seconds(), time.perf_counter()
    work()
    dist.barrier()
    seconds = time.perf_counter() - begin
    return Phase(seconds, cpu_seconds() - cpu, memory("VmHWM") - resident)


def measure(library: str, path: str, case: CheckpointCase) -> dict[str, Any]:
    """Errors: whatever the library raises, and `RuntimeError` where not every byte came back."""
    dcp = importlib.import_module(f"{library}.dcp")
    saved = shards(case, random_rows)
    saving = timed(lambda: save(saved, storage_writer=dcp.S3StorageWriter(REGION, path)))
    into = shards(case, written_rows)
    loading = timed(lambda: load(into, storage_reader=dcp.S3StorageReader(REGION, path)))
    if not all(torch.equal(into[name].to_local(), saved[name].to_local()) for name in saved):
        raise RuntimeError(f"{library} did not load what it saved")
    return {"save": asdict(saving), "load": asdict(loading)}


def main(library: str, path: str, case: str, results: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = measure(library, path, CheckpointCase(**json.loads(case)))
    Path(results, f"{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
