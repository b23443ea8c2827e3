"""Weights in real stores: all of them, some, and rows; which bytes are moved for it, and what goes wrong."""

from __future__ import annotations

import gc
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import s3dlio
from s3dlio.config import Config, KiB, MiB
from s3dlio.errors import FormatError, NotFoundError, ObjectChangedError, UnsupportedError
from s3dlio.safetensors import load_file, load_model, safe_open, save_file

from ..places import place_of
from ..watched import WatchedStore, watched_store
from .tensors import all_bits, bits

SHARDS: list[dict[str, torch.Tensor]] = [
    {"embedding": torch.randn(1000, 700), "steps": torch.tensor(3)},
    {"layer.0": torch.randn(600, 900).bfloat16(), "layer.1": torch.randn(2000, 300)},
    {"small": torch.arange(10)},
]
ALL = {name: tensor for shard in SHARDS for name, tensor in shard.items()}


@pytest.fixture(params=["memory", "s3", "file"])
def folder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of a folder with the shards of a model, written by the original, and their index."""
    with place_of(request.param, request) as place:
        for variable, value in place.environment.items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setenv("S3DLIO_PART_SIZE", str(256 * KiB))
        names = [f"model-{number}.safetensors" for number in range(len(SHARDS))]
        for name, shard in zip(names, SHARDS, strict=True):
            s3dlio.put(f"{place.root}/weights/{name}", safetensors.torch.save(shard, {name: "shard"}))
        weights = {tensor: name for name, shard in zip(names, SHARDS, strict=True) for tensor in shard}
        index = json.dumps({"metadata": {"total_size": 1}, "weight_map": weights})
        s3dlio.put(f"{place.root}/weights/model.safetensors.index.json", index)
        yield f"{place.root}/weights"


def test_a_model_in_shards_is_read_as_the_original_reads_it(folder: str) -> None:
    with safe_open(f"{folder}/model.safetensors.index.json", "pt") as opened:
        assert opened.keys() == sorted(ALL)
        assert opened.metadata() == {f"model-{number}.safetensors": "shard" for number in range(3)}
        assert all_bits(opened.get_tensors()) == all_bits(ALL)
        for name, tensor in ALL.items():
            assert bits(opened.get_tensor(name)) == bits(tensor)
    assert all_bits(load_file(f"{folder}/model-1.safetensors")) == all_bits(SHARDS[1])


def test_what_is_saved_in_a_store_is_the_originals_file(folder: str) -> None:
    save_file(ALL, f"{folder}/whole.safetensors", {"format": "pt"})
    assert s3dlio.get(f"{folder}/whole.safetensors") == safetensors.torch.save(ALL, {"format": "pt"})


def test_rows_are_those_of_the_tensor(folder: str) -> None:
    with safe_open(f"{folder}/model-1.safetensors", "pt") as opened:
        rows = opened.get_slice("layer.1")
        assert (rows.get_shape(), rows.get_dtype()) == ([2000, 300], "F32")
        index: Any
        for index in (
            5,
            -1,
            np.s_[7:9],
            np.s_[1990:],
            np.s_[:, 3],
            np.s_[9, 2:4],
            np.s_[..., -1],
            np.s_[::500],
            [1, 0],
            [1999, 3, 3],
            torch.tensor([[7, 1999], [-1, 0]]),
            torch.arange(2000) % 900 == 0,
            (torch.tensor(5), [3, 1]),
        ):
            assert bits(rows[index].contiguous()) == bits(ALL["layer.1"][index].contiguous())


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> WatchedStore:
    """A store that notes what is read of it, in the place of all others: keys are what follows the scheme."""
    store = watched_store(Config())
    monkeypatch.setattr("s3dlio.safetensors.shards.locate", lambda uri, _config: (store, uri.partition("://")[2]))
    return store


def moved(store: WatchedStore) -> int:
    return sum(end - start for start, end in store.watched.ranges)


def test_a_hundredth_of_a_tensor_moves_no_more_than_it_has(watched: WatchedStore) -> None:
    watched.put("large", safetensors.torch.save({"a": torch.zeros(1), "b": torch.randn(1000, 800)}))
    rows = safe_open("watched://large", "pt").get_slice("b")
    watched.watched.reads.clear()
    assert rows[495:505].shape == (10, 800)
    assert moved(watched) == 10 * 800 * 4
    watched.watched.reads.clear()
    assert rows[[500, 990, 500]].shape == (3, 800)
    assert moved(watched) == 2 * 800 * 4
    watched.watched.reads.clear()
    assert rows[7].shape == (800,)  # of the first MiB, which came with the header
    assert watched.watched.reads == []


def test_a_header_is_one_request_and_a_long_one_another(watched: WatchedStore) -> None:
    watched.put("short", safetensors.torch.save({"a": torch.zeros(1_000_000)}))
    watched.put("long", safetensors.torch.save({"a": torch.zeros(3)}, {"text": "b" * 2 * MiB}))
    safe_open("watched://short", "pt")
    assert watched.watched.ranges == [(0, MiB)]
    watched.watched.reads.clear()
    assert safe_open("watched://long", "pt").keys() == ["a"]
    assert [start for start, _ in watched.watched.ranges] == [0, MiB]


def test_a_large_object_is_read_whole_as_its_checksum_is_of_all_bytes(watched: WatchedStore) -> None:
    data = safetensors.torch.save(SHARDS[1])
    watched.put("large", data)
    opened = safe_open("watched://large", "pt")
    watched.watched.reads.clear()
    assert all_bits(opened.get_tensors()) == all_bits(SHARDS[1])
    assert watched.watched.ranges == [(0, len(data))]


def test_a_small_object_is_one_request(watched: WatchedStore) -> None:
    watched.put("small", safetensors.torch.save(SHARDS[2]))
    assert all_bits(load_file("watched://small")) == all_bits(SHARDS[2])
    assert len(watched.watched.reads) == 1


def test_tensors_are_views_of_one_aligned_memory_that_they_keep() -> None:
    content = {"a": torch.randn(1 << 20), "b": torch.randn(1 << 20), "c": torch.tensor(1.0)}
    s3dlio.put("memory://reading/views", safetensors.torch.save(content))
    found = load_file("memory://reading/views")
    assert found["a"].data_ptr() % 64 == 0
    assert found["b"].data_ptr() - found["a"].data_ptr() == found["a"].nbytes
    last = found["c"]
    del found
    gc.collect()
    other = load_file("memory://reading/views")
    other["c"].fill_(2.0)
    assert last.item() == 1.0


def test_a_narrow_slice_does_not_keep_the_rows() -> None:
    s3dlio.put("memory://reading/narrow", safetensors.torch.save({"a": torch.randn(1000, 1000)}))
    for framework in ("pt", "np"):
        rows = safe_open("memory://reading/narrow", framework).get_slice("a")
        column = rows[:, 3]
        whole = column.untyped_storage().nbytes() if framework == "pt" else column.nbytes
        assert (whole, column.shape) == (4000, (1000,))


def test_an_object_that_is_replaced_is_never_read_in_two_versions(folder: str) -> None:
    uri = f"{folder}/model-1.safetensors"
    opened = safe_open(uri, "pt")
    s3dlio.put(uri, safetensors.torch.save({name: tensor + 1 for name, tensor in SHARDS[1].items()}))
    for read in (opened.get_tensors, lambda: opened.get_tensor("layer.0"), lambda: opened.get_slice("layer.0")[500]):
        with pytest.raises(ObjectChangedError):
            read()


def test_a_new_version_is_seen_also_where_reads_cannot_be_held_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a store whose etags are weak."""
    monkeypatch.setattr("s3dlio.stored.pin_of", lambda meta: None)
    uri = "memory://reading/versions"
    s3dlio.put(uri, safetensors.torch.save(SHARDS[1]))
    opened = safe_open(uri, "pt")
    s3dlio.put(uri, safetensors.torch.save({name: tensor + 1 for name, tensor in SHARDS[1].items()}))
    with pytest.raises(ObjectChangedError):
        opened.get_tensors()


