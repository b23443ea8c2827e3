"""Items on their way from files to tensors: what is fetched, what is copied, what becomes of errors."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import _StorageInfo, _StorageReaderTransforms
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlanner, ReadItem

from s3dlio.blocking.gather import Gather
from s3dlio.compat.s3torchconnector import S3Exception
from s3dlio.compat.s3torchconnector._s3client import S3Client
from s3dlio.compat.s3torchconnector.dcp import loading
from s3dlio.compat.s3torchconnector.dcp.loading import FileItems, load_items
from s3dlio.errors import ObjectChangedError

from ...servers.seaweedfs import SeaweedFS
from .conftest import Notes

KEY = "checkpoint/__0_0.distcp"


class Planner(LoadPlanner):
    """Gives out tensors by name, and takes notes."""

    def __init__(self, targets: dict[str, torch.Tensor]) -> None:
        self.targets = targets
        self.committed: list[str] = []
        self.bytes: dict[str, bytes] = {}

    def set_up_planner(self, *arguments: Any, **rest: Any) -> None:
        raise NotImplementedError

    def create_local_plan(self) -> Any:
        raise NotImplementedError

    def create_global_plan(self, global_plan: Any) -> Any:
        raise NotImplementedError

    def finish_plan(self, central_plan: Any) -> Any:
        raise NotImplementedError

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        self.bytes[read_item.dest_index.fqn] = value.read()

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        return self.targets[read_item.dest_index.fqn]

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        self.committed.append(read_item.dest_index.fqn)


class File:
    """A file of a checkpoint in the making, and the items to load from it."""

    def __init__(self) -> None:
        self.content = bytearray()
        self.where: dict[MetadataIndex, _StorageInfo] = {}
        self.items: list[ReadItem] = []

    def add(self, name: str, value: torch.Tensor | bytes, *, gap: int = 0) -> None:
        """Save something, `gap` bytes after what is there."""
        self.content += bytes(gap)
        body = value if isinstance(value, bytes) else _saved(value)
        self.where[MetadataIndex(name)] = _StorageInfo("__0_0.distcp", len(self.content), len(body))
        self.content += body

    def want(
        self,
        saved: str,
        target: str | None = None,
        offsets: Sequence[int] = (),
        lengths: Sequence[int] | None = None,
    ) -> None:
        """Load it, or the part of it from `offsets`; without `lengths` it is no tensor."""
        kind = LoadItemType.BYTE_IO if lengths is None else LoadItemType.TENSOR
        sizes = torch.Size(offsets), torch.Size(lengths or ())
        begin = torch.Size([0] * len(offsets))
        self.items.append(ReadItem(kind, MetadataIndex(target or saved), begin, MetadataIndex(saved), *sizes))

    def want_whole(self, name: str, shape: Sequence[int]) -> None:
        """Load a whole tensor."""
        self.want(name, name, [0] * len(shape), shape)


def _saved(tensor: torch.Tensor) -> bytes:
    file = io.BytesIO()
    torch.save(tensor, file)
    return file.getvalue()


Load = Callable[..., Planner]


@pytest.fixture
def load(s3_environment: SeaweedFS, bucket: str) -> Load:
    """Puts a file on the server, and loads what is wanted of it."""

    def loaded(file: File, targets: dict[str, torch.Tensor], *, max_gap: float = 0) -> Planner:
        client, planner = S3Client("us-east-1"), Planner(targets)
        client.store(bucket).put(KEY, bytes(file.content))
        files = [FileItems(client.stored_object(bucket, KEY), file.items, file.where)]
        load_items(files, planner, _StorageReaderTransforms(), max_gap)
        return planner

    return loaded


@pytest.fixture(params=[loading.DIRECT_FROM, 1], ids=["copied", "direct"])
def threshold(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """From which size tensors are received in place. The edges are made smaller than the tensors of these tests."""
    monkeypatch.setattr(loading, "DIRECT_FROM", request.param)
    monkeypatch.setattr(loading, "_EDGE", 1024)
    return int(request.param)


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tensors are large."""
    monkeypatch.setattr(loading, "DIRECT_FROM", 1)
    monkeypatch.setattr(loading, "_EDGE", 1024)


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)


