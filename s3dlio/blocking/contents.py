"""What can be put, and what can be read into: text, buffers, tensors, files."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from ..model import PutOptions, PutResult, flat
from .store import BlockingStore

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


class Tensor(Protocol):
    """What PyTorch's tensors, and others', have in common."""

    def numpy(self) -> Any:
        """The same numbers as an array."""


class Array(Protocol):
    """An array of numpy's, which type checkers take for a buffer from Python 3.12 on."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


class ReadableFile(Protocol):
    """A file that is open for bytes, such as a socket's, a pipe's or one in an archive."""

    def read(self, size: int, /) -> bytes | None:
        """The next bytes, `size` at most; none at the end."""

    def readinto(self, buffer: Any, /) -> int | None:
        """The same, into a `buffer`; files of text have no such method."""


Piece: TypeAlias = "str | ReadableBuffer | Array | Tensor"
Content: TypeAlias = "Piece | os.PathLike[str] | ReadableFile"
Target: TypeAlias = "WriteableBuffer | Array | Tensor"


def buffer_of(data: Any) -> memoryview:
    """The bytes of `data`, text as UTF-8; of buffers and tensors on the CPU where they lie.

    Errors: `TypeError` for what has none, and for what is not contiguous.
    """
    if isinstance(data, str):
        return memoryview(data.encode())
    return flat(_array_of(data) if hasattr(data, "numpy") else data)


def _array_of(tensor: Any) -> Any:
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(tensor, torch.Tensor):
        return tensor.numpy()
    if not tensor.is_contiguous():
        raise TypeError("a contiguous tensor is wanted: tensor.contiguous()")
    return tensor.detach().reshape(-1).view(torch.uint8).cpu().numpy()  # numpy lacks some types, such as bfloat16


def memory_of(target: Any) -> memoryview:
    """The memory of `target`, to be written to. Errors: `TypeError` for what is not contiguous, or of a device."""
    device = str(getattr(target, "device", "cpu"))
    if device != "cpu":
        raise TypeError(f"bytes are received into memory of this machine, not into a tensor on {device!r}")
    if (view := buffer_of(target)).readonly:
        raise TypeError(f"memory that can be written to is wanted, such as a bytearray, not {type(target).__name__}")
    return view


def put_content(store: BlockingStore, key: str, data: Any, options: PutOptions) -> PutResult:
    """Write `data`: a file, by its path or open, part by part; anything else from where it lies.

    Errors: `OSError` of the file; `TypeError`; what :meth:`BlockingStore.put` raises.
    """
    if isinstance(data, os.PathLike):
        with open(data, "rb", buffering=0) as file:
            return _put_file(store, key, file, options)
    if hasattr(data, "readinto"):
        return _put_file(store, key, data, options)
    return store.put(key, buffer_of(data), options)


def _put_file(store: BlockingStore, key: str, file: ReadableFile, options: PutOptions) -> PutResult:
    writer = store.open_writer(key, options)
    try:
        while piece := file.read(store.config.part_size):
            writer.write(piece)
        return writer.close()
    except BaseException:
        writer.abort()
        raise
