"""NumPy's files in any store: `.npy` and `.npz`, by their URIs, read by parallel ranges into memory that is used again.

What is read is of one version. Settings come from the environment, or from `config`. Arrays lie in page-aligned memory,
of which as much as :attr:`s3dlio.Config.memory_limit` says is kept for later arrays when they are dropped.

Errors: `NotFoundError` and other `StoreError`\\ s; `FormatError`, which is a `ValueError`, for what is no such file,
ends before its array does, or says what cannot be true. Nothing is allocated for what the object is too small to hold.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from ..blocking.store import locate
from ..blocking.verbs import open as open_object
from ..config import Config
from ..errors import UnsupportedError
from .arrays import find_object, read_array
from .lazy import LazyArray
from .npz import NpzFile

__all__ = ["LazyArray", "NpzFile", "load", "save", "savez", "savez_compressed"]

_ZIP = (b"PK\3\4", b"PK\5\6")
"""How a zip begins: by a member's local header, or, where it is empty, by its end record (APPNOTE 4.3.7, 4.3.16)."""


@overload
def load(uri: str, *, mmap_mode: None = None, allow_pickle: bool = False, config: Config | None = None) -> Any: ...
@overload
def load(
    uri: str, *, mmap_mode: Literal["r"], allow_pickle: bool = False, config: Config | None = None
) -> LazyArray: ...
def load(uri: str, *, mmap_mode: str | None = None, allow_pickle: bool = False, config: Config | None = None) -> Any:
    """The array of the `.npy` at `uri`, or the :class:`NpzFile` that is there, as `numpy.load` gives them.

    With `mmap_mode="r"` an array is a :class:`LazyArray`, which fetches the rows that are asked for. Arrays of objects
    are pickles, which can run any code: only `allow_pickle` has them loaded. `config` has the settings, by default the
    environment's. Errors: `NotFoundError`, `StoreError`; `FormatError`; `ValueError` for a pickle that is not
    allowed; `UnsupportedError` for another `mmap_mode`.
    """
    if mmap_mode not in (None, "r"):
        raise UnsupportedError(f"objects are not written in place: the mmap_mode is 'r' or None, not {mmap_mode!r}")
    stored = find_object(*locate(uri, config))
    if stored.head[:4] in _ZIP:
        return NpzFile(stored, allow_pickle=allow_pickle)
    return LazyArray(stored) if mmap_mode else read_array(stored, allow_pickle=allow_pickle)


def save(uri: str, array: ArrayLike, *, config: Config | None = None) -> None:
    """Write `array` to `uri` as an `.npy`, as `numpy.save` does, but that nothing is added to the name.

    The object appears whole or not at all. `config` has the settings, by default the environment's. Errors:
    `StoreError`.
    """
    with open_object(uri, "wb", config=config) as file:
        np.save(file, array)


def savez(uri: str, *args: ArrayLike, config: Config | None = None, **kwds: Any) -> None:
    """Write the arrays `args` and, by their names, `kwds` to `uri` as an `.npz`, as `numpy.savez` does.

    Nothing is added to the name; the object appears whole or not at all. `config` has the settings, by default the
    environment's. Errors: `StoreError`; `ValueError` for a name that an array of `args` has.
    """
    with open_object(uri, "wb", config=config) as file:
        np.savez(file, *args, **kwds)


def savez_compressed(uri: str, *args: ArrayLike, config: Config | None = None, **kwds: Any) -> None:
    """Do what :func:`savez` does with `uri`, `args`, `kwds` and `config`, and deflate each array. Errors: as there."""
    with open_object(uri, "wb", config=config) as file:
        np.savez_compressed(file, *args, **kwds)