@pytest.mark.usefixtures("threshold")
def test_tensors_and_objects_arrive(load: Load) -> None:
    file = File()
    saved = {"a": numbers(40, 30), "b": numbers(7, 5, 90, dtype=torch.bfloat16), "c": numbers(900, dtype=torch.int64)}
    for name, tensor in saved.items():
        file.add(name, tensor)
        file.want_whole(name, tensor.shape)
    file.add("object", b"some bytes")
    file.want("object")
    targets = {name: torch.zeros_like(tensor) for name, tensor in saved.items()}
    planner = load(file, targets)
    assert all(torch.equal(targets[name], saved[name]) for name in saved)
    assert sorted(planner.committed) == sorted(saved)
    assert planner.bytes == {"object": b"some bytes"}


@pytest.mark.usefixtures("threshold")
@given(data=st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_parts_of_a_tensor_arrive(load: Load, data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(600,), (30, 25), (9, 10, 11)]))
    tensor = numbers(*shape)
    file, targets, expected = File(), {}, {}
    file.add("tensor", tensor)
    for number in range(data.draw(st.integers(1, 4))):
        offsets = [data.draw(st.integers(0, size - 1)) for size in shape]
        lengths = [data.draw(st.integers(1, size - offset)) for size, offset in zip(shape, offsets, strict=True)]
        name = f"part {number}"
        file.want("tensor", name, offsets, lengths)
        targets[name] = torch.zeros(lengths)
        expected[name] = tensor[tuple(slice(o, o + n) for o, n in zip(offsets, lengths, strict=True))]
    load(file, targets)
    assert all(torch.equal(targets[name], expected[name]) for name in expected)


@pytest.mark.usefixtures("threshold")
@pytest.mark.parametrize(
    "target",
    [
        torch.zeros(40, 30, dtype=torch.float64),
        torch.zeros(30, 40).t(),
        torch.zeros(40, 60)[:, ::2],
        torch.zeros(40, 30, requires_grad=True),
        torch.zeros(40, 30, dtype=torch.complex64).imag,
    ],
    ids=["another type", "transposed", "with gaps", "with a gradient", "a view of something else"],
)
def test_a_tensor_that_is_laid_out_in_another_way_is_filled(target: torch.Tensor, load: Load) -> None:
    file = File()
    file.add("tensor", numbers(40, 30))
    file.want_whole("tensor", (40, 30))
    load(file, {"tensor": target})
    assert torch.equal(target.detach().float(), numbers(40, 30))


@pytest.mark.usefixtures("threshold")
def test_what_torch_load_alone_understands_arrives(load: Load) -> None:
    file = File()
    saved = {"parameter": torch.nn.Parameter(numbers(50, 50)), "transposed": numbers(30, 40).t(), "small": numbers()}
    for name, tensor in saved.items():
        file.add(name, tensor)
        file.want_whole(name, tensor.shape)
    targets = {name: torch.full_like(tensor.detach(), 9) for name, tensor in saved.items()}
    load(file, targets)
    assert all(torch.equal(targets[name], saved[name]) for name in saved)


@pytest.mark.usefixtures("threshold")
def test_a_size_that_does_not_fit_is_an_error(load: Load) -> None:
    file = File()
    file.add("tensor", numbers(40, 30))
    file.want_whole("tensor", (40, 30))
    with pytest.raises(AssertionError, match="mismatch sizes"):
        load(file, {"tensor": torch.zeros(40, 31)})


def test_only_what_is_wanted_is_fetched(load: Load, notes: Notes) -> None:
    file = File()
    for name in "abcd":
        file.add(name, numbers(100, 100), gap=50)
    for name in "ad":
        file.want_whole(name, (100, 100))
    targets = {name: torch.zeros(100, 100) for name in "ad"}
    load(file, targets)
    where = [file.where[MetadataIndex(name)] for name in "ad"]
    assert sorted(notes.ranges) == [(KEY, each.offset, each.offset + each.length) for each in where]


