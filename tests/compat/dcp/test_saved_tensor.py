"""A tensor found in the archive that `torch.save` wrote is the one that `torch.load` makes of it."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.compat.s3torchconnector.dcp.saved_tensor import (
    EdgesFile,
    SavedTensor,
    ViewFile,
    find_tensor,
    load_tensor,
)

PLAIN = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64, torch.complex64, torch.complex128,
]  # fmt: skip
SHAPES = st.lists(st.integers(1, 5), max_size=4)


def archive(value: object, *, before: int = 0) -> memoryview:
    """What `torch.save` writes, in the middle of other bytes: `before` of them come first."""
    file = io.BytesIO()
    torch.save(value, file)
    return memoryview(bytearray(before) + bytearray(file.getvalue()))[before:]


def filled(shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)


def alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (one.dtype, one.shape, one.stride()) == (other.dtype, other.shape, other.stride()) and torch.equal(
        one, other
    )


@given(SHAPES, st.sampled_from(PLAIN), st.integers(0, 17), st.randoms(use_true_random=False))
def test_a_plain_tensor_of_any_type_and_strides_is_found(
    shape: list[int], dtype: torch.dtype, before: int, random: Callable[..., float]
) -> None:
    order = list(range(len(shape)))
    random.shuffle(order)  # type: ignore[attr-defined]
    tensor = filled(shape, dtype).permute(order)
    view = archive(tensor, before=before)
    found = find_tensor(ViewFile(view))
    assert found is not None
    assert alike(found.of(view), tensor)
    assert found.of(view).data_ptr() % dtype.itemsize == 0
    assert alike(load_tensor(view), torch.load(io.BytesIO(view), weights_only=True))


def test_the_memory_of_the_archive_is_the_tensors_own() -> None:
    view = archive(torch.zeros(1000))
    found = find_tensor(ViewFile(view))
    assert found is not None
    view[found.begin : found.begin + 4] = torch.tensor([7.0]).numpy().tobytes()
    assert found.of(view)[0] == 7


def test_a_part_of_a_larger_storage_is_found() -> None:
    tensor = torch.arange(100.0)[10:30:2]
    view = archive(tensor)
    assert alike(load_tensor(view), tensor)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")  # by torch.load, from PyTorch 2.15 on
@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(0),
        torch.zeros(3, dtype=torch.uint16),
        torch.zeros(3).to(torch.float8_e4m3fn),
        torch.zeros(3, dtype=torch.complex64).conj(),
        torch.nn.Parameter(torch.ones(3)),
        torch.eye(3).to_sparse(),
        {"tensor": torch.ones(3)},
    ],
    ids=["empty", "uint16", "float8", "conjugated", "parameter", "sparse", "in a dictionary"],
)
def test_what_is_no_plain_tensor_is_left_to_torch(value: object) -> None:
    view = archive(value)
    assert find_tensor(ViewFile(view)) is None
    loaded, expected = load_tensor(view), torch.load(io.BytesIO(view), weights_only=True)
    assert type(loaded) is type(expected)
    assert str(loaded) == str(expected)


def test_the_older_format_is_left_to_torch() -> None:
    file = io.BytesIO()
    torch.save(torch.ones(3), file, _use_new_zipfile_serialization=False)
    view = memoryview(bytearray(file.getvalue()))
    assert find_tensor(ViewFile(view)) is None
    assert torch.equal(load_tensor(view), torch.ones(3))


class Malicious:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return exec, ("raise SystemExit('this ran')",)


def test_nothing_in_the_archive_is_called() -> None:
    view = archive(Malicious())
    assert find_tensor(ViewFile(view)) is None
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        load_tensor(view)


@given(st.binary(max_size=300))
def test_noise_is_no_tensor(noise: bytes) -> None:
    assert find_tensor(ViewFile(memoryview(bytearray(noise)))) is None


@given(st.data())
def test_a_damaged_archive_raises_or_is_a_tensor_but_never_crashes(data: st.DataObject) -> None:
    view = archive(torch.arange(10.0))
    position = data.draw(st.integers(0, len(view) - 1))
    view[position] ^= data.draw(st.integers(1, 255))
    found = find_tensor(ViewFile(view))
    assert found is None or 0 < found.begin < found.end


@given(st.lists(st.tuples(st.sampled_from(["read", "seek"]), st.integers(0, 40), st.sampled_from([0, 1, 2]))))
def test_a_view_is_a_file(steps: list[tuple[str, int, int]]) -> None:
    content = bytes(range(30))
    ours, model = ViewFile(memoryview(content)), io.BytesIO(content)
    for kind, number, whence in steps:
        if kind == "read":
            assert ours.read(number) == model.read(number)
        else:
            assert ours.seek(number, whence) == model.seek(number, whence)
        assert ours.tell() == model.tell()


def test_a_view_has_nothing_before_its_start() -> None:
    with pytest.raises(ValueError, match="negative seek value -1"):
        ViewFile(memoryview(b"abc")).seek(-1)


# By the edges


def test_the_edges_of_an_archive_say_where_the_tensor_is() -> None:
    view = archive(torch.arange(100_000.0).reshape(100, 1000))
    edges = EdgesFile(view[:4096], view[-4096:], len(view))
    assert find_tensor(edges) == find_tensor(ViewFile(view))


def test_what_is_not_there_cannot_be_read() -> None:
    edges = EdgesFile(memoryview(b"abc"), memoryview(b"xyz"), 10)
    assert (edges.read(3), edges.seek(-3, io.SEEK_END), edges.read(9)) == (b"abc", 7, b"xyz")
    for position in (1, 3, 6):
        edges.seek(position)
        with pytest.raises(EOFError):
            edges.read(3)


def test_edges_too_narrow_find_nothing() -> None:
    view = archive(torch.zeros(100_000))
    assert find_tensor(EdgesFile(view[:64], view[-64:], len(view))) is None


@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.sampled_from(PLAIN), st.data())
def test_rows_of_a_plain_tensor_are_one_range(shape: list[int], dtype: torch.dtype, data: st.DataObject) -> None:
    tensor = filled(shape, dtype)
    view = archive(tensor)
    found = find_tensor(ViewFile(view))
    assert found is not None
    first = data.draw(st.integers(0, shape[0] - 1))
    count = data.draw(st.integers(1, shape[0] - first))
    rows = found.rows([first, *[0] * (len(shape) - 1)], [count, *shape[1:]])
    assert rows is not None
    expected = tensor[first : first + count].contiguous().view(torch.uint8).numpy().tobytes()
    assert view[rows[0] : rows[1]] == expected


def test_what_is_not_whole_rows_is_no_range() -> None:
    saved = SavedTensor(0, 96, torch.float32, 0, (4, 6), (6, 1))
    assert saved.rows([1, 0], [2, 6]) == (24, 72)
    assert saved.rows([0, 1], [4, 5]) is None
    assert saved.rows([0, 0], [4, 5]) is None
    assert SavedTensor(0, 96, torch.float32, 0, (6, 4), (1, 6)).rows([0, 0], [6, 4]) is None
    assert SavedTensor(0, 96, torch.float32, 2, (4, 5), (5, 1)).rows([0, 0], [4, 5]) is None
    assert SavedTensor(0, 4, torch.float32, 0, (), ()).rows([], []) is None
