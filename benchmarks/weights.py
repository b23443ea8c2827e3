"""A model in shards, from a bucket to tensors: `python -m benchmarks.weights --help`.

In rounds, each way loads all tensors in a process of its own: ours; a download to a folder, by ours or boto3, and the
original's load from there; and the streamer of run:ai, where that is installed. What they loaded is compared. For a
device, what its bus gives is measured, too, from pinned memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch
from tqdm import tqdm

from s3dlio.safetensors import save_file
from tests.servers.process import without_cloud_variables
from tests.servers.seaweedfs import seaweedfs

from .loads import PACKAGES, WAYS, Loaded
from .servers import ROOT, fast_server

BUCKET = "weights"
TIME_LIMIT = 300.0
"""Seconds for the two loads of one process."""


def write_model(place: str, size: int, count: int, shards: int) -> list[str]:
    """`count` tensors of `size` bytes together, in objects of about the same size at `place`; their names."""
    rows = size // count // 2048
    noise = torch.randn(rows, 1024).bfloat16()
    keys = [f"model-{number}.safetensors" for number in range(shards)]
    for number, key in enumerate(keys):
        mine = {f"layers.{each}.weight": noise.roll(each, 0) for each in range(number, count, shards)}
        save_file(mine, f"{place}/{key}")
    return keys


@contextlib.contextmanager
def model(options: argparse.Namespace) -> Iterator[tuple[dict[str, str], list[str]]]:
    """A server of the model, by the variables that name it, and the URIs of the shards."""
    shape = (int(options.size * (1 << 30)), options.tensors, options.shards)
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".disk-") as name, contextlib.ExitStack() as held:
        if options.server == "nginx":
            (folder := Path(name) / "near" / BUCKET).mkdir(parents=True)
            keys = write_model(folder.as_uri(), *shape)
            environment = held.enter_context(fast_server(folder.parent, [])).environment
        else:
            server = held.enter_context(seaweedfs())
            os.environ.update(environment := server.environment())
            server.create_bucket(BUCKET)
            keys = write_model(f"s3://{BUCKET}", *shape)
        yield environment, [f"s3://{BUCKET}/{key}" for key in keys]


def ways() -> list[str]:
    """Those whose packages are installed."""
    return [name for name in WAYS if name not in PACKAGES or find_spec(PACKAGES[name])]


def measured(way: str, device: str, uris: list[str], environment: dict[str, str]) -> Loaded:
    """Two loads. Errors: `CalledProcessError`, `TimeoutExpired`."""
    command = [sys.executable, "-m", "benchmarks.loads", way, device, *uris]
    found = without_cloud_variables(os.environ) | environment | {"NO_PROXY": "*"}
    found["AWS_EC2_METADATA_DISABLED"] = "true"
    done = subprocess.run(
        command, cwd=ROOT, env=found, stdout=subprocess.PIPE, text=True, check=True, timeout=TIME_LIMIT
    )
    return Loaded(**json.loads(done.stdout.splitlines()[-1]))


def bus(device: str) -> float:
    """Bytes a second from pinned memory to `device`, with nothing beside."""
    source = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source, device=device)
    for _ in range(3):
        torch.cuda.synchronize(device)
        begun = time.monotonic()
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize(device)
        took = time.monotonic() - begun
    return len(source) / took


def lines(taken: dict[str, list[Loaded]], size: int) -> Iterator[str]:
    """Medians, in Markdown."""
    yield "| way | first load, s | again, s | again, MB/s | CPU, s | memory, MB | pinned, MB |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, each in taken.items():
        if not each:
            yield f"| {name} | failed |"
            continue
        first, again = (median(one.seconds[turn] for one in each) for turn in (0, 1))
        used = median(one.cpu_seconds for one in each) / 2
        most = [max(one.peak_bytes for one in each), max(one.pinned_bytes for one in each)]
        memory = " | ".join(f"{value / 1e6:.0f}" for value in most)
        yield f"| {name} | {first:.2f} | {again:.2f} | {size / again / 1e6:.0f} | {used:.2f} | {memory} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weights", description=__doc__)
    parser.add_argument("--size", type=float, default=4.0, metavar="GIB", help="of all tensors together (4)")
    parser.add_argument("--tensors", type=int, default=300, metavar="N", help="how many (300)")
    parser.add_argument("--shards", type=int, default=4, metavar="N", help="in how many objects (4)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="processes of each way (3)")
    parser.add_argument("--device", default="cpu", help="where the tensors are wanted (cpu)")
    parser.add_argument("--server", choices=("SeaweedFS", "nginx"), default="SeaweedFS", help="(SeaweedFS)")
    options = parser.parse_args()
    taken: dict[str, list[Loaded]] = {way: [] for way in ways()}
    with model(options) as (environment, uris):
        for way in tqdm([*taken] * options.rounds, disable=None):
            try:
                taken[way].append(measured(way, options.device, uris, environment))
            except subprocess.SubprocessError as error:
                print(f"{way}: {type(error).__name__}", file=sys.stderr)
    if len({one.digest for each in taken.values() for one in each}) > 1:
        raise SystemExit("the ways have loaded different tensors")
    print(*lines(taken, int(options.size * (1 << 30))), sep="\n")
    if options.device != "cpu":
        print(f"\nfrom pinned memory: {bus(options.device) / 1e6:.0f} MB/s")


if __name__ == "__main__":
    main()