def test_ranges_near_each_other_share_a_request(load: Load, notes: Notes) -> None:
    file, targets = File(), {}
    for number in range(20):
        file.add(str(number), numbers(10, 10), gap=100)
        file.want_whole(str(number), (10, 10))
        targets[str(number)] = torch.zeros(10, 10)
    load(file, targets, max_gap=100)
    assert len(notes.ranges) == 1
    assert all(torch.equal(target, numbers(10, 10)) for target in targets.values())


def test_a_range_that_several_items_want_is_fetched_once(load: Load, notes: Notes) -> None:
    file, targets = File(), {}
    file.add("tensor", numbers(40, 30))
    for rank in range(4):
        name = f"shard {rank}"
        file.want("tensor", name, [rank * 10, 0], [10, 30])
        targets[name] = torch.zeros(10, 30)
    load(file, targets)
    assert len(notes.ranges) == 1
    assert torch.equal(torch.cat(list(targets.values())), numbers(40, 30))


def test_of_a_large_tensor_only_the_rows_that_are_wanted_are_received(
    load: Load, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "DIRECT_FROM", 1 << 20)
    file = File()
    file.add("tensor", numbers(1000, 1000))
    file.want("tensor", "shard", [250, 0], [250, 1000])
    target = torch.zeros(250, 1000)
    load(file, {"shard": target})
    assert torch.equal(target, numbers(1000, 1000)[250:500])
    fetched = sum(end - start for _, start, end in notes.ranges)
    assert fetched == target.nbytes + 2 * loading._EDGE


@pytest.mark.usefixtures("in_place")
def test_each_large_tensor_is_laid_out_as_its_own_archive_says(load: Load) -> None:
    file = File()
    saved = {"plain": numbers(30, 30), "transposed": numbers(30, 30).t(), "plain again": numbers(30, 30) + 1}
    for name, tensor in saved.items():
        file.add(name, tensor)
        file.want_whole(name, tensor.shape)
    targets = {name: torch.zeros(30, 30) for name in saved}
    load(file, targets)
    assert all(torch.equal(targets[name], saved[name]) for name in saved)


