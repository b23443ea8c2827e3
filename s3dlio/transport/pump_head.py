"""What the pump reads from the head of an answer, in machine code: where it ends, and how long a plain body is.

Importing this module imports numba.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic


def _loader(bits: int) -> Any:
    """An intrinsic that reads a number of `bits` at an address."""

    def load(context: Any, address: Any) -> Any:
        def lower(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            place = builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer())
            return builder.zext(builder.load(place, align=bits // 8), ir.IntType(64))

        return types.int64(types.int64), lower

    return intrinsic(load)


byte_at, int_at, word_at = _loader(8), _loader(32), _loader(64)


@njit(error_model="numpy")
def _is(place: Any, end: Any, text: bytes) -> bool:
    """Whether the bytes from `place` on are `text`, which is in lower case, in any case."""
    if end - place < len(text):
        return False
    for index in range(len(text)):
        byte = byte_at(place + index)
        if byte != text[index] and not (65 <= byte <= 90 and byte + 32 == text[index]):
            return False
    return True


@njit(error_model="numpy")
def _starts(place: Any, end: Any, text: bytes) -> bool:
    if end - place < len(text):
        return False
    for index in range(len(text)):  # noqa: SIM110 - numba knows no generator expressions
        if byte_at(place + index) != text[index]:
            return False
    return True


@njit(error_model="numpy")
def head_end(start: Any, size: Any, searched: Any) -> Any:
    """How many bytes the head has, its empty line included; 0 where that has not come."""
    for index in range(max(searched - 3, 0), size - 3):
        place = start + index
        if byte_at(place) == 13 and _is(place, start + size, b"\r\n\r\n"):
            return index + 4
    return 0


@njit(error_model="numpy")
def _number(place: Any, end: Any) -> Any:
    """The decimal number that a field's value is, up to its CR; -1 for anything else."""
    while place < end and byte_at(place) == 32:
        place += 1
    first, value = place, 0
    while place < end and 48 <= byte_at(place) <= 57 and place - first < 16:
        value = value * 10 + byte_at(place) - 48
        place += 1
    return value if place > first and place < end and byte_at(place) == 13 else -1


@njit(error_model="numpy")
def _is_token(byte: Any) -> Any:
    """Whether a field's name may have this byte, by a rule that is narrower than RFC 9110's."""
    return 97 <= byte <= 122 or 65 <= byte <= 90 or 48 <= byte <= 57 or byte in (45, 95, 46)


@njit(error_model="numpy")
def _name_end(place: Any, end: Any) -> Any:
    """Where the colon after the name is that begins here; -1 where there is no such name."""
    first = place
    while place < end and _is_token(byte_at(place)):
        place += 1
    return place if first < place < end and byte_at(place) == 58 else -1


@njit(error_model="numpy")
def _line_end(place: Any, end: Any) -> Any:
    """Where the line ends, with CR and LF, whose rest is printable ASCII; -1 for any other."""
    while place < end and (32 <= byte_at(place) <= 126 or byte_at(place) == 9):
        place += 1
    return place if end - place >= 2 and byte_at(place) == 13 and byte_at(place + 1) == 10 else -1


@njit(error_model="numpy")
def _field_length(place: Any, end: Any, length: Any) -> Any:
    """The body's length after the field that begins here, `length` before it; -2 where the answer is not plain."""
    if _is(place, end, b"transfer-encoding:") or _is(place, end, b"upgrade:"):
        return -2
    if not _is(place, end, b"content-length:"):
        return length
    number = _number(place + 15, end)
    return number if length < 0 and number >= 0 else -2


@njit(error_model="numpy")
def plain_length(start: Any, end: Any) -> Any:
    """The body's length, where the head is one that every parser reads alike, of a body that has one; else below 0."""
    if not (_starts(start, end, b"HTTP/1.1 200 ") or _starts(start, end, b"HTTP/1.1 206 ")):
        return -1
    place, length = _line_end(start + 13, end), -1
    while place >= 0 and length > -2:
        place += 2
        if place == end - 2:
            return length
        colon = _name_end(place, end)
        if colon < 0:
            return -1
        length = _field_length(place, end, length)
        place = _line_end(colon + 1, end)
    return -1
