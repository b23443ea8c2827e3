"""What is measured."""

from __future__ import annotations

from dataclasses import dataclass

KiB = 1 << 10
MiB = 1 << 20


@dataclass(frozen=True)
class Case:
    """Read `count` objects of `size` bytes from `bucket`, `passes` times over, after `warm_up` objects unmeasured."""

    name: str
    title: str
    bucket: str
    count: int
    size: int
    warm_up: int
    passes: int = 1
    slow: bool = False
    """Read from the server that answers late, and by plain iteration alone."""

    @property
    def keys(self) -> list[str]:
        return [f"{number:04}" for number in range(self.count)]

    @property
    def is_large(self) -> bool:
        return self.size >= 16 * MiB


LATENCY = 0.020
"""Seconds to the first byte from the slow server."""


def cases(*, quick: bool) -> list[Case]:
    """All cases; quick ones have smaller large objects."""
    large, small = (64 if quick else 256) * MiB, 128 * KiB
    many = "1,000 objects of 128 KiB"
    late = f"{many}, {LATENCY * 1000:.0f} ms to the first byte"
    return [
        Case("large", f"4 objects of {large // MiB} MiB", "large", 4, large, warm_up=4),
        Case("small", many, "small", 1000, small, warm_up=1000, passes=3),
        Case("slow", late, "small", 1000, small, warm_up=16, slow=True),
    ]
