"""Memory that readers give as arrays and tensors: the process's own, and PyTorch's where it is pinned."""

from __future__ import annotations

import functools
import os

import torch

from ....alignment.allocator import CachingAllocator
from ....config import Config


@functools.cache
def allocator() -> CachingAllocator:
    """This process's. It keeps as much as the environment's memory limit says when it is first used."""
    made = CachingAllocator(Config().memory_limit)
    os.register_at_fork(after_in_child=made.clear)  # or the parent would have to copy what it uses again
    return made


def pooled(size: int) -> torch.Tensor:
    """`size` bytes that are used again when they are dropped. Errors: `OSError` where there is no memory."""
    return torch.from_numpy(allocator().allocate(size))


def pinned(size: int) -> torch.Tensor:
    """`size` bytes of PyTorch's pinned memory, which it uses again itself when copies from it have ended.

    Errors: `RuntimeError` without an accelerator, as PyTorch has it.
    """
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)
