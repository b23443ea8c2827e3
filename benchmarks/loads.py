"""A model's tensors by one way, in a process of its own: `python -m benchmarks.loads WAY DEVICE URI...`.

It loads twice, the first time with the imports that it needs, the second with what that has left (connections, pinned
memory), and prints one line of JSON, a :class:`Loaded`. What is mapped is read once, as it is not there before.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import torch

from .usage import begin_peak, cpu_seconds, memory

Tensors = Mapping[str, torch.Tensor]
Way = Callable[[list[str], str, Path], Tensors]
"""Loads the objects at these URIs to a device, and may use an empty folder for it."""


@dataclass(frozen=True)
class Loaded:
    """What two loads took: seconds of each, and of both the CPU's, the growth of memory, and what the tensors are."""

    seconds: list[float]
    cpu_seconds: float
    peak_bytes: int
    pinned_bytes: int
    digest: int


def ours(uris: list[str], device: str, _folder: Path) -> Tensors:
    from s3dlio.safetensors import load_file

    return load_file(uris, device)


def _from_files(paths: list[Path], device: str) -> Tensors:
    import safetensors.torch

    found = {name: tensor for path in paths for name, tensor in safetensors.torch.load_file(path, device).items()}
    if device == "cpu":
        for tensor in found.values():
            tensor.view(torch.uint8).reshape(-1)[::4096].sum()
    return found


def download(uris: list[str], device: str, folder: Path) -> Tensors:
    import s3dlio

    paths = [folder / Path(uri).name for uri in uris]
    for uri, path in zip(uris, paths, strict=True):
        s3dlio.download(uri, path, progress=False)
    return _from_files(paths, device)


def download_boto3(uris: list[str], device: str, folder: Path) -> Tensors:
    import boto3

    client, paths = boto3.client("s3"), [folder / Path(uri).name for uri in uris]
    for uri, path in zip(uris, paths, strict=True):
        place = urlsplit(uri)
        client.download_file(place.netloc, place.path[1:], str(path))
    return _from_files(paths, device)


def runai(uris: list[str], device: str, _folder: Path) -> Tensors:
    from runai_model_streamer import SafetensorsStreamer

    with SafetensorsStreamer() as streamer:
        streamer.stream_files(uris, device=device)
        return {name: tensor.clone() for name, tensor in streamer.get_tensors()}  # it uses their memory again


WAYS: dict[str, Way] = {way.__name__: way for way in (ours, download, download_boto3, runai)}
PACKAGES = {"download_boto3": "boto3", "runai": "runai_model_streamer_s3"}
"""What a way needs that is not always there."""


def load(way: Way, uris: list[str], device: str) -> tuple[float, Tensors]:
    """Seconds, and what was loaded."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".disk-") as folder:
        begun = time.monotonic()
        found = way(uris, device, Path(folder))
        if device != "cpu":
            torch.cuda.synchronize(device)
        return time.monotonic() - begun, found


def digest(tensors: Tensors) -> int:
    """The same number for the same bytes under the same names."""
    value = 0
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data, zlib.crc32(name.encode(), value))
    return value


def main(way: str, device: str, *uris: str) -> None:
    torch.empty(1, device=device)  # a GPU's start is not what is measured
    resident, cpu = begin_peak(), cpu_seconds()
    first, found = load(WAYS[way], [*uris], device)
    del found
    second, found = load(WAYS[way], [*uris], device)
    used, peak = cpu_seconds() - cpu, memory("VmHWM") - resident
    pinned = 0 if device == "cpu" else torch.cuda.host_memory_stats().get("allocated_bytes.peak", 0)
    print(json.dumps(asdict(Loaded([first, second], used, peak, pinned, digest(found)))), flush=True)
    os._exit(0)  # no way's threads are waited for


if __name__ == "__main__":
    main(*sys.argv[1:])
