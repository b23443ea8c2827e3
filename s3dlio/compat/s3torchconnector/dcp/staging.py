"""Staging for `async_save`: the copy that is saved while training goes on, in memory that is used again.

Fresh memory costs more than the copy into it, as the kernel has to make its pages, and PyTorch takes fresh memory for
each save. Here what a save no longer needs is kept for the next one.

Invariant: memory is handed out again only when nothing refers to what was staged in it. So a save that begins before
the last one has ended takes memory of its own, instead of changing what is being written, as a cache of one copy would.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from ....alignment.allocator import CachingAllocator


class PooledStager:
    """An `AsyncStager` of PyTorch's that copies into memory of earlier saves: `async_save(state, async_stager=stager)`.

    Keep one for all saves. On machines with CUDA the memory is pinned, and PyTorch's own pool keeps it; else it is
    ordinary memory, of which the stager keeps as much as has been staged at once until it is closed. `stage` returns
    when everything is copied, so there is nothing to synchronize. Errors: `ImportError` for PyTorch before 2.9, whose
    `StateDictStager` it relies on.
    """

    _synchronize_after_execute = False  # a part of PyTorch's protocol, which its older versions do not have
    should_synchronize_after_execute = False

    def __init__(self) -> None:
        from torch.distributed.checkpoint._state_dict_stager import StateDictStager

        pool = CachingAllocator(limit=sys.maxsize)

        class Walk(StateDictStager):
            """PyTorch's walk through a state of whatever kinds of tensors; the memory is ours."""

            def _stage_untyped_storage(
                self, storage: torch.UntypedStorage, non_blocking: bool = False
            ) -> torch.UntypedStorage:
                staged = _memory(pool, storage.nbytes())
                staged.copy_(storage, non_blocking=non_blocking)
                return staged

        self._pool = pool
        self._walk = Walk()

    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """A copy of `state_dict` on the CPU, which nothing that happens later changes."""
        on_device = torch.cuda.is_available()
        staged: dict[str, Any] = self._walk.stage(state_dict, non_blocking=on_device)
        if on_device:
            torch.cuda.synchronize()
        return staged

    def synchronize_staging(self) -> None:
        """Nothing: `stage` has waited."""

    def close(self) -> None:
        """Free the memory that is kept. What is being saved keeps its own."""
        self._pool.limit = 0
        self._pool.clear()


def _memory(pool: CachingAllocator, size: int) -> torch.UntypedStorage:
    if torch.cuda.is_available():
        return torch.empty(size, dtype=torch.uint8, pin_memory=True).untyped_storage()
    return torch.from_numpy(pool.allocate(size)).untyped_storage()