def test_what_is_not_there_is_told_by_its_own_error(folder: str) -> None:
    with pytest.raises(NotFoundError):
        safe_open([f"{folder}/model-0.safetensors", f"{folder}/absent.safetensors"], "pt")
    with pytest.raises(NotFoundError):
        load_file(f"{folder}/absent.safetensors.index.json")
    opened = safe_open(f"{folder}/model-0.safetensors", "np")
    with pytest.raises(KeyError, match="absent"):
        opened.get_tensor("absent")
    with pytest.raises(KeyError, match="absent"):
        opened.get_slice("absent")


@pytest.mark.parametrize(
    "content", [b"", b"\x02", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", random.Random(1).randbytes(2000)]
)
def test_what_is_no_safetensors_object_is_a_typed_error(content: bytes) -> None:
    s3dlio.put("memory://reading/hostile", content)
    with pytest.raises(FormatError, match="hostile"):
        load_file("memory://reading/hostile")


@pytest.mark.parametrize("shape", [[0, 1 << 62], [1] * 70])
def test_a_shape_that_only_one_framework_has_is_a_typed_error_of_the_other(shape: list[int]) -> None:
    size = 0 if 0 in shape else 8
    head = json.dumps({"a": {"dtype": "F64", "shape": shape, "data_offsets": [0, size]}}).encode()
    s3dlio.put("memory://reading/shape", len(head).to_bytes(8, "little") + head + bytes(size))
    with pytest.raises(FormatError, match="no arrays of such a shape"):
        safe_open("memory://reading/shape", "np").get_tensor("a")
    assert safe_open("memory://reading/shape", "pt").get_tensor("a").shape == tuple(shape)


def test_a_shape_that_no_framework_has_is_a_typed_error() -> None:
    head = json.dumps({"a": {"dtype": "F64", "shape": [0, 1 << 63], "data_offsets": [0, 0]}}).encode()
    s3dlio.put("memory://reading/shape", len(head).to_bytes(8, "little") + head)
    for framework in ("pt", "np"):
        with pytest.raises(FormatError, match="of such a shape"):
            safe_open("memory://reading/shape", framework).get_tensor("a")


def test_a_tensor_that_is_in_two_shards_is_an_error() -> None:
    for name in ("one", "two"):
        s3dlio.put(f"memory://reading/{name}", safetensors.torch.save({"a": torch.zeros(1)}))
    with pytest.raises(FormatError, match="'one' has the tensor 'a', too"):
        safe_open(["memory://reading/one", "memory://reading/two"], "pt")


def test_an_index_that_names_what_is_nowhere_is_an_error() -> None:
    s3dlio.put("memory://reading/one", safetensors.torch.save({"a": torch.zeros(1)}))
    s3dlio.put("memory://reading/x.index.json", json.dumps({"weight_map": {"a": "one", "b": "one"}}))
    with pytest.raises(FormatError, match="no object has, such as 'b'"):
        load_file("memory://reading/x.index.json")


def test_what_is_asked_for_in_vain_is_told_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match="one of pt, torch, np, numpy"):
        safe_open("memory://reading/absent", "flax")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not on 'cuda:0'"):
        safe_open("memory://reading/absent", "np", "cuda:0")


