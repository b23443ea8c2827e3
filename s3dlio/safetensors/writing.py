"""Tensors written as one safetensors object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..blocking.store import locate
from ..config import Config
from ..model import PutResult
from .frameworks import bytes_of, described
from .header import plan_header

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


def save_file(
    tensors: Mapping[str, torch.Tensor] | Mapping[str, NDArray[np.generic]],
    uri: str,
    metadata: Mapping[str, str] | None = None,
    *,
    config: Config | None = None,
) -> PutResult:
    """Write `tensors`, of PyTorch or NumPy, to the object at `uri`: the bytes that the original writes to a file.

    They are sent from where they lie, in parts, one tensor after the other; from a device each is copied when its turn
    comes. They must not change meanwhile. Those that share memory are each written. `metadata` is text by name. The
    object appears whole or not at all. `config` has the settings, by default the environment's. Returns the version.
    Errors: `UnsupportedError` for a type that the format lacks; `TypeError` for a tensor that is sparse or not
    contiguous; `ValueError` for the name `__metadata__`; `StoreError`.
    """
    kinds = {name: described(name, tensor) for name, tensor in tensors.items()}
    head, order = plan_header(kinds, metadata)
    store, key = locate(uri, config)
    writer = store.open_writer(key)
    try:
        writer.write(head)
        for name in order:
            writer.write(bytes_of(tensors[name]))
        return writer.close()
    except BaseException:
        writer.abort()
        raise
