"""The checksums of S3's `x-amz-checksum-*` headers: CRC32, CRC32C and CRC64NVME.

They run on a compiled kernel (:mod:`.kernels`), which the first one that needs it begins to load. Until it is there,
and where there is no compiler, CRC32 is zlib's and the other two are numpy's (:mod:`.rows`).

Values are whole numbers as published (the check value of `b"123456789"` in CRC32C is 0xE3069283), so a value can be the
start of the next call, and values of neighbouring pieces can be combined without their bytes.

See https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html, RFC 3720 appendix B.4 for
CRC32C, and the NVM Express NVM Command Set Specification, "64b CRC", for CRC64NVME.
"""

from __future__ import annotations

import base64
import ctypes
import functools
import sys
import zlib
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import UnsupportedError
from .buffers import address_of
from .compiled import Kernel
from .polynomial import CRC32, CRC32C, CRC64NVME, Polynomial, addresses

if TYPE_CHECKING:
    from typing_extensions import Buffer  # whatever memoryview accepts

KERNEL = Kernel("s3dlio.alignment.kernels", "crc")
"""Computes all of them, of whole numbers and addresses: see :func:`s3dlio.alignment.kernels.crc_function`."""

RELEASE_FROM = 1 << 20
"""Bytes from which the interpreter lock is given away: beside a busy thread it comes back milliseconds later."""

ZLIB_BELOW = 16 << 10
"""Bytes of which zlib has the CRC32 before the kernel would be called."""

ALGORITHMS = {polynomial.name: polynomial for polynomial in (CRC32, CRC32C, CRC64NVME)}
"""What :class:`Checksum` can compute, by S3's names."""


