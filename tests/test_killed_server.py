"""A server that is killed in the middle of a load, and started again: the load goes on, and what it gives is right."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import s3dlio
import s3dlio.numpy
from s3dlio.config import MiB
from s3dlio.observers import Attempt, Span, leave, observe
from s3dlio.safetensors import load_file
from s3dlio.shards import ShardDataset

from .servers.seaweedfs import SeaweedFSProcess, seaweedfs_process

ROOT = "s3://killed"
SHARDS = [{f"{shard}.{layer}": torch.randn(512, 1024) for layer in range(4)} for shard in range(4)]
WEIGHTS = {name: tensor for shard in SHARDS for name, tensor in shard.items()}
ARRAY = torch.cat([*WEIGHTS.values()]).numpy()
SAMPLES = [row.tobytes() for row in ARRAY.reshape(128, -1)]


@pytest.fixture(scope="module")
def process() -> Iterator[SeaweedFSProcess]:
    """A server of one's own, with 32 MiB of weights, an array and samples."""
    with seaweedfs_process() as process, pytest.MonkeyPatch.context() as patch:
        for name, value in process.server.environment().items():
            patch.setenv(name, value)
        process.server.create_bucket("killed")
        for number, shard in enumerate(SHARDS):
            s3dlio.put(f"{ROOT}/model-{number}.safetensors", safetensors.torch.save(shard))
        weights = {name: f"model-{number}.safetensors" for number, shard in enumerate(SHARDS) for name in shard}
        s3dlio.put(f"{ROOT}/model.safetensors.index.json", json.dumps({"weight_map": weights}))
        s3dlio.numpy.save(f"{ROOT}/array.npy", ARRAY)
        s3dlio.put(f"{ROOT}/samples.tar", tar_of_samples())
        s3dlio.shards.index(f"{ROOT}/samples.tar")
        yield process


def tar_of_samples() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for number, content in enumerate(SAMPLES):
            info = tarfile.TarInfo(f"{number:03}.bin")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


class Killer:
    """Kills a server of which a client has had so many bytes: on the client's loop, which begins nothing meanwhile."""

    def __init__(self, process: SeaweedFSProcess, after: int) -> None:
        self.struck = threading.Event()
        self.failures = 0
        self._process = process
        self._left = after

    def note(self, event: str, what: Attempt | Span) -> None:
        if event == "attempt.failed":
            self.failures += 1
        elif event == "attempt.complete" and isinstance(what, Attempt):
            self._left -= what.received
            if self._left <= 0 and not self.struck.is_set():
                self._process.kill()
                self.struck.set()


def weights(**options: Any) -> Mapping[str, bytes]:
    found = load_file(f"{ROOT}/model.safetensors.index.json", **options)
    return {name: tensor.numpy().tobytes() for name, tensor in found.items()}


def array() -> bytes:
    loaded: np.ndarray[Any, Any] = s3dlio.numpy.load(f"{ROOT}/array.npy")
    return loaded.tobytes()


def samples() -> list[bytes]:
    dataset = ShardDataset(f"{ROOT}/samples.tar")
    return [sample["bin"] for sample in dataset.__getitems__(range(len(SAMPLES)))]


TENSORS = {name: tensor.numpy().tobytes() for name, tensor in WEIGHTS.items()}
LOADS: dict[str, tuple[Callable[[], Any], Any]] = {
    "weights": (weights, TENSORS),
    "weights by the ring": (lambda: weights(dtype=torch.float32), TENSORS),
    "an array": (array, ARRAY.tobytes()),
    "samples": (samples, SAMPLES),
}


@pytest.mark.parametrize(("load", "expected"), LOADS.values(), ids=LOADS)
def test_a_load_goes_on_when_its_server_is_back(
    load: Callable[[], Any], expected: Any, process: SeaweedFSProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in process.server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("S3DLIO_PART_SIZE", str(MiB))
    killer = Killer(process, 8 * MiB)
    observe(killer.note)
    try:
        with ThreadPoolExecutor(1) as threads:
            loading = threads.submit(load)
            assert killer.struck.wait(60)
            process.start()
            found = loading.result()
    finally:
        leave(killer.note)
    assert found == expected
    assert killer.failures > 0
