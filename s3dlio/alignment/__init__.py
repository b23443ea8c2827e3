"""Memory that bodies land in, and the checksums over it.

:mod:`~s3dlio.alignment.buffers` has fresh `bytes` to receive into, page-aligned buffers and their pool;
:mod:`~s3dlio.alignment.checksum` has the checksums that S3 knows. Importing either imports neither numpy nor numba.
"""

from __future__ import annotations

from .buffers import AlignedBuffer, BufferPool, Lease, PoolStats, fresh_bytes
from .checksum import ALGORITHMS, Checksum, combine, crc32c, crc64nvme

__all__ = [
    "ALGORITHMS",
    "AlignedBuffer",
    "BufferPool",
    "Checksum",
    "Lease",
    "PoolStats",
    "combine",
    "crc32c",
    "crc64nvme",
    "fresh_bytes",
]
