"""Memory that readers give as arrays and tensors: the process's own, and PyTorch's where it is pinned."""

from __future__ import annotations

import torch

from ....blocking import memory


def pooled(size: int) -> torch.Tensor:
    """`size` bytes that are used again when they are dropped. Errors: `OSError` where there is no memory."""
    return torch.from_numpy(memory.allocator().allocate(size))


def pinned(size: int) -> torch.Tensor:
    """`size` bytes of PyTorch's pinned memory, which it uses again itself when copies from it have ended.

    Errors: `RuntimeError` without an accelerator, as PyTorch has it.
    """
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)
