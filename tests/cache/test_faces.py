"""The cache as users have it, on a real server: data sets, weights, open, the verbs; and several processes at once."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import s3dlio
import s3dlio.safetensors
from s3dlio.cache.store import CachedStore
from s3dlio.compat.s3torchconnector import S3IterableDataset, S3MapDataset
from s3dlio.replicas import ReplicatedStore

from ..servers.seaweedfs import SeaweedFS
from .kit import chunk_files

SIZES = (0, 1, 10_000, 300_000, 9 << 20)


@pytest.fixture
def cache(s3_environment: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("S3DLIO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def objects(cache: Path, bucket: str) -> dict[str, bytes]:
    made = {f"train/{number}": random.Random(number).randbytes(size) for number, size in enumerate(SIZES)}
    for key, data in made.items():
        s3dlio.put(f"s3://{bucket}/{key}", data)
    return made


def requests() -> int:
    return sum(each.requests for each in s3dlio.stats().endpoints)


def test_an_epoch_of_a_map_dataset_asks_for_nothing_the_second_time(objects: dict[str, bytes], bucket: str) -> None:
    dataset = S3MapDataset.from_prefix(f"s3://{bucket}/train/", region="us-east-1")
    for _ in range(2):
        assert [dataset[number].read() for number in range(len(dataset))] == list(objects.values())
        before = requests()
    assert [item.read() for item in dataset.__getitems__([*range(len(dataset))])] == list(objects.values())
    assert requests() == before


def test_an_epoch_of_an_iterable_dataset_is_its_listing_the_second_time(objects: dict[str, bytes], bucket: str) -> None:
    def epoch() -> int:
        before = requests()
        dataset = S3IterableDataset.from_prefix(f"s3://{bucket}/train/", region="us-east-1")
        assert [item.read() for item in dataset] == list(objects.values())
        return requests() - before

    assert epoch() > len(objects)
    assert epoch() == 1


def test_verbs_and_files_ask_for_the_version_alone(objects: dict[str, bytes], bucket: str) -> None:
    uri, data = f"s3://{bucket}/train/4", objects["train/4"]
    assert s3dlio.get(uri) == data
    before = requests()
    assert s3dlio.get(uri) == data
    assert requests() == before + 1
    with s3dlio.open(uri) as file:
        file.seek(1 << 20)
        assert file.read(4 << 20) == data[1 << 20 : 5 << 20]
    assert requests() <= before + 3
    s3dlio.put(uri, b"another")
    assert s3dlio.get(uri) == b"another"


def test_weights(cache: Path, bucket: str) -> None:
    uri = f"s3://{bucket}/model.safetensors"
    tensors = {str(number): np.full((500, 1000), number, np.float32) for number in range(10)}
    s3dlio.safetensors.save_file(tensors, uri)
    for most in (100, 1):
        before = requests()
        with s3dlio.safetensors.safe_open(uri, framework="np") as loaded:
            assert all(np.array_equal(loaded.get_tensor(name), tensor) for name, tensor in tensors.items())
        assert requests() - before <= most


def test_two_processes_at_once_and_one_after_them(objects: dict[str, bytes], bucket: str) -> None:
    command = [sys.executable, "-m", "tests.cache.epoch_program", f"s3://{bucket}/train/"]

    def begin() -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])

    expected = hashlib.sha256(b"".join(objects.values())).hexdigest()
    for program in [begin(), begin()]:
        assert program.communicate()[0].split()[0] == expected
    assert begin().communicate()[0].split() == [expected, "1"]


def test_the_same_object_has_one_place_however_it_is_reached(
    cache: Path, objects: dict[str, bytes], bucket: str
) -> None:
    s3dlio.get(f"s3://{bucket}/train/3")
    kept = len(list(chunk_files(cache)))
    store = S3MapDataset.from_prefix(f"s3://{bucket}/train/3", region="us-east-1")
    assert store[0].read() == objects["train/3"]
    assert len(list(chunk_files(cache))) == kept == 1
    assert os.stat(cache).st_mode & 0o077 == 0


def test_who_has_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tmp_path)
    assert isinstance(s3dlio.open_store("s3://bucket/folder", cache=folder), CachedStore)
    assert not isinstance(s3dlio.open_store("file:///folder", cache=folder), CachedStore)
    monkeypatch.setenv("S3DLIO_CACHE", folder)
    assert isinstance(s3dlio.open_store("az://account/container"), CachedStore)
    assert not isinstance(s3dlio.open_store("s3://bucket", cache=""), CachedStore)
    both = s3dlio.open_store("s3://bucket", replicas=["s3://other"])
    assert isinstance(both, CachedStore)
    assert isinstance(both.inner, ReplicatedStore)
    assert not any(isinstance(each, CachedStore) for each in both.inner.replicas)
