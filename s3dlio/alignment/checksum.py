"""The checksums of S3's `x-amz-checksum-*` headers: CRC32, CRC32C and CRC64NVME.

CRC32 is zlib's; the other two run on the numba kernels, which are imported and compiled when the first of them is
computed. Values are whole numbers as published (the check value of `b"123456789"` in CRC32C is 0xE3069283), so a value
can be the start of the next call, and values of neighbouring pieces can be combined without their bytes.

See https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html, RFC 3720 appendix B.4 for
CRC32C, and the NVM Express NVM Command Set Specification, "64b CRC", for CRC64NVME.
"""

from __future__ import annotations

import base64
import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedError

if TYPE_CHECKING:
    from typing_extensions import Buffer  # whatever memoryview accepts


@dataclass(frozen=True, slots=True)
class Polynomial:
    """A reflected CRC of `width` bits whose register starts, and whose result is inverted, with all ones.

    Elements of GF(2)[x] modulo the polynomial are whole numbers whose highest bit stands for x^0; `reflected` is the
    polynomial itself without its leading term.
    """

    name: str
    width: int
    reflected: int

    @property
    def ones(self) -> int:
        """What the register starts with: all bits set."""
        return (1 << self.width) - 1

    def multiply(self, left: int, right: int) -> int:
        """The product of two elements."""
        product = 0
        for bit in range(self.width - 1, -1, -1):
            if right >> bit & 1:
                product ^= left
            left = self.times_x(left)
        return product

    def times_x(self, element: int) -> int:
        """The element times x."""
        return element >> 1 ^ (self.reflected if element & 1 else 0)

    def power(self, exponent: int) -> int:
        """x to the `exponent`."""
        power = 1 << (self.width - 1)
        for bit in range(exponent.bit_length()):
            if exponent >> bit & 1:
                power = self.multiply(power, _repeated_square(self, bit))
        return power

    def check(self, value: int) -> int:
        """`value` itself. Errors: `ValueError` where it is no value of this checksum."""
        if not 0 <= value <= self.ones:
            raise ValueError(f"not a {self.name} value: {value:#x}")
        return value


@functools.cache
def _repeated_square(polynomial: Polynomial, times: int) -> int:
    """x squared `times` times: x^(2^times)."""
    if times == 0:
        return 1 << (polynomial.width - 2)
    root = _repeated_square(polynomial, times - 1)
    return polynomial.multiply(root, root)


CRC32 = Polynomial("CRC32", 32, 0xEDB88320)
CRC32C = Polynomial("CRC32C", 32, 0x82F63B78)
CRC64NVME = Polynomial("CRC64NVME", 64, 0x9A6C9329AC4BC9B5)

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

    def combine(self, other: Checksum) -> Checksum:
        """The checksum of this one's bytes followed by `other`'s. Errors: `ValueError` where the algorithms differ."""
        if other.algorithm != self.algorithm:
            raise ValueError(f"cannot combine {self.algorithm} with {other.algorithm}")
        joined = Checksum(self.algorithm)
        joined.value = combine(self.algorithm, self.value, other.value, other.length)
        joined.length = self.length + other.length
        return joined

    def digest(self) -> bytes:
        """The value as big-endian bytes: 4 of them, or 8 for CRC64NVME."""
        return self.value.to_bytes(ALGORITHMS[self.algorithm].width // 8, "big")

    @property
    def base64(self) -> str:
        """The digest as S3 spells it in `x-amz-checksum-*`."""
        return base64.b64encode(self.digest()).decode("ascii")

    def __repr__(self) -> str:
        return f"<Checksum {self.algorithm} {self.base64} of {self.length} bytes>"


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
    if polynomial is CRC32:
        return zlib.crc32(view, value)
    return kernel_for(polynomial)(view, value)


@functools.cache
def kernel_for(polynomial: Polynomial, lanes: int | None = None) -> Callable[[memoryview, int], int]:
    """The function from (bytes, value) to value, compiled on the first call.

    `lanes` as in :func:`s3dlio.alignment.kernels.crc_kernel`, or None for what suits this machine.
    """
    import numpy as np

    from . import kernels

    lanes = kernels.host_lanes() if lanes is None else lanes
    kernel, ones = kernels.crc_kernel(lanes), polynomial.ones
    table, constants = _table(polynomial), _constants(polynomial, lanes)

    def extend(view: memoryview, value: int) -> int:
        data = np.frombuffer(view.toreadonly(), np.uint8)
        return int(kernel(data, np.uint64(value ^ ones), table, constants)) ^ ones

    return extend


def _table(polynomial: Polynomial) -> Any:
    """Slicing-by-8: uint64 [8 * 256], row k holding each byte's remainder when k zero bytes follow it. Read-only."""
    import numpy as np

    row = np.arange(256, dtype=np.uint64)
    one, byte = np.uint64(1), np.uint64(0xFF)
    for _ in range(8):
        row = row >> one ^ np.where(row & one, np.uint64(polynomial.reflected), np.uint64(0))
    rows = [row]
    for _ in range(7):
        rows.append(rows[-1] >> np.uint64(8) ^ row[rows[-1] & byte])
    return _frozen(np.concatenate(rows))


def _constants(polynomial: Polynomial, lanes: int) -> Any:
    """What the folding kernel multiplies by, uint64 [3 * 2 * lanes]: for each of its distances the pair of x^(D+63) and
    x^(D-1), D in bits, repeated per lane. Read-only."""
    import numpy as np

    from . import kernels

    words: list[int] = []
    for distance in kernels.distances(lanes):
        pair = [polynomial.power(8 * distance + extra) << (64 - polynomial.width) for extra in (63, -1)]
        words += pair * lanes
    return _frozen(np.array(words, np.uint64))


def _frozen(array: Any) -> Any:
    array.flags.writeable = False
    return array
