"""Any tensors, as bytes, a type and a shape: for comparing what is the same to the last bit, NaNs among it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from hypothesis import strategies as st

TYPES = (
    *(torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64),
    *(torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu),
    torch.float4_e2m1fn_x2,
)
Bits = tuple[str, tuple[int, ...], bytes]


def bits(tensor: Any) -> Bits:
    """Type, shape and bytes of a tensor or an array."""
    if isinstance(tensor, torch.Tensor):
        data = tensor.reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0)
        return str(tensor.dtype), tuple(tensor.shape), data.numpy().tobytes()
    return f"torch.{tensor.dtype.name}", tuple(tensor.shape), tensor.tobytes()


def all_bits(tensors: Mapping[str, Any]) -> dict[str, Bits]:
    return {name: bits(tensor) for name, tensor in tensors.items()}


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """One of any type and of a few numbers, of any bits."""
    kind = draw(st.sampled_from(TYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3).map(tuple))
    if kind == torch.float4_e2m1fn_x2 and not shape:
        shape = (1,)
    count = torch.Size(shape).numel()
    if not count:
        return torch.empty(shape, dtype=kind)
    size = count * kind.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    if kind == torch.bool:
        data = bytes(byte % 2 for byte in data)
    return torch.frombuffer(bytearray(data), dtype=kind).reshape(shape)


NAMES = st.text(max_size=8).filter(lambda name: name != "__metadata__")
"""Any but the format's own."""
