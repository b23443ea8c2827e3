"""What a save in the background costs training: `python -m benchmarks.checkpoints_unwaited --help`.

A process trains a small network, step after step, beside a state of many tensors that it saves to a SeaweedFS of its
own: first with nothing being saved, then while a save is under way, everything new, and then while one is of which
`--changed` of the tensors are. Told are the time of a step, how long `async_save` itself took (which is the copy, and
is nothing that goes on during steps), the save's own time, the processor seconds of this process beyond those of the
steps, and the bytes of bodies that were sent.

The server costs processor time, too: a step is only slowed down by the client where both have cores enough. So give
the steps one thread (`--threads`) and the machine at least four cores, and nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any, cast

import torch
from torch.distributed.checkpoint.state_dict_saver import async_save

import s3dlio
from s3dlio.compat.s3torchconnector.dcp import PooledStager, S3StorageWriter
from tests.servers.seaweedfs import seaweedfs

MiB = 1 << 20
PLACE = "s3://checkpoints"


@dataclass(frozen=True)
class Phase:
    """Steps that were made while something, or nothing, was saved. Seconds; bytes."""

    title: str
    steps: Sequence[float]
    blocked: float = 0.0
    saving: float = 0.0
    cpu: float = 0.0
    changed: int = 0
    sent: int = 0


class Training:
    """Steps of a network of two layers, and the state that is saved beside it: `count` tensors of `size` bytes."""

    def __init__(self, count: int, size: int, batch: int) -> None:
        self.state = {f"layer {number}": torch.randint(0, 255, (size,), dtype=torch.uint8) for number in range(count)}
        self._inputs = torch.randn(batch, 512)
        layers = (torch.nn.Linear(512, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 512))
        self._network = torch.nn.Sequential(*layers)
        self._optimizer = torch.optim.SGD(self._network.parameters(), lr=0.01)

    def step(self) -> float:
        """One step; its seconds."""
        begun = time.perf_counter()
        self._optimizer.zero_grad()
        self._network(self._inputs).square().mean().backward()
        self._optimizer.step()
        return time.perf_counter() - begun

    def change(self, count: int) -> int:
        """Give the first `count` tensors other numbers; how many bytes they are."""
        for value in list(self.state.values())[:count]:
            value += 1
        return sum(value.nbytes for value in list(self.state.values())[:count])


def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def bytes_sent() -> int:
    return sum(each.sent for each in s3dlio.stats().endpoints)


def alone(training: Training, count: int) -> tuple[Phase, float]:
    """Steps while nothing is saved, and the processor seconds of one of them."""
    begun = processor_seconds()
    steps = [training.step() for _ in range(count)]
    return Phase("nothing", steps), (processor_seconds() - begun) / count


def during(training: Training, writer: S3StorageWriter, stager: PooledStager, changed: int, cost: float) -> Phase:
    """Steps while the state is saved; `cost` is that of a step alone."""
    changed_bytes, sent = training.change(changed), bytes_sent()
    begun = time.perf_counter()
    saving = cast("Any", async_save(training.state, storage_writer=writer, async_stager=stager, no_dist=True))
    blocked, cpu = time.perf_counter() - begun, processor_seconds()
    steps = []
    while not saving.done():
        steps.append(training.step())
    ended, cpu = time.perf_counter(), processor_seconds() - cpu - cost * len(steps)
    saving.result()
    title = f"{changed} of {len(training.state)} changed"
    return Phase(title, steps, blocked, ended - begun, cpu, changed_bytes, bytes_sent() - sent)


def measure(options: argparse.Namespace) -> list[Phase]:
    """All phases, round by round; what the first round finds cold is in none of them."""
    training, stager = Training(options.tensors, options.size * MiB, options.batch), PooledStager()
    few = max(1, round(options.tensors * options.changed))
    phases: list[Phase] = []
    for number in range(options.rounds + 1):
        quiet, cost = alone(training, options.steps)
        found = [quiet]
        writer = S3StorageWriter("us-east-1", f"{PLACE}/{number}/all", previous=None)
        found.append(during(training, writer, stager, options.tensors, cost))
        writer = S3StorageWriter("us-east-1", f"{PLACE}/{number}/few", previous=f"{PLACE}/{number}/all")
        found.append(during(training, writer, stager, few, cost))
        phases += found if number else []
    stager.close()
    return phases


def table(phases: Sequence[Phase]) -> list[str]:
    """Lines of Markdown."""
    quiet = [seconds for phase in phases if phase.title == "nothing" for seconds in phase.steps]
    head = "being saved | steps | step ms, median | mean | x nothing, median | mean | async_save s | save s | CPU s"
    lines = [f"| {head} | MiB sent | x changed |", f"| --- |{' ---: |' * 10}"]
    for title in dict.fromkeys(phase.title for phase in phases):
        alike = [phase for phase in phases if phase.title == title]
        steps = [seconds for phase in alike for seconds in phase.steps] or [float("nan")]
        slower = f"{median(steps) / median(quiet):.3f} | {mean(steps) / mean(quiet):.3f}"
        times = " | ".join(
            f"{median(getattr(each, name) for each in alike):.2f}" for name in ("blocked", "saving", "cpu")
        )
        sent, changed = median(each.sent for each in alike), alike[0].changed
        ratio = f"{sent / changed:.4f}" if changed else ""
        row = f"{len(steps)} | {1e3 * median(steps):.2f} | {1e3 * mean(steps):.2f} | {slower} | {times}"
        lines.append(f"| {title} | {row} | {sent / MiB:.1f} | {ratio} |")
    return lines


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints_unwaited", description=__doc__)
    parser.add_argument("--tensors", type=int, default=100, metavar="N", help="of the state (100)")
    parser.add_argument("--size", type=int, default=16, metavar="MIB", help="of each of them (16)")
    parser.add_argument("--changed", type=float, default=0.05, metavar="SHARE", help="of the tensors (0.05)")
    parser.add_argument("--steps", type=int, default=200, metavar="N", help="while nothing is saved (200)")
    parser.add_argument("--batch", type=int, default=256, metavar="N", help="rows of a step (256)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of all that (3)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of a step (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements there")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")
    torch.set_num_threads(options.threads)
    with seaweedfs() as server:
        os.environ.update(server.environment())
        server.create_bucket(PLACE.removeprefix("s3://"))
        phases = measure(options)
    print(
        f"{os.cpu_count()} cores, {options.tensors} tensors of {options.size} MiB, {options.rounds} rounds", end="\n\n"
    )
    print(*table(phases), sep="\n")
    if options.json:
        options.json.write_text(json.dumps([asdict(phase) for phase in phases], indent=1))


if __name__ == "__main__":
    main()
