"""Data sets of a manifest: as those of the prefix, by workers of any kind, and held to what the manifest says."""

from __future__ import annotations

import json
import pickle
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import s3dlio
from s3dlio import manifest
from s3dlio.compat.s3torchconnector import S3ClientConfig, S3Exception, S3IterableDataset, S3MapDataset, S3Reader
from s3dlio.model import ObjectMeta

from ..servers.seaweedfs import SeaweedFS
from .conftest import written

COUNT = 40
MiB = 1 << 20


@pytest.fixture
def train(s3_environment: SeaweedFS, bucket: str) -> str:
    """A prefix of small objects, of which `train.manifest` tells."""
    s3dlio.put_many({f"s3://{bucket}/train/{number:03}": bytes([number]) * 100 for number in range(COUNT)})
    manifest.create(f"s3://{bucket}/train/", f"s3://{bucket}/train.manifest")
    return f"s3://{bucket}/train"


def body_of(reader: S3Reader) -> tuple[str, bytes]:
    return reader.key, reader.read()


def key_of(reader: S3Reader) -> str:
    return reader.key


def made(kind: Any, place: Any, **options: Any) -> Any:
    return kind.from_manifest(place, region="us-east-1", **options)


KINDS = pytest.mark.parametrize("kind", [S3IterableDataset, S3MapDataset])


@KINDS
def test_a_manifest_is_as_good_as_its_prefix(kind: Any, train: str) -> None:
    whole = list(kind.from_prefix(f"{train}/", region="us-east-1", transform=body_of))
    assert list(made(kind, f"{train}.manifest", transform=body_of)) == whole
    assert len(whole) == COUNT


WORKERS = [(S3IterableDataset, "fork", 2), (S3MapDataset, "fork", 2), (S3MapDataset, "spawn", 1)]


@pytest.mark.parametrize(("kind", "method", "workers"), WORKERS)
def test_workers_map_the_same_file(kind: Any, method: str, workers: int, train: str, cache: Path) -> None:
    sharded = {"enable_sharding": True} if kind is S3IterableDataset else {}
    dataset = made(kind, f"{train}.manifest", transform=body_of, **sharded)
    s3dlio.delete(f"{train}.manifest")  # so that nobody could fetch it again
    loader = DataLoader(dataset, None, num_workers=workers, multiprocessing_context=method, collate_fn=tuple)
    assert sorted(loader) == [(f"train/{number:03}", bytes([number]) * 100) for number in range(COUNT)]
    assert len([*cache.glob("*.manifest")]) == 1


@KINDS
def test_what_goes_to_a_worker_does_not_grow_with_the_keys(kind: Any, tmp_path: Path) -> None:
    sizes = set()
    for count in (100, 999):
        written(tmp_path / f"{count:03}", "s3://bucket/", [[ObjectMeta(f"{n:09}", n, f'"{n}"') for n in range(count)]])
        dataset = made(kind, tmp_path / f"{count:03}", transform=key_of)
        if kind is S3MapDataset:
            assert dataset._records[-1].key == f"{count - 1:09}"
        dataset.share_listing()
        sizes.add(len(pickle.dumps(dataset)) // 100)
    assert len(sizes) == 1


@pytest.fixture
def seven(tmp_path: Path) -> Path:
    """A manifest of files."""
    (tmp_path / "train").mkdir()
    for number in range(7):
        (tmp_path / "train" / f"{number}").touch()
    manifest.create(f"file://{tmp_path}/train/", tmp_path / "seven")
    return tmp_path / "seven"


@pytest.mark.parametrize("options", [{}, {"enable_sharding": True}, {"shuffle": True, "seed": 5}])
def test_it_goes_on_at_every_stopping_point(options: dict[str, Any], seven: Path) -> None:
    prefix = S3IterableDataset.from_prefix(f"file://{seven.parent}/train/", transform=key_of, **options)
    whole = list(made(S3IterableDataset, seven, transform=key_of, **options))
    assert whole == list(prefix)
    for stop in range(len(whole) + 1):
        dataset = made(S3IterableDataset, seven, transform=key_of, **options)
        begun = [*islice(dataset, stop)]
        again = made(S3IterableDataset, seven, transform=key_of, **options)
        again.load_state_dict(json.loads(json.dumps(dataset.state_dict())))
        assert begun + list(again) == whole
        assert begun + list(prefix.remaining([dataset.state_dict()])) == whole


def test_shards_take_each_object_once(seven: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = made(S3IterableDataset, seven, transform=key_of, enable_sharding=True, shuffle=True)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(dataset, "_share", lambda rank=rank: (rank, 3))
        shares.append(list(dataset))
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0)).tolist()
    assert shares == [[str(number) for number in order[rank::3]] for rank in range(3)]


