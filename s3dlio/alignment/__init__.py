"""Memory that bodies land in, files read past the page cache, and checksums.

Importing this imports neither numpy nor numba: they come with the first direct read or checksum that needs them.
"""

from __future__ import annotations

from .buffers import AlignedBuffer, BufferPool, Lease, PoolStats, fresh_bytes
from .checksum import ALGORITHMS, Checksum, combine, crc32c, crc64nvme
from .direct import Alignment, BounceBuffers, DirectFile, DirectIOWarning, DirectStats

__all__ = [
    "ALGORITHMS",
    "AlignedBuffer",
    "Alignment",
    "BounceBuffers",
    "BufferPool",
    "Checksum",
    "DirectFile",
    "DirectIOWarning",
    "DirectStats",
    "Lease",
    "PoolStats",
    "combine",
    "crc32c",
    "crc64nvme",
    "fresh_bytes",
]
