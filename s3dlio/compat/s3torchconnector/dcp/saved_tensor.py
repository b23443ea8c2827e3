"""Tensors as `torch.save` writes them, found in memory instead of loaded.

`torch.load` allocates a storage for each tensor and copies the bytes into it, which costs more than receiving them.
What `torch.distributed.checkpoint` saves is a zip archive with one plain tensor: a pickle that describes it, and its
bytes, stored as they are. So a tensor can be made of the memory that the archive was received into. Anything else than
one plain tensor is left to `torch.load`.

The pickle is read by an unpickler that knows the names such a pickle has, and no other; nothing in it is called.
Source: `torch/serialization.py` of PyTorch, and the zip file format, APPNOTE.TXT 6.3.10, section 4.3.
"""

from __future__ import annotations

import io
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_LOCAL_HEADER = 30
_NAME_LENGTHS = struct.Struct("<26xHH")


class ViewFile(io.RawIOBase):
    """A memoryview as a read-only file. `io.BytesIO` would copy it."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._position = 0

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill `buffer`; the count is 0 at the end."""
        target = memoryview(buffer).cast("B")
        piece = self._view[self._position : self._position + len(target)]
        target[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position and return it."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._view)}[whence]
        if origin + offset < 0:
            raise ValueError(f"negative seek value {origin + offset}")
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True


class _Storage(NamedTuple):
    """A storage that the pickle refers to."""

    dtype: torch.dtype
    name: str


@dataclass(frozen=True, slots=True)
class _Layout:
    """A tensor, described: elements of a storage from `offset`, by `shape` and `stride`, all in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Unpickler(pickle.Unpickler):
    """Reads the pickle of one plain tensor. Errors: `pickle.UnpicklingError` for any other."""

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _layout
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"not a plain tensor: {module}.{name}")

    def persistent_load(self, reference: Any, /) -> _Storage:
        _, dtype, name, _, _ = reference
        return _Storage(dtype, name)


_DTYPES = {
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}


def _layout(
    storage: _Storage, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], gradient: bool, hooks: Any
) -> _Layout:
    return _Layout(storage, offset, shape, stride)


def load_tensor(view: memoryview) -> torch.Tensor:
    """The tensor that `torch.save` wrote into `view`, on the CPU. It may share the memory of `view`.

    Errors: those of `torch.load`, which is asked with `weights_only=True`.
    """
    found = tensor_in(view)
    if found is not None:
        return found
    loaded: torch.Tensor = torch.load(ViewFile(view), map_location="cpu", weights_only=True)  # type: ignore[arg-type]
    return loaded


def tensor_in(view: memoryview) -> torch.Tensor | None:
    """The tensor in the archive `view`, made of its memory; `None` where it is not one plain tensor."""
    try:
        with zipfile.ZipFile(ViewFile(view)) as archive:
            folder = archive.namelist()[0].partition("/")[0]
            if archive.read(f"{folder}/byteorder").decode() != sys.byteorder:
                return None
            layout = _Unpickler(io.BytesIO(archive.read(f"{folder}/data.pkl"))).load()
            if not isinstance(layout, _Layout):
                return None
            record = archive.getinfo(f"{folder}/data/{layout.storage.name}")
            return _tensor(view, record, layout) if record.compress_type == zipfile.ZIP_STORED else None
    except Exception:  # whatever is wrong with it, torch.load finds it too, and says so in its own words
        return None


def _tensor(view: memoryview, record: zipfile.ZipInfo, layout: _Layout) -> torch.Tensor | None:
    header = view[record.header_offset : record.header_offset + _LOCAL_HEADER]
    begin = record.header_offset + _LOCAL_HEADER + sum(_NAME_LENGTHS.unpack(header))
    if not record.file_size:
        return None
    raw = torch.frombuffer(view, dtype=torch.uint8, count=record.file_size, offset=begin)
    if raw.data_ptr() % layout.storage.dtype.itemsize:
        raw = raw.clone()
    return raw.view(layout.storage.dtype).as_strided(layout.shape, layout.stride, layout.offset)
