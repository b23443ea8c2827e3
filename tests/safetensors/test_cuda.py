"""On a GPU, where there is one: what is loaded is what was saved, beside other work there, and memory is bounded."""

from __future__ import annotations

import gc

import pytest
import safetensors.torch
import torch

import s3dlio
from s3dlio.compat.s3torchconnector import S3MapDataset
from s3dlio.config import MiB
from s3dlio.errors import ObjectChangedError
from s3dlio.safetensors import load_file, load_model, safe_open

from .tensors import TYPES, all_bits

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")

PLACE = "memory://cuda/model.safetensors"
DEVICE = "cuda:0"


def saved(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    s3dlio.put(PLACE, safetensors.torch.save(tensors))
    return tensors


def on_the_cpu(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    assert all(tensor.is_cuda for tensor in tensors.values())
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def test_tensors_of_every_type_arrive() -> None:
    bits = torch.randint(0, 256, (len(TYPES), 64), dtype=torch.uint8)
    bits[TYPES.index(torch.bool)] &= 1
    given = saved({str(kind): row.view(kind) for kind, row in zip(TYPES, bits, strict=True)})
    assert all_bits(on_the_cpu(load_file(PLACE, DEVICE))) == all_bits(given)
    opened = safe_open(PLACE, "pt", DEVICE)
    assert all_bits(on_the_cpu({name: opened.get_tensor(name) for name in given})) == all_bits(given)


def test_much_more_than_the_ring_arrives_beside_other_work() -> None:
    given = saved({str(number): torch.randn(1 << 20) for number in range(160)})
    busy = torch.randn(4096, 4096, device=DEVICE)
    for _ in range(50):
        busy = busy @ busy
    found = {name: tensor * 2 for name, tensor in load_file(PLACE, DEVICE).items()}
    assert all_bits(on_the_cpu(found)) == all_bits({name: tensor * 2 for name, tensor in given.items()})


def test_the_memory_of_tensors_that_were_dropped_is_used_again_only_after_the_copies() -> None:
    given = saved({str(number): torch.randn(1 << 20) for number in range(64)})
    for _ in range(5):
        found = load_file(PLACE, DEVICE)
        kept = found.pop("63")
        del found
        noise = [torch.full((1 << 20,), 7.0, device=DEVICE) for _ in range(63)]
        assert torch.equal(kept.cpu(), given["63"])
        assert all(bool((each == 7.0).all()) for each in noise)


def test_a_type_is_given_on_the_way() -> None:
    given = saved({"a": torch.randn(1000, 500), "b": torch.arange(10)})
    expected = {"a": given["a"].bfloat16(), "b": given["b"]}
    assert all_bits(on_the_cpu(load_file(PLACE, DEVICE, dtype=torch.bfloat16))) == all_bits(expected)


def test_rows_arrive() -> None:
    given = saved({"a": torch.randn(1000, 500)})
    rows = safe_open(PLACE, "pt", DEVICE).get_slice("a")[10:20]
    assert rows.is_cuda
    assert torch.equal(rows.cpu(), given["a"][10:20])


def test_a_model_there_gets_its_weights() -> None:
    model, other = (torch.nn.Linear(300, 200) for _ in range(2))
    saved(dict(model.state_dict()))
    other.to(DEVICE)
    assert load_model(other, PLACE, device=DEVICE) == ([], [])
    assert torch.equal(other.weight.cpu(), model.weight)


def test_what_is_replaced_meanwhile_is_an_error_and_nothing_is_held() -> None:
    saved({str(number): torch.randn(1 << 20) for number in range(64)})
    opened, before = safe_open(PLACE, "pt", DEVICE), torch.cuda.memory_allocated()
    saved({str(number): torch.randn(1 << 20) for number in range(64)})
    with pytest.raises(ObjectChangedError):
        opened.get_tensors()
    gc.collect()
    assert torch.cuda.memory_allocated() == before


def test_pinned_memory_is_that_of_the_ring() -> None:
    saved({str(number): torch.randn(1 << 22) for number in range(40)})
    load_file(PLACE, DEVICE)
    assert torch.cuda.host_memory_stats()["allocated_bytes.peak"] <= 300 * MiB


def test_an_object_is_a_pinned_tensor_that_is_copied_there() -> None:
    data = bytes(range(256)) * 1000
    s3dlio.put("memory://cuda/data/one", data)
    tensor = S3MapDataset.from_prefix("memory://cuda/data/", region="us-east-1")[0].tensor(pin_memory=True)
    assert tensor.is_pinned()
    assert bytes(tensor.to(DEVICE, non_blocking=True).cpu().numpy()) == data