class Checksum:
    """A running checksum: `value` of the `length` bytes seen so far. Not to be updated by two threads at once.

    `algorithm` is one of :data:`ALGORITHMS`; `data`, any contiguous buffer, is what to begin with.

    Errors: :class:`~s3dlio.errors.UnsupportedError` for another algorithm, `ValueError` for memory with gaps.
    """

    __slots__ = ("algorithm", "length", "value")

    def __init__(self, algorithm: str, data: Buffer = b"") -> None:
        _polynomial(algorithm)
        self.algorithm = algorithm
        self.value = 0
        self.length = 0
        self.update(data)

    def update(self, data: Buffer) -> None:
        """Take in more bytes: `data` is any contiguous buffer. Errors: `ValueError` for one that is not contiguous."""
        view = _flat(data)
        self.value = _extend(ALGORITHMS[self.algorithm], view, self.value)
        self.length += len(view)

    @classmethod
    def known(cls, algorithm: str, value: int, length: int) -> Checksum:
        """That of `length` bytes whose `value` is known."""
        checksum = cls(algorithm)
        checksum.value, checksum.length = value, length
        return checksum

    def combine(self, other: Checksum) -> Checksum:
        """The checksum of this one's bytes followed by `other`'s. Errors: `ValueError` where the algorithms differ."""
        if other.algorithm != self.algorithm:
            raise ValueError(f"cannot combine {self.algorithm} with {other.algorithm}")
        value = combine(self.algorithm, self.value, other.value, other.length)
        return Checksum.known(self.algorithm, value, self.length + other.length)

    def digest(self) -> bytes:
        """The value as big-endian bytes: 4 of them, or 8 for CRC64NVME."""
        return self.value.to_bytes(ALGORITHMS[self.algorithm].width // 8, "big")

    @property
    def base64(self) -> str:
        """The digest as S3 spells it in `x-amz-checksum-*`."""
        return base64.b64encode(self.digest()).decode("ascii")

    def __repr__(self) -> str:
        return f"<Checksum {self.algorithm} {self.base64} of {self.length} bytes>"


class Fold:
    """A checksum of bytes as they are received, with which compiled code goes on: `length` bytes in order so far.

    `address` is that of three words, which stay there as long as this does: the register, which is where compiled code
    leaves it, and the addresses of the polynomial's table and constants. Whoever has it go on adds to `length`. So
    where some bytes were received in another way, `length` is less than there are, and the checksum is of no use.

    `algorithm` is one of :data:`ALGORITHMS`.
    """

    __slots__ = ("_polynomial", "_words", "address", "algorithm", "length")

    def __init__(self, algorithm: str) -> None:
        self._polynomial = _polynomial(algorithm)
        self._words = array("Q", [self._polynomial.ones, *addresses(self._polynomial)])
        self.address = self._words.buffer_info()[0]
        self.algorithm = algorithm
        self.length = 0

    @property
    def value(self) -> int:
        """That of a :class:`Checksum` of the same bytes."""
        return self._words[0] ^ self._polynomial.ones

    def add(self, view: memoryview) -> None:
        """Take in bytes that have come otherwise."""
        self._words[0] = _extend(self._polynomial, view, self.value) ^ self._polynomial.ones
        self.length += len(view)


def combine(algorithm: str, crc_a: int, crc_b: int, len_b: int) -> int:
    """The checksum of A followed by B, from their checksums `crc_a` and `crc_b`, and B's length, `len_b` bytes.

    A's remainder is shifted past B: multiplied by x^(8 len_b). That takes O(log len_b) steps. `algorithm` is one of
    :data:`ALGORITHMS`. Errors: `UnsupportedError` for another one; `ValueError` for a negative length, or for what is
    no value of the algorithm.
    """
    polynomial = _polynomial(algorithm)
    if len_b < 0:
        raise ValueError(f"a length cannot be negative: {len_b}")
    return polynomial.multiply(polynomial.check(crc_a), polynomial.power(8 * len_b)) ^ polynomial.check(crc_b)


def checksum_of(algorithm: str, data: Buffer) -> int:
    """The value of :class:`Checksum` for `data`, any contiguous buffer. Errors: those of `Checksum`."""
    return _extend(_polynomial(algorithm), _flat(data), 0)


def crc32c(data: Buffer, value: int = 0) -> int:
    """CRC32C of `data`, any contiguous buffer, from `value` on. Check value of `b"123456789"`: 0xE3069283.

    Errors: `ValueError` for memory with gaps, or for a `value` that needs more than 32 bits.
    """
    return _extend(CRC32C, _flat(data), value)


def crc64nvme(data: Buffer, value: int = 0) -> int:
    """CRC64NVME of `data`, any contiguous buffer, from `value` on. Check value of `b"123456789"`: 0xAE8B14860A799888.

    Errors: `ValueError` for memory with gaps, or for a `value` that needs more than 64 bits.
    """
    return _extend(CRC64NVME, _flat(data), value)


def _polynomial(algorithm: str) -> Polynomial:
    try:
        return ALGORITHMS[algorithm]
    except KeyError:
        known = ", ".join(ALGORITHMS)
        raise UnsupportedError(f"unknown checksum algorithm {algorithm!r}; known are {known}") from None


def _flat(data: Buffer) -> memoryview:
    view = memoryview(data)
    if not view.c_contiguous:
        raise ValueError(f"a checksum needs contiguous memory, not strides of {view.strides} bytes")
    return view.cast("B") if view.nbytes else memoryview(b"")


def _extend(polynomial: Polynomial, view: memoryview, value: int) -> int:
    polynomial.check(value)
    if not view:
        return value
    if polynomial is CRC32 and (len(view) < ZLIB_BELOW or KERNEL.address() is None):
        return zlib.crc32(view, value)
    return kernel_for(polynomial)(view, value)


@functools.cache
def kernel_for(polynomial: Polynomial, kernel: Kernel = KERNEL) -> Callable[[memoryview, int], int]:
    """The function from (bytes, value) to value: by `kernel` once it is there, by numpy until then."""
    table, constants = addresses(polynomial)
    ones = polynomial.ones

    def extend(view: memoryview, value: int) -> int:
        size = len(view)
        address = kernel.address() if "numpy" in sys.modules else kernel.soon()
        if address is None:
            from . import rows

            return rows.extend(polynomial, view, value ^ ones) ^ ones
        crc = ctypes.c_uint64()
        function = _functions(address)[size >= RELEASE_FROM]
        function(crc, None, address_of(view), size, value ^ ones, table, constants)
        return crc.value ^ ones

    return extend


@functools.cache
def _functions(address: int) -> tuple[Callable[..., int], Callable[..., int]]:
    """The kernel at `address`, called with the interpreter lock and without it."""
    result = ctypes.POINTER(ctypes.c_uint64)
    number, register = ctypes.c_int64, ctypes.c_uint64
    types = (ctypes.c_int32, result, ctypes.c_void_p, number, number, register, number, number)
    return ctypes.PYFUNCTYPE(*types)(address), ctypes.CFUNCTYPE(*types)(address)
