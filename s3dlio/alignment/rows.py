"""Checksums by numpy, where there is no compiled kernel (yet).

Theory of operation. The bytes are rows of 64-bit words, below one another. A word may be replaced by its remainder n
words further on, which tables look up (eight bytes, eight lookups) for all words of a row at once. So each row is moved
onto the next one, and of the last row the left half onto the right half until one word is left. Zeros in front of a
message change nothing, so they fill the first row.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from .polynomial import Polynomial, table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Words = NDArray[np.uint64]

ROW = 4096
"""Words of a row, where there are as many: a lookup then takes longer than calling numpy does."""


def extend(polynomial: Polynomial, view: memoryview, crc: int) -> int:
    """The register after the bytes of `view`, from the register `crc` before them on."""
    size = len(view)
    if not size:
        return crc
    width = min(ROW, 1 << max(0, (size + 7) // 8 - 1).bit_length())
    head = (size - 1) % (8 * width) + 1
    row, spill = _first_row(view[:head], width, crc), crc >> 8 * head
    for following in np.frombuffer(view[head:], np.uint64).reshape(-1, width):
        row = _moved(row, polynomial, width) ^ following
        row[0] ^= np.uint64(spill)
        spill = 0
    while width > 1:
        width //= 2
        row = _moved(row[:width], polynomial, width) ^ row[width:]
    return int(_moved(row, polynomial, 1)[0]) ^ spill


def _first_row(head: memoryview, width: int, crc: int) -> Words:
    """`head` behind zeros, the register mixed into its first bytes."""
    row = np.zeros(8 * width, np.uint8)
    row[-len(head) :] = np.frombuffer(head, np.uint8)
    first = row[-len(head) :][:8]
    first ^= np.frombuffer(crc.to_bytes(8, "little"), np.uint8)[: len(first)]
    return row.view(np.uint64)


def _moved(words: Words, polynomial: Polynomial, distance: int) -> Words:
    """The remainders of `words` (the register, for 1) that many words further on, a power of two."""
    return _looked_up(words, _tables(polynomial, distance))


def _looked_up(words: Words, tables: Words) -> Words:
    places: NDArray[Any] = words.view(np.uint8).reshape(-1, 8).T.astype(np.intp)
    result: Words = tables[7].take(places[0])
    for index in range(1, 8):
        result ^= tables[7 - index].take(places[index])
    return result


@functools.cache
def _tables(polynomial: Polynomial, distance: int) -> Words:
    """The remainders of each byte of a word `distance` words further on: uint64 [8, 256]."""
    if distance == 1:
        return np.frombuffer(table(polynomial), np.uint64).reshape(8, 256)
    half = _tables(polynomial, distance // 2)
    return _looked_up(half.ravel(), half).reshape(8, 256)
