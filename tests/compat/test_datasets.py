"""Datasets on a real server: what they list, when they ask, what travels, and how shards divide them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed
from hypothesis import given
from hypothesis import strategies as st
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.data import Dataset, IterableDataset, Subset, random_split

from s3dlio.blocking.prefetch import Want
from s3dlio.blocking.readahead import ReadAhead
from s3dlio.compat.s3torchconnector import S3Checkpoint, S3Exception, S3IterableDataset, S3MapDataset, S3Reader, source
from s3dlio.compat.s3torchconnector import s3iterable_dataset as module
from s3dlio.compat.s3torchconnector._s3bucket_key_data import S3BucketKeyData
from s3dlio.compat.s3torchconnector._s3client import S3Client
from s3dlio.compat.s3torchconnector._s3dataset_common import get_objects_from_prefix
from s3dlio.compat.s3torchconnector.s3reader import SequentialS3Reader

from ..servers.seaweedfs import SeaweedFS

BODIES = {f"train/{number:03}": bytes([number]) * (number * 100) for number in range(30)}
KEYS = list(BODIES)


@pytest.fixture
def uri(s3_environment: SeaweedFS, bucket: str) -> str:
    """A prefix with 30 objects of 0, 100, 200... bytes, and one object beside it."""
    checkpoint = S3Checkpoint("us-east-1")
    for key, body in (*BODIES.items(), ("other", b"other")):
        with checkpoint.writer(f"s3://{bucket}/{key}") as writer:
            writer.write(body)
    return f"s3://{bucket}/train/"


def key_of(reader: S3Reader) -> str:
    return reader.key


def body_of(reader: S3Reader) -> tuple[str, bytes]:
    return reader.key, reader.read()


class Recording(ReadAhead):
    """Keeps an account of who reads ahead, and which bodies are taken from it."""

    made: list[Recording]

    def __init__(self, *arguments: Any, eager: bool = False) -> None:
        super().__init__(*arguments, eager=eager)
        self.eager = eager
        self.taken: list[int] = []
        self.made.append(self)

    def body(self, position: int, want: Want | None = None) -> bytes:
        self.taken.append(position)
        return super().body(position, want)


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> list[Recording]:
    made: list[Recording] = []
    monkeypatch.setattr(Recording, "made", made, raising=False)
    monkeypatch.setattr(source, "ReadAhead", Recording)
    return made


def test_iterating_gives_a_reader_of_each_object(uri: str, bucket: str) -> None:
    dataset = S3IterableDataset.from_prefix(uri, region="us-east-1")
    assert isinstance(dataset, IterableDataset)
    for _ in range(2):
        readers = list(dataset)
        assert [(reader.bucket, reader.key) for reader in readers] == [(bucket, key) for key in KEYS]
        assert [reader.read() for reader in readers] == list(BODIES.values())
    with pytest.raises(TypeError):
        len(dataset)  # type: ignore[arg-type]


def test_a_transform_makes_the_items(uri: str) -> None:
    dataset = S3IterableDataset.from_prefix(uri, region="us-east-1", transform=body_of)
    assert list(dataset) == list(BODIES.items())


def test_a_prefix_is_any_beginning_of_a_key(uri: str, bucket: str) -> None:
    found = S3IterableDataset.from_prefix(f"s3://{bucket}/train/01", region="us-east-1", transform=key_of)
    assert list(found) == KEYS[10:20]
    assert len(S3MapDataset.from_prefix(f"s3://{bucket}", region="us-east-1")) == 31
    assert list(S3IterableDataset.from_prefix(f"s3://{bucket}/none", region="us-east-1")) == []


def test_named_objects_keep_order_and_duplicates(uri: str, bucket: str) -> None:
    names = [f"s3://{bucket}/{key}" for key in (KEYS[5], "other", KEYS[5])]
    expected = [(KEYS[5], BODIES[KEYS[5]]), ("other", b"other"), (KEYS[5], BODIES[KEYS[5]])]
    kinds: tuple[Any, ...] = (S3IterableDataset, S3MapDataset)
    for kind in kinds:
        assert list(kind.from_objects(names, region="us-east-1", transform=body_of)) == expected
        assert list(kind.from_objects(names[1], region="us-east-1", transform=body_of)) == expected[1:2]
    mapped = S3MapDataset.from_objects(iter(names), region="us-east-1", transform=body_of)
    assert len(mapped) == 3
    assert mapped[2] == expected[2]
    once = S3IterableDataset.from_objects(iter(names), region="us-east-1", transform=body_of)
    assert [len(list(once)), len(list(once))] == [3, 0]


def test_indexing_is_that_of_a_list(uri: str) -> None:
    dataset: Any = S3MapDataset.from_prefix(uri, region="us-east-1", transform=key_of)
    assert len(dataset) == 30
    assert [dataset[0], dataset[-1], dataset[torch.tensor(7)]] == [KEYS[0], KEYS[-1], KEYS[7]]
    assert list(dataset) == KEYS
    for index in (30, -31):
        with pytest.raises(IndexError):
            dataset[index]
    for wrong in (slice(2), 1.0, "a"):
        with pytest.raises(TypeError):
            dataset[wrong]
    assert list(cast("Any", Subset(dataset, [3, 1]))) == [KEYS[3], KEYS[1]]
    assert len(dataset + dataset) == 60
    assert [len(part) for part in random_split(dataset, [10, 20])] == [10, 20]


def test_many_threads_may_index(uri: str) -> None:
    dataset = S3MapDataset.from_prefix(uri, region="us-east-1", transform=body_of)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(dataset.__getitem__, range(30))) == list(BODIES.items())


def test_each_access_makes_a_reader(uri: str) -> None:
    dataset = S3MapDataset.from_prefix(uri, region="us-east-1")
    assert isinstance(dataset, Dataset)
    assert dataset[4] is not dataset[4]
    assert dataset[4].read() == dataset[4].read() == BODIES[KEYS[4]]


def test_nothing_is_asked_before_the_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for kind in (S3IterableDataset, S3MapDataset):
        assert kind.from_prefix("no uri", region="r").region == "r"
        assert kind.from_objects(["no uri"], region="r", endpoint="http://host").endpoint == "http://host"
    for dataset in (
        S3IterableDataset.from_prefix("no uri", region="r"),
        S3IterableDataset.from_objects(["s3://b/k", "no uri"], region="r"),
    ):
        with pytest.raises(ValueError, match="Only s3:// URIs are supported"):
            iter(dataset)
    with pytest.raises(ValueError, match="Only s3:// URIs are supported"):
        len(S3MapDataset.from_prefix("no uri", region="r"))
    reader = S3MapDataset.from_objects("s3://b/k", region="r")[0]
    assert (reader.bucket, reader.key, reader.tell()) == ("b", "k", 0)


def test_a_missing_bucket_shows_in_the_listing(s3_environment: SeaweedFS) -> None:
    iterator = iter(S3IterableDataset.from_prefix("s3://no-such-bucket-anywhere/", region="us-east-1"))
    for use in (
        lambda: next(iterator),
        lambda: len(S3MapDataset.from_prefix("s3://no-such-bucket-anywhere/", region="r")),
    ):
        with pytest.raises(S3Exception) as caught:
            use()
        assert str(caught.value) == "Service error: The bucket does not exist"


def test_an_absent_object_is_met_where_it_is_read(uri: str, bucket: str) -> None:
    names = [f"s3://{bucket}/{key}" for key in (KEYS[1], "absent", KEYS[2])]
    seen: list[object] = []
    for reader in S3IterableDataset.from_objects(names, region="us-east-1"):
        try:
            seen.append(reader.read())
        except S3Exception as error:
            seen.append(str(error))
    assert seen == [BODIES[KEYS[1]], "Service error: The key does not exist", BODIES[KEYS[2]]]


def test_an_error_in_finding_the_objects_comes_after_those_that_were_found(uri: str) -> None:
    def find(client: S3Client) -> Iterator[S3BucketKeyData]:
        yield from get_objects_from_prefix(uri, client)
        raise LookupError("there is no more of the list")

    bodies: list[bytes] = []
    with pytest.raises(LookupError, match="no more of the list"):
        bodies.extend(item.read() for item in S3IterableDataset("us-east-1", find))
    assert bodies == list(BODIES.values())


def test_the_errors_of_a_transform_are_its_own(uri: str) -> None:
    def odd(reader: S3Reader) -> str:
        if reader.key == KEYS[1]:
            raise KeyError(reader.key)
        return reader.key

    iterator = iter(S3IterableDataset.from_prefix(uri, region="us-east-1", transform=odd))
    assert next(iterator) == KEYS[0]
    with pytest.raises(KeyError):
        next(iterator)
    assert next(iterator) == KEYS[2]
    with pytest.raises(KeyError):
        S3MapDataset.from_prefix(uri, region="us-east-1", transform=odd).__getitems__([0, 1])


def test_looking_at_keys_fetches_no_body(uri: str, ahead: list[Recording]) -> None:
    assert [reader.key for reader in S3IterableDataset.from_prefix(uri, region="us-east-1")] == KEYS
    sizes = [reader.seek(0, 2) for reader in S3IterableDataset.from_prefix(uri, region="us-east-1")]
    assert sizes == [len(body) for body in BODIES.values()]
    dataset = S3MapDataset.from_prefix(uri, region="us-east-1", transform=key_of)
    assert dataset.__getitems__([3, 4]) == KEYS[3:5]
    assert [each.taken for each in ahead] == [[], []]


@pytest.mark.parametrize("size", [None, 10])
def test_iteration_takes_bodies_from_the_one_that_reads_ahead(
    size: int | None, uri: str, ahead: list[Recording]
) -> None:
    got = [reader.read(size) for reader in S3IterableDataset.from_prefix(uri, region="us-east-1")]
    assert got == [body[:size] for body in BODIES.values()]
    assert [(each.eager, each.taken) for each in ahead] == [(False, list(range(30)))]


def test_objects_of_unknown_size_are_read_ahead_once_the_first_was_small(
    uri: str, bucket: str, ahead: list[Recording]
) -> None:
    names = [f"s3://{bucket}/{key}" for key in KEYS[1:5]]
    got = [reader.read(10) for reader in S3IterableDataset.from_objects(names, region="us-east-1")]
    assert got == [BODIES[key][:10] for key in KEYS[1:5]]
    assert [each.taken for each in ahead] == [[1, 2, 3]]


def test_a_batch_is_fetched_together(uri: str, ahead: list[Recording]) -> None:
    dataset = S3MapDataset.from_prefix(uri, region="us-east-1", transform=body_of)
    assert dataset.__getitems__([5, 2, 5]) == [(KEYS[i], BODIES[KEYS[i]]) for i in (5, 2, 5)]
    assert [(each.eager, each.taken) for each in ahead] == [(True, [0, 1, 2])]


def test_a_batch_of_a_subclass_goes_through_its_own_access(uri: str) -> None:
    class Numbered(S3MapDataset):
        def __getitem__(self, i: int) -> Any:
            return i, super().__getitem__(i)

    dataset = Numbered.from_prefix(uri, region="us-east-1", transform=key_of)
    assert isinstance(dataset, Numbered)
    assert dataset.__getitems__([3, 1]) == [(3, KEYS[3]), (1, KEYS[1])]


def test_readers_outlive_their_iteration_and_are_read_in_any_order(uri: str) -> None:
    iterator = iter(S3IterableDataset.from_prefix(uri, region="us-east-1"))
    readers = [next(iterator) for _ in range(10)]
    del iterator
    assert [reader.read() for reader in reversed(readers)] == [BODIES[key] for key in reversed(KEYS[:10])]


def test_readers_sent_together_are_fetched_together(uri: str, ahead: list[Recording]) -> None:
    readers = list(S3IterableDataset.from_prefix(uri, region="us-east-1"))[3:6]
    for _ in range(2):
        readers = pickle.loads(pickle.dumps(readers))
    ahead.clear()
    assert readers[2].read() == BODIES[KEYS[5]]
    assert [reader.read() for reader in readers[:2]] == [BODIES[key] for key in KEYS[3:5]]
    assert [(each.eager, each.taken) for each in ahead] == [(True, [2, 0, 1])]
    alone = pickle.loads(pickle.dumps(S3MapDataset.from_prefix(uri, region="us-east-1")[1]))
    assert alone.read() == BODIES[KEYS[1]]


@pytest.mark.parametrize("kind", [S3IterableDataset, S3MapDataset])
def test_datasets_can_be_sent_before_and_after_use(kind: Any, uri: str) -> None:
    dataset = kind.from_prefix(uri, region="us-east-1", transform=body_of)
    for _ in range(2):
        arrived = pickle.loads(pickle.dumps(dataset))
        assert list(arrived) == list(dataset) == list(BODIES.items())


def test_the_list_of_a_map_dataset_is_kept_and_sent(uri: str, bucket: str) -> None:
    dataset = S3MapDataset.from_prefix(uri, region="us-east-1", transform=key_of)
    assert len(dataset) == 30
    S3Checkpoint("us-east-1").writer(f"{uri}new").close()
    assert len(dataset) == len(pickle.loads(pickle.dumps(dataset))) == 30
    assert len(S3MapDataset.from_prefix(uri, region="us-east-1")) == 31


class Upper(SequentialS3Reader):
    """A reader of somebody's own."""

    def read(self, size: int | None = None) -> bytes:
        return super().read(size).hex().encode()