@pytest.mark.usefixtures("in_place")
def test_no_view_is_looked_at_after_the_next_one(load: Load, notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of a view that was given up may hold anything; here it is overwritten at once."""
    view, last = Gather.view, [(-1, memoryview(bytearray()))]

    def reused(self: Gather, number: int, position: int) -> memoryview:
        given_up, given = last[0], (position, view(self, number, position))
        if given_up[0] != position:
            given_up[1][:] = bytes(len(given_up[1]))
        last[0] = given
        return given[1]

    monkeypatch.setattr(Gather, "view", reused)
    file = File()
    file.add("tensor", numbers(40, 30))
    file.want("tensor", "shard", [10, 0], [10, 30])
    target = torch.zeros(10, 30)
    load(file, {"shard": target})
    assert torch.equal(target, numbers(40, 30)[10:20])
    assert sum(end - start for _, start, end in notes.ranges) == target.nbytes + 2 * loading._EDGE


# Errors


@pytest.mark.usefixtures("in_place")
@pytest.mark.parametrize("tensor", [numbers(40, 30), numbers(30, 40).t()], ids=["received in place", "by a buffer"])
def test_a_file_that_is_replaced_after_its_edges_were_read_is_an_error(
    tensor: torch.Tensor, load: Load, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = File()
    file.add("tensor", tensor)
    file.want_whole("tensor", (40, 30))
    resolve = Planner.resolve_tensor

    def replaced(self: Planner, read_item: ReadItem) -> torch.Tensor:
        S3Client("us-east-1").store(bucket).put(KEY, _saved(tensor + 1))
        return resolve(self, read_item)

    monkeypatch.setattr(Planner, "resolve_tensor", replaced)
    with pytest.raises(S3Exception) as caught:
        load(file, {"tensor": torch.zeros(40, 30)})
    assert isinstance(caught.value.__cause__, ObjectChangedError)


@pytest.mark.usefixtures("threshold")
def test_an_absent_file_is_an_s3_exception(s3_environment: SeaweedFS, bucket: str) -> None:
    file = File()
    file.add("tensor", numbers(40, 30))
    file.want_whole("tensor", (40, 30))
    client = S3Client("us-east-1")
    files = [FileItems(client.stored_object(bucket, "absent"), file.items, file.where)]
    with pytest.raises(S3Exception, match="Service error: The key does not exist") as caught:
        load_items(files, Planner({"tensor": torch.zeros(40, 30)}), _StorageReaderTransforms(), 0)
    assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.usefixtures("threshold")
def test_a_file_that_is_too_short_is_an_error(load: Load) -> None:
    file = File()
    file.add("tensor", numbers(40, 30))
    file.want_whole("tensor", (40, 30))
    del file.content[-2000:]
    with pytest.raises(S3Exception):
        load(file, {"tensor": torch.zeros(40, 30)})


def test_nothing_is_received_into_a_tensor_after_an_error(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of several large tensors cannot be committed: the jobs of the others have ended when that is known."""
    monkeypatch.setattr(loading, "DIRECT_FROM", 1 << 20)
    file, targets = File(), {}
    for number in range(4):
        file.add(str(number), numbers(1000, 1000))
        file.want_whole(str(number), (1000, 1000))
        targets[str(number)] = torch.zeros(1000, 1000)
    begun: list[Any] = []
    begin = loading._Arrivals.expect

    def noted(self: Any, item: ReadItem, target: torch.Tensor, job: Any) -> None:
        begun.append(job)
        begin(self, item, target, job)

    def refuse(self: Planner, read_item: ReadItem, tensor: torch.Tensor) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(loading._Arrivals, "expect", noted)
    monkeypatch.setattr(Planner, "commit_tensor", refuse)
    with pytest.raises(RuntimeError, match="no"):
        load(file, targets)
    assert len(begun) == 4
    assert not any(job._done.locked() for job in begun)


def test_transforms_that_pytorch_does_not_know_are_an_error(s3_environment: SeaweedFS, bucket: str) -> None:
    file = File()
    file.add("tensor", numbers(40, 30))
    file.want_whole("tensor", (40, 30))
    stored = file.where[MetadataIndex("tensor")]
    file.where[MetadataIndex("tensor")] = dataclasses.replace(stored, transform_descriptors=["zstd"])
    client = S3Client("us-east-1")
    client.store(bucket).put(KEY, bytes(file.content))
    files = [FileItems(client.stored_object(bucket, KEY), file.items, file.where)]
    with pytest.raises(ValueError, match="was saved with \\['zstd'\\], new to this PyTorch"):
        load_items(files, Planner({"tensor": torch.zeros(40, 30)}), None, 0)


def test_what_older_pytorch_saved_has_no_word_of_transforms(load: Load) -> None:
    """Before 2.7 neither the stored information nor the reader knows them."""
    file = File()
    file.add("tensor", numbers(40, 30))
    file.want_whole("tensor", (40, 30))
    del file.where[MetadataIndex("tensor")].__dict__["transform_descriptors"]
    target = torch.zeros(40, 30)
    load(file, {"tensor": target})
    assert torch.equal(target, numbers(40, 30))


def test_an_empty_range_needs_no_request(load: Load, notes: Notes) -> None:
    file = File()
    file.add("nothing", b"")
    file.want("nothing")
    assert load(file, {}).bytes == {"nothing": b""}
    assert not notes.ranges


def test_no_items_need_nothing() -> None:
    load_items([], Planner({}), SimpleNamespace(), 0)  # type: ignore[arg-type]
