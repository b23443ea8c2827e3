"""Any tensors, written by us and read by the original, and the other way round: the same to the last bit."""

from __future__ import annotations

import json
from collections import defaultdict

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import s3dlio
from s3dlio.errors import UnsupportedError
from s3dlio.safetensors import load_file, safe_open, save_file

from .tensors import NAMES, TYPES, all_bits, bits, tensors

PLACE = "memory://round-trips/model.safetensors"
_METADATA = st.none() | st.dictionaries(st.text(max_size=8), st.text(max_size=8), min_size=1, max_size=1)
"""The original writes more in random order, and none, of no tensors, as what is no JSON."""


@settings(max_examples=60)
@given(st.dictionaries(NAMES, tensors(), max_size=6), _METADATA)
def test_an_object_is_the_originals_file_to_the_byte(
    given: dict[str, torch.Tensor], metadata: dict[str, str] | None
) -> None:
    save_file(given, PLACE, metadata)
    assert s3dlio.get(PLACE) == safetensors.torch.save(given, metadata)
    with safe_open(PLACE, "pt") as opened:
        assert opened.metadata() == metadata
        assert opened.keys() == sorted(given)
        assert all_bits(opened.get_tensors()) == all_bits(given)
        assert {name: bits(opened.get_tensor(name)) for name in opened.offset_keys()} == all_bits(given)


@settings(max_examples=40)
@given(st.dictionaries(NAMES, st.tuples(tensors(), st.integers(0, 2)), min_size=1, max_size=6))
def test_any_split_into_shards_is_read_as_one(given: dict[str, tuple[torch.Tensor, int]]) -> None:
    shards: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, (tensor, number) in given.items():
        shards[f"model-{number}.safetensors"][name] = tensor
    for shard, content in shards.items():
        s3dlio.put(f"memory://shards/{shard}", safetensors.torch.save(content))
    index = {"metadata": {}, "weight_map": {name: f"model-{number}.safetensors" for name, (_, number) in given.items()}}
    s3dlio.put("memory://shards/model.safetensors.index.json", json.dumps(index))
    expected = all_bits({name: tensor for name, (tensor, _) in given.items()})
    assert all_bits(load_file([f"memory://shards/{shard}" for shard in shards])) == expected
    assert all_bits(load_file("memory://shards/model.safetensors.index.json")) == expected


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_numpy_reads_what_it_has_types_for(kind: torch.dtype) -> None:
    tensor = torch.arange(1, 49, dtype=torch.uint8).reshape(6, 8).remainder(2).view(kind)
    save_file({"a": tensor}, PLACE)
    with safe_open(PLACE, "np") as opened:
        try:
            expected = safetensors.numpy.load(s3dlio.get(PLACE))
        except KeyError:
            with pytest.raises(UnsupportedError, match="NumPy has no type for"):
                opened.get_tensor("a")
        else:
            assert bits(opened.get_tensor("a")) == bits(expected["a"])
            assert all_bits(opened.get_tensors()) == all_bits(expected)


def test_numpy_writes_what_the_original_does() -> None:
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
        "scalar": np.array(3.5),
        "empty": np.zeros((0, 3), np.int16),
        "columns": np.arange(12, dtype=np.uint32).reshape(3, 4)[:, 1:3],
        "big-endian": np.arange(5, dtype=">f4"),
        "truth": np.array([True, False]),
    }
    save_file(arrays, PLACE)
    assert s3dlio.get(PLACE) == safetensors.numpy.save({name: array.copy() for name, array in arrays.items()})


@pytest.mark.parametrize(
    ("tensor", "error"),
    [
        (torch.zeros(3, 4).T, TypeError),
        (torch.zeros(3, 4).to_sparse(), TypeError),
        ([1.0], TypeError),
        (torch.zeros(3, dtype=torch.complex128), UnsupportedError),
        (np.zeros(3, "datetime64[s]"), UnsupportedError),
    ],
)
def test_what_cannot_be_written_leaves_no_object(tensor: torch.Tensor, error: type[Exception]) -> None:
    with pytest.raises(error):
        save_file({"a": torch.zeros(2), "b": tensor}, "memory://round-trips/none")
    assert not s3dlio.exists("memory://round-trips/none")


def test_tensors_that_another_writer_did_not_sort_lie_as_they_have_to() -> None:
    tensors = {
        "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "b": {"dtype": "F64", "shape": [2], "data_offsets": [3, 19]},
    }
    head = json.dumps(tensors).encode()
    s3dlio.put(PLACE, len(head).to_bytes(8, "little") + head + b"abc" + np.array([1.5, 2.5]).tobytes())
    arrays = safe_open(PLACE, "np").get_tensors()
    assert (arrays["b"].tolist(), arrays["b"].flags.aligned) == ([1.5, 2.5], True)
    tensor = load_file(PLACE)["b"]
    assert (tensor.tolist(), tensor.data_ptr() % 8) == ([1.5, 2.5], 0)
