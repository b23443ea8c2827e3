"""How large objects are cut into parts: pure."""

from __future__ import annotations

from collections.abc import Iterator

from .config import MiB

MIN_PART = 5 * MiB
MAX_PART = 5 << 30
MAX_PARTS = 10_000
MAX_OBJECT = 5 << 40
"""Limits of S3, which the other services' exceed. Source: "Amazon S3 multipart upload limits"."""

_GROW_EVERY = 900


def plan_ranges(start: int, end: int, part_size: int) -> Iterator[tuple[int, int]]:
    """`start` to `end` cut into pieces of `part_size`, the last one shorter."""
    return ((first, min(first + part_size, end)) for first in range(start, end, part_size))


def part_size_for(size: int, part_size: int) -> int:
    """A part size, at least `part_size`, that cuts `size` bytes into no more than 10,000 parts."""
    needed = -(-size // MAX_PARTS)
    return min(max(part_size, MIN_PART, -(-needed // MiB) * MiB), MAX_PART)


def buffers_for(part_size: int, memory_limit: int) -> int:
    """How many buffers of `part_size` bytes a writer may hold, the one that is being filled included: one at least."""
    return max(1, memory_limit // part_size)


def growing_part_size(number: int, part_size: int) -> int:
    """The size of part `number` (from 1) when the length is unknown: doubled after every 900 parts.

    So even with the smallest part size, 10,000 parts hold 5 TiB, the largest object.
    """
    return min(max(part_size, MIN_PART) << (number - 1) // _GROW_EVERY, MAX_PART)
