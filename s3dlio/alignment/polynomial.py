"""The polynomials of S3's checksums, arithmetic modulo them, and the constants that kernels need of them.

Elements of GF(2)[x] modulo a polynomial are whole numbers whose highest bit stands for x^0.
"""

from __future__ import annotations

import functools
from array import array
from dataclasses import dataclass

DISTANCES = (16, 32, 64, 128, 256)
"""Bytes that the folding constants bridge, in their order."""


@dataclass(frozen=True, slots=True)
class Polynomial:
    """A reflected CRC of `width` bits whose register starts, and whose result is inverted, with all ones.

    `reflected` is the polynomial itself without its leading term.
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


@functools.cache
def table(polynomial: Polynomial) -> array[int]:
    """Slicing-by-8: 64-bit words [8 * 256], row k holding each byte's remainder when k zero bytes follow it.

    Nobody may change it.
    """
    row = [0] * 256
    for byte in range(256):
        element = byte
        for _ in range(8):
            element = polynomial.times_x(element)
        row[byte] = element
    words = array("Q", row)
    for place in range(7 * 256):
        words.append(words[place] >> 8 ^ row[words[place] & 0xFF])
    return words


@functools.cache
def constants(polynomial: Polynomial) -> array[int]:
    """What the folding multiplies by, 64-bit words [2 * 5]: for each of `DISTANCES`, D in bits, x^(D+63) and x^(D-1).

    Nobody may change it.
    """
    exponents = [8 * distance + extra for distance in DISTANCES for extra in (63, -1)]
    return array("Q", [polynomial.power(exponent) << (64 - polynomial.width) for exponent in exponents])


_addressed: list[array[int]] = []


def addresses(polynomial: Polynomial) -> tuple[int, int]:
    """Where :func:`table` and :func:`constants` are, until the process ends."""
    words = table(polynomial), constants(polynomial)
    _addressed.extend(words)  # two threads that come first make two of each, and the cache keeps one
    return words[0].buffer_info()[0], words[1].buffer_info()[0]