def test_half_bytes_are_not_sliced() -> None:
    pairs = torch.zeros(2, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    save_file({"a": pairs}, "memory://reading/pairs")
    with pytest.raises(UnsupportedError, match="4 bits"):
        safe_open("memory://reading/pairs", "pt").get_slice("a")


def test_arrays_are_read_and_written_without_torch() -> None:
    program = """
import sys
import numpy
from s3dlio.safetensors import safe_open, save_file
save_file({"a": numpy.arange(6)}, "memory://bucket/key")
print(safe_open("memory://bucket/key", "np").get_slice("a")[2:4], "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[2 3] False\n", "")


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 4)
        self.head = torch.nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_a_model_is_loaded_with_what_it_has_by_two_names() -> None:
    saved, loaded = Tied(), Tied()
    save_file({"embedding.weight": saved.embedding.weight}, "memory://reading/tied")
    assert load_model(loaded, "memory://reading/tied") == ([], [])
    assert torch.equal(loaded.head.weight, saved.head.weight)


def test_a_model_that_lacks_something_is_an_error_unless_it_may() -> None:
    save_file({"weight": torch.ones(3, 4), "more": torch.zeros(1)}, "memory://reading/other")
    model = torch.nn.Linear(4, 3)
    with pytest.raises(RuntimeError, match=r"missing are \['bias'\], unexpected are \['more'\]"):
        load_model(model, "memory://reading/other")
    assert load_model(model, "memory://reading/other", strict=False) == (["bias"], ["more"])
    assert torch.equal(model.weight, torch.ones(3, 4))
