"""The ring: what goes by way of it arrives whole, whatever the blocks, and no buffer is used before it is free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

import s3dlio
from s3dlio.errors import ObjectChangedError
from s3dlio.safetensors import load_file, safe_open
from s3dlio.safetensors.frameworks import shaped
from s3dlio.safetensors.header import TensorInfo
from s3dlio.safetensors.shards import Located, locate_tensors, open_shards
from s3dlio.safetensors.sharing import ALONE
from s3dlio.safetensors.staging import Staging, plan_blocks
from s3dlio.stored import StoredObject

from .tensors import all_bits

PLACE = "memory://staging/model.safetensors"
TENSORS = {
    "large": torch.randn(700, 900),
    "half": torch.randn(300, 200).half(),
    "count": torch.tensor(7),
    "empty": torch.zeros(0, 4),
    "bytes": torch.arange(250, dtype=torch.uint8),
}


class Late:
    """A device whose copies are made when what follows has to see them, and read their buffers until waited for."""

    def __init__(self) -> None:
        self.buffers = list[torch.Tensor]()
        self.reading = 0
        self._copies = list[Callable[[], object]]()

    def buffer(self, size: int) -> torch.Tensor:
        self.buffers.append(torch.empty(size, dtype=torch.uint8))
        return self.buffers[-1]

    def empty(self, size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.uint8)

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> Callable[[], object]:
        before = source.clone()
        self.reading += 1
        self._copies.append(partial(target.copy_, before))

        def read() -> None:
            assert torch.equal(source, before), "the buffer was used while it was copied from"
            self.reading -= 1

        return read

    def ready(self) -> None:
        while self._copies:
            self._copies.pop()()


@pytest.fixture
def located() -> Mapping[str, Located]:
    s3dlio.put(PLACE, safetensors.torch.save(TENSORS))
    return locate_tensors(open_shards(PLACE, None))


@cache
def a_shard() -> StoredObject:
    s3dlio.put("memory://staging/one", safetensors.torch.save({"one": torch.zeros(1)}))
    return open_shards("memory://staging/one", None)[0].stored


def finished(located: Mapping[str, Located], name: str, data: torch.Tensor) -> torch.Tensor:
    info = located[name].info
    return shaped(data.clone(), info.dtype, info.shape)  # as it is now, not as it will be


@pytest.mark.parametrize("block", [50_021, 1 << 20, 1 << 30])
@pytest.mark.parametrize("buffers", [1, 3])
def test_all_of_it_arrives_in_few_buffers(located: Mapping[str, Located], block: int, buffers: int) -> None:
    device = Late()
    found = Staging(located, device, partial(finished, located), ALONE, block=block, buffers=buffers).run()
    assert [*found] == [*located]
    assert all_bits(found) == all_bits(TENSORS)
    assert device.reading == 0
    assert len(device.buffers) <= buffers
    assert sum(len(buffer) for buffer in device.buffers) <= buffers * block


def test_what_is_replaced_meanwhile_is_an_error(located: Mapping[str, Located]) -> None:
    s3dlio.put(PLACE, safetensors.torch.save({name: tensor + 1 for name, tensor in TENSORS.items()}))
    with pytest.raises(ObjectChangedError):
        Staging(located, Late(), partial(finished, located), ALONE, block=100_000, buffers=2).run()


def test_a_type_is_given_to_floating_point_numbers_alone(located: Mapping[str, Located]) -> None:
    found = load_file(PLACE, dtype=torch.bfloat16)
    expected = {name: each.bfloat16() if each.is_floating_point() else each for name, each in TENSORS.items()}
    assert all_bits(found) == all_bits(expected)


def test_a_device_that_is_not_the_cpu_gets_all_tensors(located: Mapping[str, Located]) -> None:
    opened = safe_open(PLACE, "pt", "meta")
    kinds = {name: (tensor.shape, tensor.dtype) for name, tensor in TENSORS.items()}
    assert {name: (each.shape, each.dtype) for name, each in opened.get_tensors().items()} == kinds
    one, rows = opened.get_tensor("large"), opened.get_slice("large")[2:5]
    assert (one.shape, one.device.type, rows.shape, rows.device.type) == ((700, 900), "meta", (3, 900), "meta")


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(1, 40))
def test_blocks_hold_every_byte_once_and_in_order(sizes: list[int], size: int) -> None:
    tensors, start = {}, 13
    shard = a_shard()
    for number, length in enumerate(sizes):
        tensors[str(number)] = Located(shard, TensorInfo("U8", (length,), start, start + length))
        start += length
    blocks = [*plan_blocks(tensors, size)]
    pieces = [piece for block in blocks for piece in block]
    assert [(piece.name, position) for piece in pieces for position in range(piece.start, piece.end)] == [
        (name, position) for name, (_, info) in tensors.items() for position in range(info.start, info.end)
    ]
    assert all(block[-1].end - block[0].start <= size for block in blocks)
    assert len(blocks) == -(-sum(sizes) // size)
