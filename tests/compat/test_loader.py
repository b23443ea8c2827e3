"""PyTorch's `DataLoader` over the datasets: every way of starting workers, real processes, a real server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from s3dlio.compat.s3torchconnector import S3Checkpoint, S3Exception, S3IterableDataset, S3MapDataset, S3Reader

from ..servers.seaweedfs import SeaweedFS

BODIES = {f"train/{number:03}": bytes([number]) * (number * 10 + 10) for number in range(20)}


@pytest.fixture
def uri(s3_environment: SeaweedFS, bucket: str) -> str:
    """A prefix with 20 objects."""
    checkpoint = S3Checkpoint("us-east-1")
    for key, body in BODIES.items():
        with checkpoint.writer(f"s3://{bucket}/{key}") as writer:
            writer.write(body)
    return f"s3://{bucket}/train/"


def body_of(reader: S3Reader) -> tuple[str, bytes]:
    return reader.key, reader.read()


def test_workers_of_any_kind(uri: str) -> None:
    """Workers start before and after their parent used the network, and the parent goes on with what it had begun."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.compat.loader_program", uri, "fork", "spawn", "forkserver"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    sums = {key: sum(body) for key, body in BODIES.items()}
    assert list(map(json.loads, done.stdout.splitlines())) == [{"unused": sums, "used": sums, "parent": sums}] * 3


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [S3IterableDataset, S3MapDataset])
def test_the_default_collate_function_makes_lists_of_readers(kind: Any, workers: int, uri: str) -> None:
    """The loop of the migration guide: workers list, the main process reads."""
    sharded = {"enable_sharding": True} if kind is S3IterableDataset else {}
    dataset = kind.from_prefix(uri, region="us-east-1", **sharded)
    found = {}
    for batch in DataLoader(dataset, batch_size=8, num_workers=workers, multiprocessing_context=_fork(workers)):
        assert isinstance(batch, list)
        for item in batch:
            assert isinstance(item, S3Reader)
            found[item.key] = item.read()
    assert found == BODIES


def test_readers_inside_other_things_collate(uri: str) -> None:
    dataset = S3MapDataset.from_prefix(uri, region="us-east-1", transform=lambda reader: {"it": reader, "n": 1})
    (batch,) = DataLoader(dataset, batch_size=20)
    assert [reader.read() for reader in batch["it"]] == list(BODIES.values())
    assert batch["n"].tolist() == [1] * 20


def test_without_batches(uri: str) -> None:
    dataset = S3MapDataset.from_prefix(uri, region="us-east-1", transform=body_of)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert [tuple(item) for item in loader] == list(BODIES.items())


def test_workers_that_stay(uri: str) -> None:
    dataset = S3IterableDataset.from_prefix(uri, region="us-east-1", transform=body_of, enable_sharding=True)
    loader = DataLoader(
        dataset, batch_size=4, num_workers=2, persistent_workers=True, multiprocessing_context="fork", collate_fn=list
    )
    for _ in range(3):
        assert sorted(item for batch in loader for item in batch) == list(BODIES.items())


def test_every_worker_has_everything_without_sharding(uri: str) -> None:
    dataset = S3IterableDataset.from_prefix(uri, region="us-east-1", transform=body_of)
    loader = DataLoader(dataset, batch_size=4, num_workers=2, multiprocessing_context="fork", collate_fn=list)
    assert sorted(item for batch in loader for item in batch) == sorted([*BODIES.items(), *BODIES.items()])


def test_shuffled_and_more_than_a_window_at_once(uri: str) -> None:
    dataset = S3MapDataset.from_prefix(uri, region="us-east-1", transform=body_of)
    loader = DataLoader(dataset + dataset + dataset + dataset, batch_size=80, shuffle=True, collate_fn=list)
    (batch,) = loader
    assert sorted(batch) == sorted(4 * list(BODIES.items()))


def test_an_error_of_a_worker_arrives_with_its_class_and_its_story(uri: str) -> None:
    dataset = S3MapDataset.from_objects([f"{uri}000", f"{uri}absent"], region="us-east-1", transform=body_of)
    loader = DataLoader(dataset, batch_size=2, num_workers=1, multiprocessing_context="fork", collate_fn=list)
    with pytest.raises(S3Exception, match="Service error: The key does not exist") as caught:
        list(loader)
    assert isinstance(caught.value, FileNotFoundError)
    assert "train/absent" in str(caught.value)


def _fork(workers: int) -> str | None:
    return "fork" if workers else None
