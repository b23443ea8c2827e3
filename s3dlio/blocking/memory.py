"""Memory for what users keep, such as arrays: the process's own, which is used again when they drop it."""

from __future__ import annotations

import functools
import os

from ..alignment.allocator import CachingAllocator
from ..config import Config


@functools.cache
def allocator() -> CachingAllocator:
    """This process's. It keeps as much as the environment's memory limit says when it is first used."""
    made = CachingAllocator(Config().memory_limit)
    os.register_at_fork(after_in_child=made.clear)  # or the parent would have to copy what it uses again
    return made