def test_a_newer_manifest_is_gone_on_with_after_the_last_key(seven: Path) -> None:
    dataset = made(S3IterableDataset, seven, transform=key_of)
    assert [*islice(dataset, 3)] == ["0", "1", "2"]
    for gone in ("1", "4"):
        (seven.parent / "train" / gone).unlink()
    manifest.create(f"file://{seven.parent}/train/", seven)
    newer = made(S3IterableDataset, seven, transform=key_of)
    newer.load_state_dict(dataset.state_dict())
    assert list(newer) == ["3", "5", "6"]


def failures(dataset: Any) -> dict[str, BaseException | None]:
    """What the objects that cannot be read fail with, in a loop that reads ahead."""
    found = {}
    for reader in dataset:
        try:
            reader.read()
        except S3Exception as error:
            found[reader.key] = error.__cause__
    return found


@KINDS
def test_what_was_replaced_or_removed_is_an_error_of_its_own(kind: Any, train: str) -> None:
    for number, body in ((3, b"y" * 100), (20, b"shorter"), (30, b"z" * 200)):
        s3dlio.put(f"{train}/{number:03}", body)
    s3dlio.delete(f"{train}/035")
    for _ in range(2):  # the second time small objects are asked for in batches, on the connections that are there
        assert failures(kind.from_prefix(f"{train}/", region="us-east-1")) == {}
    found = failures(made(kind, f"{train}.manifest"))
    changed = {f"train/{number:03}": s3dlio.ObjectChangedError for number in (3, 20, 30)}
    assert {key: type(error) for key, error in found.items()} == changed | {"train/035": s3dlio.NotFoundError}


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_an_etag_the_size_tells(etag: str | None, train: str, tmp_path: Path) -> None:
    s3dlio.put(f"{train}/007", b"longer" * 100)
    bucket = train.removesuffix("/train")
    listed = [ObjectMeta(meta.key, 100, etag) for meta in s3dlio.list(f"{train}/")]
    written(tmp_path / "sizes", f"{bucket}/", [listed])
    for dataset in (made(S3IterableDataset, tmp_path / "sizes"), made(S3MapDataset, tmp_path / "sizes")):
        assert {key: type(error) for key, error in failures(dataset).items()} == {
            "train/007": s3dlio.ObjectChangedError
        }


READS = [
    lambda reader: reader.read(),
    lambda reader: reader.read(10),
    lambda reader: reader.readinto(bytearray(6 * MiB)),
    lambda reader: reader.numpy(),
    lambda reader: reader.seek(-5, 2) and reader.read(),
]


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("etag", [True, False])
def test_every_way_of_reading_a_large_object_is_held(read: Any, etag: bool, train: str, tmp_path: Path) -> None:
    uri = f"{train}/large"
    s3dlio.put(uri, bytes(6 * MiB))
    meta = s3dlio.stat(uri)
    if etag:
        s3dlio.put(uri, b"x" * (6 * MiB))
    told = ObjectMeta(meta.key, meta.size if etag else meta.size + 1, meta.etag if etag else None)
    written(tmp_path / "large", f"{train.removesuffix('/train')}/", [[told]])
    (reader,) = made(S3IterableDataset, tmp_path / "large", s3client_config=S3ClientConfig(part_size=5 * MiB))
    with pytest.raises(S3Exception) as caught:
        read(reader)
    assert isinstance(caught.value.__cause__, s3dlio.ObjectChangedError)


@KINDS
def test_a_manifest_that_is_none_is_an_error_at_once(kind: Any, train: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(S3Exception, match="no manifest") as caught:
        made(kind, tmp_path / "empty")
    assert isinstance(caught.value.__cause__, s3dlio.FormatError)
    with pytest.raises(FileNotFoundError):
        made(kind, f"{train}.absent")
    with pytest.raises(ValueError, match="URI"):
        made(kind, "train.manifest")


@KINDS
def test_damage_is_told_of_where_it_is(kind: Any, tmp_path: Path) -> None:
    listed = [ObjectMeta(key, 1) for key in ("first", "broken")]
    written(tmp_path / "damaged", "s3://bucket/", [listed])
    (tmp_path / "damaged").write_bytes((tmp_path / "damaged").read_bytes().replace(b"broken", b"b\xffoken"))
    keys = iter(made(kind, tmp_path / "damaged", transform=key_of))
    assert next(keys) == "first"
    with pytest.raises(S3Exception, match="key 1 is no UTF-8"):
        next(keys)
