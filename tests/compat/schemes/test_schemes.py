"""Every scheme, by every way in: the guide's snippets, datasets, checkpoints, blocking calls, Trio."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from torch.utils.data import ChainDataset, DataLoader

import s3dlio
from s3dlio import manifest
from s3dlio.compat.s3torchconnector import S3Checkpoint, S3Exception, S3IterableDataset, S3MapDataset, S3Reader
from s3dlio.urls import parse_uri

from ...places import Place

BODIES = {f"{number:03}.bin": f"body {number} ".encode() * (number + 1) for number in range(40)}

GUIDE = {
    "s3": """
dataset = S3IterableDataset.from_prefix(
    "s3://bucket/prefix/",
    region="us-east-1"
)

# With custom endpoint (MinIO, Ceph)
import os
os.environ["AWS_ENDPOINT_URL"] = "http://minio:9000"
""",
    "az": """
import os
os.environ["AZURE_STORAGE_ACCOUNT_NAME"] = "myaccount"
os.environ["AZURE_STORAGE_ACCOUNT_KEY"] = "key"

dataset = S3IterableDataset.from_prefix("az://container/prefix/")
""",
    "gs": """
import os
os.environ["GOOGLE_APPLICATION_CREDENTIALS"] = "/path/to/creds.json"

dataset = S3IterableDataset.from_prefix("gs://bucket/prefix/")
""",
    "file": """
# Perfect for local development/testing!
dataset = S3IterableDataset.from_prefix("file:///data/train/")
""",
}
"""The guide's "Multi-Protocol Support", as printed."""


@pytest.fixture
def folder(place: Place, environment: None) -> Iterator[str]:
    with _filled(place) as uri:
        yield uri


@contextmanager
def _filled(place: Place) -> Iterator[str]:
    """A URI of a folder that holds `BODIES`."""
    uri = f"{place.root}/{uuid4()}/"
    for name, body in BODIES.items():
        s3dlio.put(uri + name, body)
    yield uri
    for name in BODIES:
        s3dlio.delete(uri + name)


def _body(reader: S3Reader) -> bytes:
    return reader.read()


def _named_body(reader: S3Reader) -> tuple[str, bytes]:
    return f"{reader.bucket}/{reader.key}", reader.read()


