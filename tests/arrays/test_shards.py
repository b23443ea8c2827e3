"""Samples of shards: what is one, one request each, and an index that is made once and never believed too long."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import s3dlio
from s3dlio import ChecksumError, Config, FormatError, NotFoundError, ObjectChangedError
from s3dlio.archives import Member, Zipped
from s3dlio.config import MiB
from s3dlio.errors import ErrorContext
from s3dlio.shards import Index, ShardDataset, dataset, index
from s3dlio.shards.members import parse_index
from s3dlio.shards.samples import find_samples, place_of, split_name
from s3dlio.urls import Uri

from ..watched import WatchedStore
from .test_archives import tar_of, zip_of

ROOT = Path(__file__).parents[2]
CONTEXT = ErrorContext("read", key="shard")


def files_of(numbers: range) -> list[tuple[str, bytes]]:
    return [
        file
        for number in numbers
        for file in (
            (f"set/{number:03}.jpg", bytes([number]) * (number * 40)),
            (f"set/{number:03}.cls", b"%d" % number),
        )
    ]


def sample_of(number: int) -> dict[str, Any]:
    return {"__key__": f"set/{number:03}", "jpg": bytes([number]) * (number * 40), "cls": b"%d" % number}


def put_shards(folder: str) -> list[str]:
    s3dlio.put(f"{folder}0.tar", tar_of(files_of(range(7))))
    s3dlio.put(f"{folder}1.tar", tar_of([]))
    s3dlio.put(f"{folder}2.tar", tar_of(files_of(range(7, 20))))
    return [f"{folder}{number}.tar" for number in range(3)]


def test_samples_of_several_shards(folder: str) -> None:
    samples = ShardDataset(put_shards(folder))
    assert len(samples) == 20
    assert [samples[number] for number in range(20)] == [sample_of(number) for number in range(20)]
    assert samples.__getitems__([19, 0, 7, -1]) == [sample_of(number) for number in (19, 0, 7, 19)]
    for number in (20, -21):
        with pytest.raises(IndexError, match="20 samples"):
            samples[number]
    assert len(ShardDataset([])) == 0
    assert len(ShardDataset(f"{folder}0.tar")) == 7
    with pytest.raises(NotFoundError):
        len(ShardDataset(f"{folder}absent.tar"))


def test_an_index_is_made_once_and_anew_for_another_shard(folder: str) -> None:
    uri = f"{folder}shard.tar"
    s3dlio.put(uri, tar_of(files_of(range(3))))
    assert len(index(uri, save=False)) == 6
    assert not s3dlio.exists(f"{uri}.index.json")
    made = index(uri)
    kept = json.loads(s3dlio.get(f"{uri}.index.json"))
    assert (kept["etag"], kept["size"]) == (s3dlio.stat(uri).etag, s3dlio.stat(uri).size)
    assert list(index(uri)) == list(made)
    kept["members"]["name"][0] = "set/other.jpg"
    s3dlio.put(f"{uri}.index.json", json.dumps(kept))
    assert index(uri)[0].name == "set/other.jpg"  # it is read, not made
    s3dlio.put(uri, tar_of(files_of(range(5))))
    assert len(index(uri)) == 10
    assert len(json.loads(s3dlio.get(f"{uri}.index.json"))["members"]["name"]) == 10


def test_a_shard_that_was_replaced_is_an_error(folder: str) -> None:
    s3dlio.put(f"{folder}shard.tar", tar_of(files_of(range(3))))
    samples = ShardDataset(f"{folder}shard.tar")
    assert len(samples) == 3
    s3dlio.put(f"{folder}shard.tar", tar_of(files_of(range(3, 6))))
    with pytest.raises(ObjectChangedError):
        samples[1]


def test_a_sample_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    store = WatchedStore(Uri("memory", "watched", ""), Config())
    monkeypatch.setattr("s3dlio.shards.dataset.locate", lambda uri, config: (store, uri))
    monkeypatch.setattr("s3dlio.shards.indexing.locate", lambda uri, config: (store, uri))
    store.put("shard.tar", tar_of(files_of(range(100))))
    samples = ShardDataset("shard.tar")
    assert len(samples) == 100
    store.watched.reads.clear()
    assert samples[5] == sample_of(5)
    assert samples.__getitems__(list(range(99, -1, -1)))[-6] == sample_of(5)
    assert len(store.watched.reads) == 101
    assert store.watched.most_active > 1
    (start, end) = store.watched.ranges[0]
    assert end - start <= 3 * 512


def test_zips_and_their_checksums() -> None:
    files = [("a.txt", b"hello"), ("a.json", b"{}" * 500)]
    for method in (0, 8):
        data = zip_of(files, method).replace(b"0-a", b"k-a").replace(b"1-a", b"k-a")
        s3dlio.put("memory://zips/shard.zip", data)
        samples = ShardDataset("memory://zips/shard.zip", save=False)
        assert [samples[0]] == [{"__key__": "k-a", "txt": b"hello", "json": b"{}" * 500}]
    at = data.index(b"k-a.txt") + len(b"k-a.txt")
    s3dlio.put("memory://zips/shard.zip", data[:at] + bytes([data[at] ^ 2]) + data[at + 1 :])
    with pytest.raises((ChecksumError, FormatError), match=r"k-a\.txt"):
        ShardDataset("memory://zips/shard.zip", save=False)[0]


def test_a_transform_and_a_pickle() -> None:
    samples = ShardDataset(put_shards("memory://transform/"), len)
    assert [samples[0], *pickle.loads(pickle.dumps(samples)).__getitems__([1, 2])] == [3, 3, 3]


def test_workers_of_a_loader(tmp_path: Path) -> None:
    uris = put_shards(f"file://{tmp_path}/")
    command = [sys.executable, "-W", "ignore", "-m", "tests.arrays.loader_program", *uris]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = [[f"set/{number:03}", number] for number in range(20)]
    assert json.loads(done.stdout) == {"first": expected[0], "fork": expected, "spawn": expected}


def test_torch_is_not_imported() -> None:
    program = "import sys, s3dlio.numpy, s3dlio.shards; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("a.jpg", ("a", "jpg")),
        ("b/c.d/a.SEG.png", ("b/c.d/a", "seg.png")),
        ("a", None),
        (".hidden", None),
        ("b.c/a", None),
        ("a.", None),
        ("", None),
    ],
)
def test_names(name: str, split: tuple[str, str] | None) -> None:
    assert split_name(name) == split


def test_neighbours_make_a_sample() -> None:
    names = ["a.x", "readme", "a.y", "b.x", "a.x"]
    samples = find_samples(names, CONTEXT)
    assert list(zip(*samples, strict=True)) == [(0, 3), (3, 4), (4, 5)]
    with pytest.raises(FormatError, match="'a' has a part twice"):
        find_samples(["a.x", "a.X"], CONTEXT)


@given(st.lists(st.integers(0, 4), max_size=6), st.integers(-30, 30))
def test_a_number_is_found_in_its_shard(counts: list[int], number: int) -> None:
    every = list(chain.from_iterable([(shard, at) for at in range(count)] for shard, count in enumerate(counts)))
    ends = [sum(counts[: position + 1]) for position in range(len(counts))]
    try:
        expected = every[number]
    except IndexError:
        with pytest.raises(IndexError):
            place_of(number, ends)
        return
    assert place_of(number, ends) == expected


PLACES = st.lists(st.integers(0, 1 << 40), max_size=8).map(sorted)


@given(PLACES, st.booleans())
def test_an_index_is_kept_as_it_is(places: list[int], zipped: bool) -> None:
    told = Zipped(8, 5, 1 << 40, 0xFFFFFFFF) if zipped else None
    pairs = zip(places[::2], places[1::2], strict=False)
    members = [Member(f"\udc80{number}", start, end, told) for number, (start, end) in enumerate(pairs)]
    made = Index.of(members, '"etag"', 1 << 40)
    found = parse_index(made.to_json(), '"etag"', 1 << 40)
    assert found is not None
    assert list(found) == list(made) == members == found[:]
    assert parse_index(made.to_json(), '"other"', 1 << 40) is None
    assert parse_index(made.to_json(), '"etag"', 1 << 39) is None


MEMBERS = {"name": ["a", "b"], "start": [0, 50], "end": [50, 100]}


def index_of(change: dict[str, Any]) -> bytes:
    return json.dumps({"version": 1, "etag": "e", "size": 100, "members": MEMBERS | change}).encode()


@pytest.mark.parametrize(
    "change",
    [
        {"name": ["a"]},
        {"name": "ab"},
        {"name": ["a", 1]},
        {"end": [50]},
        {"end": [50, 101]},
        {"end": [51, 100]},
        {"start": [-1, 50]},
        {"start": [0.5, 50]},
        {"start": [1 << 64, 50]},
        {"start": None},
        {"method": [0, 0]},
    ],
)
def test_an_index_that_lies_is_none(change: dict[str, Any]) -> None:
    assert parse_index(index_of({}), "e", 100) is not None
    assert parse_index(index_of(change), "e", 100) is None


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000, index_of({}).replace(b'"version": 1', b'"version": 2')],
)
def test_what_is_no_index_is_none(data: bytes) -> None:
    assert parse_index(data, "e", 100) is None


def test_as_many_are_under_way_as_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "_IN_FLIGHT", 3)
    samples = ShardDataset(put_shards("memory://flight/"), config=Config(part_size=8 * MiB))
    assert samples.__getitems__(list(range(20))) == [sample_of(number) for number in range(20)]
