"""The swap over several endpoints of one real server, while some of them die, dawdle or refuse."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import pytest
import torch
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.utils.data import DataLoader

import s3dlio
from s3dlio.compat.s3torchconnector import S3Checkpoint, S3IterableDataset, S3MapDataset, S3Reader
from s3dlio.compat.s3torchconnector.dcp import S3StorageReader, S3StorageWriter

from ..servers.gateway import Gateway
from ..servers.seaweedfs import SeaweedFS
from .dcp.conftest import ALONE

COUNT, SIZE = 240, 100 << 10
MiB = 1 << 20


def body(number: int) -> bytes:
    return random.Random(number).randbytes(SIZE)


@pytest.fixture(scope="module")
def gateways(s3_server: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Gateway]]:
    """Two that are well, one at a tenth of what is usual, one that refuses."""
    behind, logs = int(s3_server.endpoint.rpartition(":")[2]), tmp_path_factory.mktemp("gateways")
    options = [(), (), ("--rate", "1e7"), ("--refuse",)]
    found = [Gateway(behind, logs / f"{number}.log", *each) for number, each in enumerate(options)]
    with contextlib.ExitStack() as running:
        for gateway in found:
            gateway.start()
            running.callback(gateway.stop)
        yield found


@pytest.fixture
def endpoint(gateways: list[Gateway]) -> list[str]:
    return [gateway.endpoint for gateway in gateways]


@pytest.fixture
def uri(s3_environment: SeaweedFS, bucket: str) -> str:
    for number in range(COUNT):
        s3dlio.put(f"s3://{bucket}/train/{number:04}", body(number))
    return f"s3://{bucket}/train/"


def named(reader: S3Reader) -> tuple[str, bytes]:
    return reader.key, reader.read()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [S3IterableDataset, S3MapDataset])
def test_an_endpoint_is_killed_in_an_epoch(
    kind: type, workers: int, uri: str, gateways: list[Gateway], endpoint: list[str]
) -> None:
    sharded = {"enable_sharding": True} if kind is S3IterableDataset else {}
    dataset = kind.from_prefix(uri, region="us-east-1", endpoint=endpoint, transform=named, **sharded)  # type: ignore[attr-defined]
    method = "fork" if workers else None
    loader = DataLoader(dataset, batch_size=8, num_workers=workers, multiprocessing_context=method, collate_fn=list)
    found: list[tuple[str, bytes]] = []
    for batch in loader:
        found += batch
        if len(found) == 40:
            gateways[0].stop()
    gateways[0].start()
    assert sorted(found) == [(f"train/{number:04}", body(number)) for number in range(COUNT)]


def test_an_endpoint_is_killed_under_a_checkpoint(
    s3_environment: SeaweedFS, bucket: str, gateways: list[Gateway], endpoint: list[str]
) -> None:
    checkpoint = S3Checkpoint("us-east-1", endpoint=",".join(endpoint))
    data = random.Random(0).randbytes(40 * MiB)
    with checkpoint.writer(f"s3://{bucket}/checkpoint") as writer:
        writer.write(data[: 20 * MiB])
        gateways[0].stop()
        writer.write(data[20 * MiB :])
    gateways[0].start()
    assert s3dlio.get(f"s3://{bucket}/checkpoint") == data
    with checkpoint.reader(f"s3://{bucket}/checkpoint") as reader:
        first = reader.read(MiB)
        gateways[1].stop()
        assert first + reader.read() == data
    gateways[1].start()


class _Stop:
    """Something to save, in whose saving `gateway` is killed."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        self.gateway.stop()
        return str, ("stopped",)


@pytest.mark.filterwarnings(ALONE)
def test_an_endpoint_is_killed_in_a_distributed_save(
    s3_environment: SeaweedFS, bucket: str, gateways: list[Gateway], endpoint: list[str]
) -> None:
    uri, size = f"s3://{bucket}/distributed", 5 * MiB
    state = {f"weights {number}": torch.rand(size // 4) for number in range(6)}
    writer = S3StorageWriter("us-east-1", uri, endpoint=endpoint, thread_count=2)
    state_dict_saver.save({**state, "stop": _Stop(gateways[0])}, storage_writer=writer, no_dist=True)
    found = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    reader = S3StorageReader("us-east-1", uri, endpoint=",".join(endpoint))
    state_dict_loader.load(found, storage_reader=reader, no_dist=True)
    gateways[0].start()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
