"""The header of a safetensors object: what lies where, read from a stranger's bytes, and written as the original does.

An object is 8 bytes that tell the header's length, little-endian; the header, JSON in UTF-8; and the bytes of the
tensors, row-major and little-endian, without a gap and without an overlap. Source:
https://github.com/huggingface/safetensors#format. Nothing of a header is believed before it was compared with the
object's size.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import ErrorContext, FormatError, shown

LENGTH = 8
"""Bytes before the header."""

MAX_HEADER = 100_000_000
"""Bytes of the longest header, as the format has it."""

BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
"""Bits of a number of each type, in the original's order of types: tensors are written from the last to the first."""

_RANK = {dtype: number for number, dtype in enumerate(BITS)}
_METADATA = "__metadata__"
_MOST = 1 << 64


class TensorInfo(NamedTuple):
    """A tensor of an object: its type's name, its shape, and its bytes `start` to `end` (exclusive) of the object."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """What an object holds: its tensors in the order of their bytes, which begin at `data_start`; and text by name."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str] | None
    data_start: int


def header_end(head: bytes, size: int, context: ErrorContext) -> int:
    """Where the header of an object of `size` bytes ends, by `head`, its first 8 bytes or more.

    Errors: `FormatError` where there can be no such header.
    """
    if len(head) < LENGTH:
        raise FormatError(f"no safetensors object: it has {size} bytes, and no header", context)
    length = int.from_bytes(head[:LENGTH], "little")
    if length > min(MAX_HEADER, size - LENGTH):
        raise FormatError(f"no safetensors object: a header of {length} bytes, in {size}", context)
    return LENGTH + length


def parse_header(text: bytes, size: int, context: ErrorContext) -> Header:
    """The header `text` of an object of `size` bytes.

    Errors: `FormatError` for what is not JSON of the format, for a name that comes twice, for a type there is not, and
    where tensors overlap, leave a gap, or have other bytes than their shape takes.
    """
    try:
        content = _read_object(text)
        metadata = _metadata(content.pop(_METADATA)) if _METADATA in content else None
        start = LENGTH + len(text)
        found = {name: _tensor(name, described, start) for name, described in content.items()}
        tensors = dict(sorted(found.items(), key=lambda item: (item[1].start, item[1].end)))
        _check_bytes(tensors, start, size)
    except _UnusableError as error:
        raise FormatError(f"the header of a safetensors object {error}", context) from None
    return Header(tensors, metadata, start)


class _UnusableError(Exception):
    """What is wrong with a header."""


def _read_object(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text.decode(), object_pairs_hook=_unique)
        if b"\\u" in text:  # by these Python alone takes half a surrogate pair for text
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise _UnusableError("is not JSON") from None
    if not isinstance(content, dict) or not text.startswith(b"{"):
        raise _UnusableError("is not an object of JSON")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _UnusableError("has a name twice")
    return found


def _metadata(given: Any) -> Mapping[str, str]:
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise _UnusableError("has metadata that is not text by name")
    return given


def _tensor(name: str, given: Any, data_start: int) -> TensorInfo:
    fields = given if isinstance(given, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), _sizes(fields.get("shape")), _sizes(fields.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _UnusableError(f"has a tensor, {shown(name)!r}, of an unknown type, {shown(str(dtype), 40)!r}")
    if shape is None or offsets is None or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _UnusableError(f"has a tensor, {shown(name)!r}, without a shape or without a place")
    start, end = offsets
    if end - start != _size_of(dtype, shape):
        raise _UnusableError(f"has a tensor, {shown(name)!r}, whose shape takes another number of bytes than it has")
    return TensorInfo(dtype, shape, data_start + start, data_start + end)


def _sizes(given: Any) -> tuple[int, ...] | None:
    if isinstance(given, list) and all(type(number) is int and 0 <= number < _MOST for number in given):
        return tuple(given)
    return None


def _size_of(dtype: str, shape: Iterable[int]) -> int | None:
    """Bytes of a tensor; `None` where they are no whole number, or more than a machine can count."""
    count = 1
    for length in shape:
        count *= length
        if count >= _MOST:
            return None
    size, rest = divmod(count * BITS[dtype], 8)
    return None if rest else size


def _check_bytes(tensors: Mapping[str, TensorInfo], start: int, size: int) -> None:
    """That `tensors`, sorted, lie one after the other from `start` to the object's end."""
    done = start
    for name, tensor in tensors.items():
        if tensor.start != done:
            raise _UnusableError(f"has a tensor, {shown(name)!r}, that does not begin where the one before ends")
        done = tensor.end
    if done != size:
        raise _UnusableError(f"is of an object of {done} bytes, and this one has {size}")


def plan_header(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str] | None
) -> tuple[bytes, list[str]]:
    """The bytes before those of `tensors`, each a type's name and a shape; and the order in which the tensors follow.

    Errors: `ValueError` for a name that the format needs itself, for text that cannot be encoded, and where the header
    gets too long.
    """
    if _METADATA in tensors:
        raise ValueError(f"{_METADATA} is no name for a tensor")
    order = sorted(tensors, key=lambda name: (-_RANK[tensors[name][0]], name))
    content: dict[str, Any] = {} if metadata is None else {_METADATA: dict(metadata)}
    end = 0
    for name in order:
        dtype, shape = tensors[name]
        start, end = end, end + (_size_of(dtype, shape) or 0)
        content[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(
            f"the names and shapes take {len(text)} bytes, more than the {MAX_HEADER} that a header may have"
        )
    return len(text).to_bytes(LENGTH, "little") + text, order


def parse_index(text: bytes, context: ErrorContext) -> Mapping[str, str]:
    """Which object beside the index has each tensor, of a `model.safetensors.index.json`: names of objects by tensors.

    Source: https://huggingface.co/docs/transformers/big_models#sharded-checkpoints. Errors: `FormatError`, also for a
    name that leads out of the index's folder.
    """
    try:
        weights = _read_object(text.strip()).get("weight_map")
    except _UnusableError as error:
        raise FormatError(f"the index of a model {error}", context) from None
    names = weights.values() if isinstance(weights, dict) else [None]
    if not all(isinstance(name, str) and name and "/" not in name for name in names):
        raise FormatError("the index of a model does not say which object beside it has each tensor", context)
    assert isinstance(weights, dict)
    return weights
