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
from collections.abc import Sequence
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
        target = memoryview(buffer).cast("B")
        piece = self._piece(len(target))
        target[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _piece(self, count: int) -> memoryview:
        return self._view[self._position : self._position + count]

    def _length(self) -> int:
        return len(self._view)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length()}[whence]
        if origin + offset < 0:
            raise ValueError(f"negative seek value {origin + offset}")
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


class EdgesFile(ViewFile):
    """A file of `size` bytes of which only the first and the last are there. Errors: `EOFError` for those between."""

    def __init__(self, head: memoryview, tail: memoryview, size: int) -> None:
        super().__init__(head)
        self._head, self._tail, self._size = head, tail, size

    def _piece(self, count: int) -> memoryview:
        begin, end = self._position, min(self._position + count, self._size)
        if end <= len(self._head):
            return self._head[begin:end]
        hidden = self._size - len(self._tail)
        if begin < hidden:
            raise EOFError(f"bytes {begin} to {end} of the archive are not here")
        return self._tail[begin - hidden : end - hidden]

    def _length(self) -> int:
        return self._size


class _Storage(NamedTuple):
    """A storage that the pickle refers to."""

    dtype: torch.dtype
    name: str


@dataclass(frozen=True, slots=True)
class _Layout:
    """A tensor as the pickle describes it, by the arguments of PyTorch's own function; `offset` counts elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    gradient: bool
    hooks: Any


@dataclass(frozen=True, slots=True)
class SavedTensor:
    """A tensor in an archive: bytes `begin` to `end` are its storage, `offset` and `stride` count elements."""

    begin: int
    end: int
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def is_plain(self) -> bool:
        """Whether the storage is the tensor, row after row, and nothing else."""
        size = self.dtype.itemsize
        for length, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if stride * self.dtype.itemsize != size:
                return False
            size *= length
        return self.offset == 0 and size == self.end - self.begin

    def rows(self, offsets: Sequence[int], lengths: Sequence[int]) -> tuple[int, int] | None:
        """Where in the archive a part of a plain tensor is, in bytes; `None` where it is not whole rows."""
        whole_rows = tuple(lengths[1:]) == self.shape[1:] and not any(offsets[1:])
        if not self.shape or not whole_rows or not self.is_plain:
            return None
        row = self.stride[0] * self.dtype.itemsize
        begin = self.begin + offsets[0] * row
        return begin, begin + lengths[0] * row

    def of(self, view: memoryview) -> torch.Tensor:
        """The tensor, made of the memory of the archive `view`, or of a copy where that is not aligned for it."""
        raw = torch.frombuffer(view, dtype=torch.uint8, count=self.end - self.begin, offset=self.begin)
        if raw.data_ptr() % self.dtype.itemsize:
            raw = raw.clone()
        return raw.view(self.dtype).as_strided(self.shape, self.stride, self.offset)


class _Unpickler(pickle.Unpickler):
    """Reads the pickle of one plain tensor. Errors: `pickle.UnpicklingError` for any other."""

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Layout
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


def load_tensor(view: memoryview) -> torch.Tensor:
    """The tensor that `torch.save` wrote into `view`, on the CPU. Where `view` can be written to, it may be its memory.

    Errors: those of `torch.load`, which is asked with `weights_only=True`.
    """
    found = None if view.readonly else find_tensor(ViewFile(view))
    if found is not None:
        return found.of(view)
    loaded: torch.Tensor = torch.load(ViewFile(view), map_location="cpu", weights_only=True)  # type: ignore[arg-type]
    return loaded


def find_tensor(file: ViewFile) -> SavedTensor | None:
    """Where the tensor is in an archive; `None` where that is not one plain tensor, or has no elements."""
    try:
        with zipfile.ZipFile(file) as archive:
            folder = archive.namelist()[0].partition("/")[0]
            if archive.read(f"{folder}/byteorder").decode() != sys.byteorder:
                return None
            layout = _Unpickler(io.BytesIO(archive.read(f"{folder}/data.pkl"))).load()
            if not isinstance(layout, _Layout):
                return None
            record = archive.getinfo(f"{folder}/data/{layout.storage.name}")
            return _located(file, record, layout)
    except Exception:  # whatever is wrong with it, torch.load finds it too, and says so in its own words
        return None


def _located(file: ViewFile, record: zipfile.ZipInfo, layout: _Layout) -> SavedTensor | None:
    if record.compress_type != zipfile.ZIP_STORED or not record.file_size:
        return None
    file.seek(record.header_offset)
    begin = record.header_offset + _LOCAL_HEADER + sum(_NAME_LENGTHS.unpack(file.read(_LOCAL_HEADER)))
    end = begin + record.file_size
    return SavedTensor(begin, end, layout.storage.dtype, layout.offset, tuple(layout.shape), tuple(layout.stride))
