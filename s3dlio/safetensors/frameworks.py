"""Bytes as tensors of NumPy and PyTorch, and the other way round. PyTorch is imported by those who ask for it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

from ..blocking.contents import buffer_of
from ..errors import FormatError, UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

_NUMPY = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "C64": "<c8",
}
_TORCH = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F4": "float4_e2m1fn_x2",
}
_PAIRS = "F4"
"""The type of which PyTorch counts pairs, along the last dimension."""


class Framework(Protocol):
    """Makes tensors of bytes, where they lie."""

    def device(self, device: str | int | torch.device) -> torch.device | None:
        """Where tensors are wanted, `None` for the CPU. Errors: `ValueError` for a `device` that has none."""

    def tensor(self, data: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> Any:
        """The tensor of `shape` that `data` holds; `dtype` is the format's name of its type.

        Errors: `UnsupportedError` for a type that the framework lacks; `FormatError` for a shape that it cannot have.
        """

    def copied(self, tensor: Any) -> Any:
        """The same numbers as `tensor`, in memory of their own."""


class NumPy:
    """Arrays."""

    def device(self, device: str | int | torch.device) -> None:
        """See :class:`Framework`, as for all of these."""
        if str(device) != "cpu":
            raise ValueError(f"NumPy has arrays on the CPU alone, not on {str(device)!r}")

    def tensor(self, data: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """See there."""
        import numpy as np

        if dtype not in _NUMPY:
            raise UnsupportedError(f"NumPy has no type for {dtype}; PyTorch may have: framework='pt'")
        try:
            return _aligned(data, np.dtype(_NUMPY[dtype]).itemsize).view(_NUMPY[dtype]).reshape(shape)
        except ValueError as error:
            raise FormatError(f"NumPy has no arrays of such a shape: {error}") from None

    def copied(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """See there."""
        return tensor.copy()


class PyTorch:
    """Tensors."""

    def device(self, device: str | int | torch.device) -> torch.device | None:
        """See :class:`Framework`, as for all of these."""
        import torch

        found = torch.device(device)
        return None if found.type == "cpu" else found

    def tensor(self, data: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
        """See there."""
        import torch

        return shaped(torch.from_numpy(_aligned(data, torch_type(dtype).itemsize)), dtype, shape)

    def copied(self, tensor: torch.Tensor) -> torch.Tensor:
        """See there."""
        return tensor.clone()


FRAMEWORKS: dict[str, type[Framework]] = {"pt": PyTorch, "torch": PyTorch, "np": NumPy, "numpy": NumPy}
"""By the names that the original knows them by."""


def torch_type(dtype: str) -> torch.dtype:
    """PyTorch's type by the format's name of it. Errors: `UnsupportedError` where the installed one has none."""
    import torch

    kind = getattr(torch, _TORCH.get(dtype, ""), None)
    if kind is None:
        raise UnsupportedError(f"PyTorch {torch.__version__} has no type for {dtype}")
    assert isinstance(kind, torch.dtype)
    return kind


def shaped(data: torch.Tensor, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor of the format's `dtype` and `shape` whose bytes are `data`. Errors: as of :class:`Framework`."""
    import torch

    if dtype == _PAIRS:
        shape = (*shape[:-1], shape[-1] // 2)
    kind = torch_type(dtype)
    try:  # of no bytes, PyTorch has no views of other types
        return (data.view(kind) if len(data) else torch.empty(0, dtype=kind, device=data.device)).reshape(shape)
    except (RuntimeError, TypeError, ValueError) as error:
        raise FormatError(f"PyTorch has no tensors of such a shape: {error}") from None


def _aligned(data: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """`data`, or a copy where it does not lie as numbers of `size` bytes have to: not every writer sorts by size."""
    return data if data.ctypes.data % size == 0 else data.copy()


def described(name: str, tensor: Any) -> tuple[str, tuple[int, ...]]:
    """The format's name for the type of `tensor`, and its shape.

    Errors: `UnsupportedError` for a type that the format lacks; `TypeError` for what is no dense tensor.
    """
    names, kind = _names_for(name, tensor)
    if kind not in names:
        raise UnsupportedError(f"the safetensors format has no type for {name!r}, of {kind}")
    shape = tuple(tensor.shape)
    if names[kind] == _PAIRS:
        shape = (*shape[:-1], 2 * shape[-1])
    return names[kind], shape


def _names_for(name: str, tensor: Any) -> tuple[dict[str, str], str]:
    import numpy as np

    torch = sys.modules.get("torch")
    if torch is not None and isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
        return {kind: dtype for dtype, kind in _TORCH.items()}, str(tensor.dtype).removeprefix("torch.")
    if isinstance(tensor, np.ndarray | np.generic):
        return {np.dtype(kind).name: dtype for dtype, kind in _NUMPY.items()}, tensor.dtype.name
    raise TypeError(f"{name!r} is no array and no dense tensor, but {type(tensor).__name__}")


def bytes_of(tensor: Any) -> memoryview:
    """The bytes of an array or a tensor, little-endian, where they lie if they lie in order on the CPU.

    Errors: `TypeError` for a tensor that is not contiguous.
    """
    import numpy as np

    if isinstance(tensor, np.ndarray | np.generic):
        array = np.ascontiguousarray(tensor, tensor.dtype.newbyteorder("<"))
        return array.reshape(-1).view(np.uint8).data
    return buffer_of(tensor)
