"""A model in shards, from a bucket to tensors: `python -m benchmarks.weights --help`.

A SeaweedFS has the shards. In rounds, each way loads all tensors: ours; a download to a folder and the original's load
from there; and the streamer of run:ai, where that is installed. What is mapped is read once, as what else is mapped is
not there yet; all tensors are compared with those of the first way.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import boto3
import safetensors.torch
import torch

import s3dlio
from s3dlio.safetensors import load_file, save_file
from tests.servers.seaweedfs import seaweedfs

BUCKET = "weights"
Tensors = Mapping[str, torch.Tensor]
Way = Callable[[list[str], Path], Tensors]
"""Loads the objects of these keys, and may use an empty folder for it."""


def uri(key: str) -> str:
    return f"s3://{BUCKET}/{key}"


def ours(keys: list[str], _folder: Path) -> Tensors:
    return load_file([uri(key) for key in keys])


def _mapped(keys: list[str], folder: Path) -> Tensors:
    found = {name: tensor for key in keys for name, tensor in safetensors.torch.load_file(folder / key).items()}
    for tensor in found.values():
        tensor.view(torch.uint8).reshape(-1)[::4096].sum()
    return found


def download(keys: list[str], folder: Path) -> Tensors:
    for key in keys:
        s3dlio.download(uri(key), folder / key, progress=False)
    return _mapped(keys, folder)


def download_boto3(keys: list[str], folder: Path) -> Tensors:
    client = boto3.client("s3")
    for key in keys:
        client.download_file(BUCKET, key, str(folder / key))
    return _mapped(keys, folder)


def runai(keys: list[str], _folder: Path) -> Tensors:
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_files([uri(key) for key in keys])
        return {name: tensor.clone() for name, tensor in streamer.get_tensors()}  # it uses their memory again


def ways() -> Iterator[Way]:
    yield from (ours, download, download_boto3)
    if find_spec("runai_model_streamer_s3"):  # the streamer's part for S3
        yield runai


def write_model(size: int, count: int, shards: int) -> list[str]:
    """`count` tensors of `size` bytes together, in objects of about the same size; their keys."""
    made = torch.Generator().manual_seed(1)
    keys = [f"model-{number}.safetensors" for number in range(shards)]
    for number, key in enumerate(keys):
        rows = size // count // 2048
        names = [f"layers.{each}.weight" for each in range(number, count, shards)]
        save_file({name: torch.randn(rows, 1024, generator=made).bfloat16() for name in names}, uri(key))
    return keys


def seconds(way: Way, keys: list[str], expected: dict[str, torch.Tensor]) -> float:
    """What one load takes. Errors: `RuntimeError` where the tensors are others than `expected`, filled by the first."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".disk-") as folder:
        begun = time.monotonic()
        found = way(keys, Path(folder))
        took = time.monotonic() - begun
        if not expected:
            expected.update(found)
        same = expected.keys() == found.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    if not same:
        raise RuntimeError(f"{way.__name__} gives other tensors")
    return took


def lines(took: Mapping[str, list[float]], size: int) -> Iterator[str]:
    """What was found, in Markdown."""
    yield "| way | seconds, median | least | most | MB/s |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, each in took.items():
        middle = median(each)
        yield f"| {name} | {middle:.2f} | {min(each):.2f} | {max(each):.2f} | {size / middle / 1e6:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weights", description=__doc__)
    parser.add_argument("--size", type=float, default=4.0, metavar="GIB", help="of all tensors together (4)")
    parser.add_argument("--tensors", type=int, default=300, metavar="N", help="how many (300)")
    parser.add_argument("--shards", type=int, default=4, metavar="N", help="in how many objects (4)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="loads by each way (5)")
    options = parser.parse_args()
    size = int(options.size * (1 << 30))
    with seaweedfs() as server:
        os.environ.update(server.environment())
        server.create_bucket(BUCKET)
        keys = write_model(size, options.tensors, options.shards)
        took: dict[str, list[float]] = {way.__name__: [] for way in ways()}
        expected: dict[str, torch.Tensor] = {}
        for _ in range(options.rounds):
            for way in ways():
                took[way.__name__].append(seconds(way, keys, expected))
    print(*lines(took, size), sep="\n")


if __name__ == "__main__":
    main()