@pytest.mark.parametrize("kind", [S3IterableDataset, S3MapDataset])
def test_a_reader_constructor_is_honoured(kind: Any, uri: str) -> None:
    dataset = kind.from_prefix(uri, region="us-east-1", transform=body_of, reader_constructor=Upper)
    assert list(dataset)[3] == (KEYS[3], BODIES[KEYS[3]].hex().encode())


def test_a_reader_constructor_gets_functions_by_keyword(uri: str, bucket: str) -> None:
    def construct(*, bucket: str, key: str, get_object_info: Any, get_stream: Any) -> Any:
        info = get_object_info()
        return bucket, key, info.size, b"".join(get_stream()), b"".join(get_stream(start=5, end=8))

    dataset: Any = S3MapDataset.from_prefix(uri, region="us-east-1", reader_constructor=construct)
    assert dataset[2] == (bucket, KEYS[2], 200, BODIES[KEYS[2]], b"\x02" * 3)
    unlisted: Any = S3MapDataset.from_objects(f"{uri}002", region="us-east-1", reader_constructor=construct)
    assert unlisted[0] == dataset[2]
    assert dataset[0][2:] == (0, b"", b"")


def test_objects_may_be_found_by_the_caller(uri: str, bucket: str) -> None:
    def find(client: Any) -> Iterator[Any]:
        (page,) = client.list_objects(bucket, "train/")
        assert page.common_prefixes == []
        for info in page.object_info:
            assert info.last_modified > 1_500_000_000
            assert info.etag.startswith('"')
            yield SimpleNamespace(bucket=bucket, key=info.key, object_info=info if info.size % 200 else None)

    assert list(S3IterableDataset("us-east-1", find, transform=body_of)) == list(BODIES.items())
    mapped: Any = S3MapDataset("us-east-1", find)
    assert [reader.seek(0, 2) for reader in mapped] == [len(body) for body in BODIES.values()]