@pytest.mark.parametrize("place", list(GUIDE), indirect=True)
def test_the_guides_snippet_runs_as_printed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it sets stands for the server of the test, so the test's own variables follow it, as a user's would."""
    kind = parse_uri(place.root + "/x").scheme
    text, folder = GUIDE[kind], f"{place.root}/prefix/"
    if kind == "file":
        text, folder = text.replace("/data/train/", f"{place.bucket}/"), f"{place.root}/"
    names: dict[str, Any] = {"S3IterableDataset": S3IterableDataset}
    before = set(os.environ)
    exec(text, names)
    for name in set(os.environ) - before:
        del os.environ[name]
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
    for name, body in BODIES.items():
        s3dlio.put(folder + name, body)
    assert [item.read() for item in names["dataset"]] == list(BODIES.values())
    with S3Checkpoint().writer(f"{place.root}/checkpoints/model.pt") as writer:
        torch.save({"weights": torch.arange(10.0)}, writer)  # type: ignore[arg-type]
    with S3Checkpoint().reader(f"{place.root}/checkpoints/model.pt") as reader:
        loaded = torch.load(reader)  # type: ignore[arg-type]
    assert torch.equal(loaded["weights"], torch.arange(10.0))


def test_a_dataset_of_any_kind(place: Place, folder: str) -> None:
    dataset = S3IterableDataset.from_prefix(folder)
    items = list(dataset)
    within = parse_uri(folder)
    assert {item.bucket for item in items} == {within.bucket}
    assert [item.key for item in items] == [f"{within.key}{name}" for name in BODIES]
    assert [item.read() for item in items] == list(BODIES.values())
    named = S3MapDataset.from_objects([folder + "003.bin", folder + "001.bin"], transform=_body)
    assert [named[0], named[-1]] == [BODIES["003.bin"], BODIES["001.bin"]]
    unread = S3MapDataset.from_prefix(folder)
    assert pickle.loads(pickle.dumps([unread[0], unread[1]]))[1].read() == BODIES["001.bin"]


def test_a_manifest_holds_reads_to_what_it_tells(folder: str, tmp_path: Path) -> None:
    manifest.create(folder, tmp_path / "manifest")
    dataset = S3IterableDataset.from_manifest(tmp_path / "manifest")
    assert [item.read() for item in dataset] == list(BODIES.values())
    s3dlio.put(folder + "007.bin", BODIES["007.bin"].upper())
    failed: dict[str, Any] = {}
    for item in dataset:
        try:
            item.read()
        except S3Exception as error:
            failed[item.key[-7:]] = error.__cause__
    assert {name: type(cause) for name, cause in failed.items()} == {"007.bin": s3dlio.ObjectChangedError}


def test_forked_workers_share_a_dataset_of_any_kind(folder: str) -> None:
    dataset = S3IterableDataset.from_prefix(folder, transform=_body, enable_sharding=True)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert sorted(loader) == sorted(BODIES.values())


def test_spawned_workers_share_datasets_of_all_kinds(places: list[Place]) -> None:
    with ExitStack() as stack:
        folders = [stack.enter_context(_filled(place)) for place in places]
        datasets = [S3IterableDataset.from_prefix(uri, transform=_named_body, enable_sharding=True) for uri in folders]
        loader = DataLoader(ChainDataset(datasets), batch_size=None, num_workers=2, multiprocessing_context="spawn")
        within = [parse_uri(uri) for uri in folders]
        expected = [(f"{uri.bucket}/{uri.key}{name}", body) for uri in within for name, body in BODIES.items()]
        assert sorted(map(tuple, loader)) == sorted(expected)


def test_a_checkpoint_of_any_kind(place: Place, folder: str) -> None:
    uri = f"{folder}model.pt"
    state = {"large": torch.randn(3_000_000), "small": torch.tensor(7)}
    checkpoint = S3Checkpoint()
    with checkpoint.writer(uri) as writer:
        torch.save(state, writer)  # type: ignore[arg-type]
    with checkpoint.reader(uri) as reader:
        loaded = torch.load(reader)  # type: ignore[arg-type]
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    with pytest.raises(RuntimeError, match="interrupted"):
        _save_half(checkpoint, uri)
    assert s3dlio.stat(uri).size > 12_000_000
    s3dlio.delete(uri)


def _save_half(checkpoint: S3Checkpoint, uri: str) -> None:
    with checkpoint.writer(uri) as writer:
        writer.write(b"half")
        raise RuntimeError("interrupted")


def test_blocking_calls_of_any_kind(folder: str) -> None:
    uri = f"{folder}a b+c%20.txt"
    s3dlio.put(uri, b"first")
    s3dlio.put(uri, b"second")
    assert s3dlio.get(uri) == b"second"
    assert s3dlio.stat(uri).size == 6
    assert s3dlio.exists(uri)
    assert uri.endswith(next(entry.key for entry in s3dlio.list(f"{folder}a b")))
    s3dlio.delete(uri)
    assert not s3dlio.exists(uri)
    with pytest.raises(FileNotFoundError):
        s3dlio.get(uri)


async def test_trio_of_any_kind(folder: str) -> None:
    async with s3dlio.open_store(folder) as store:
        assert [meta.key async for page in store.list() for meta in page.objects] == list(BODIES)
        assert await store.get("007.bin") == BODIES["007.bin"]
        large = os.urandom(20 << 20)
        await store.put("large", large)
        view = memoryview(bytearray(len(large) - 5))
        await store.get_into("large", view, start=5)
        assert view == memoryview(large)[5:]
        await store.delete_many(["large"])


def test_what_is_absent_is_an_s3_exception(folder: str) -> None:
    with pytest.raises(S3Exception, match="The key does not exist") as caught:
        S3MapDataset.from_objects([f"{folder}absent"])[0].read()
    assert isinstance(caught.value, FileNotFoundError)