def test_prefixes_of_a_listing(uri: str, bucket: str) -> None:
    (page,) = S3Client("us-east-1").list_objects(bucket, delimiter="/")
    assert page.common_prefixes == ["train/"]
    assert [info.key for info in page.object_info] == ["other"]


def _keys_of_share(count: int, rank: int, world: int, worker: int, workers: int) -> list[str]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "get_worker_info", lambda: SimpleNamespace(id=worker, num_workers=workers))
        torch.distributed.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
        try:
            names = [f"s3://bucket/{number}" for number in range(count)]
            dataset = S3IterableDataset.from_objects(names, region="r", transform=key_of, enable_sharding=True)
        finally:
            torch.distributed.destroy_process_group()
        return list(dataset)


@given(st.integers(0, 40), st.integers(1, 4), st.integers(1, 4))
def test_shards_cover_everything_once(count: int, world: int, workers: int) -> None:
    shares = {
        (rank, worker): _keys_of_share(count, rank, world, worker, workers)
        for rank in range(world)
        for worker in range(workers)
    }
    for (rank, worker), keys in shares.items():
        expected = [i for i in range(count) if i % world == rank and i // world % workers == worker]
        assert keys == [str(i) for i in expected]
    assert sorted(int(key) for keys in shares.values() for key in keys) == list(range(count))
    lengths = [len(keys) for keys in shares.values()]
    assert max(lengths) - min(lengths) <= 1


def test_without_sharding_everybody_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "get_worker_info", lambda: SimpleNamespace(id=1, num_workers=2))
    names = [f"s3://bucket/{number}" for number in range(5)]
    assert len(list(S3IterableDataset.from_objects(names, region="r"))) == 5


def test_the_rank_is_that_of_the_time_of_construction() -> None:
    names = [f"s3://bucket/{number}" for number in range(4)]
    dataset = S3IterableDataset.from_objects(names, region="r", transform=key_of, enable_sharding=True)
    torch.distributed.init_process_group("fake", rank=1, world_size=2, store=FakeStore())
    try:
        assert list(dataset) == ["0", "1", "2", "3"]
    finally:
        torch.distributed.destroy_process_group()
