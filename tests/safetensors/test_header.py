"""Headers: what the original writes and refuses, and what is hostile."""

from __future__ import annotations

import json
from typing import Any

import pytest
import safetensors
from hypothesis import example, given
from hypothesis import strategies as st

from s3dlio.errors import ErrorContext, FormatError
from s3dlio.safetensors.header import BITS, LENGTH, MAX_HEADER, header_end, parse_header, parse_index, plan_header

NOWHERE = ErrorContext("GetObject", key="model.safetensors")
ONE = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def parsed(text: bytes, data: int) -> dict[str, tuple[str, list[int], int, int]]:
    """Tensors by name, their places counted from the first one's, of a header before `data` bytes."""
    header = parse_header(text, LENGTH + len(text) + data, NOWHERE)
    return {
        name: (tensor.dtype, [*tensor.shape], tensor.start - header.data_start, tensor.end - header.data_start)
        for name, tensor in header.tensors.items()
    }


def encoded(content: Any) -> bytes:
    return json.dumps(content).encode()


def as_original(text: bytes, data: int) -> dict[str, tuple[str, list[int], int]] | None:
    """What the original finds: type, shape and bytes by name; `None` where it refuses."""
    whole = len(text).to_bytes(LENGTH, "little") + text + bytes(data)
    try:
        found = safetensors.deserialize(whole)
    except safetensors.SafetensorError:
        return None
    return {name: (each["dtype"], each["shape"], len(each["data"])) for name, each in found}


def test_tensors_come_in_the_order_of_their_bytes() -> None:
    text = encoded({"b": {**ONE, "data_offsets": [24, 48]}, "__metadata__": {"a": "b"}, "a": ONE})
    assert parsed(text, 48) == {"a": ("F32", [2, 3], 0, 24), "b": ("F32", [2, 3], 24, 48)}
    assert parse_header(text, LENGTH + len(text) + 48, NOWHERE).metadata == {"a": "b"}


def test_no_tensors_and_no_metadata() -> None:
    header = parse_header(b"{}  ", 12, NOWHERE)
    assert (header.tensors, header.metadata, header.data_start) == ({}, None, 12)


CHANGES: dict[str, dict[str, Any]] = {
    "an unknown type": {"dtype": "F33"},
    "a type of numbers": {"dtype": 32},
    "a type that is a list": {"dtype": ["F32"]},
    "no shape": {"shape": None},
    "a shape of text": {"shape": "23"},
    "a negative length": {"shape": [-2, -3]},
    "a length that is true": {"shape": [True, 6]},
    "a length with a point": {"shape": [2.0, 3]},
    "another shape": {"shape": [2, 4]},
    "a shape that overflows": {"shape": [1 << 62, 1 << 62, 4]},
    "a shape beyond a word": {"shape": [1 << 64, 0]},
    "no offsets": {"data_offsets": []},
    "three offsets": {"data_offsets": [0, 24, 24]},
    "offsets the wrong way": {"data_offsets": [24, 0]},
    "an offset below": {"data_offsets": [-24, 0]},
    "bits that fill no byte": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]},
}
HOSTILE = {
    "empty": b"",
    "not JSON": b"{",
    "not UTF-8": b'{"\xff": {}}',
    "a list": b"[]",
    "space before": b" {}",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "nested lists": b'{"a":' + b"[" * 200_000,
    "nested objects": b'{"a":' * 200_000,
    "a long number": b'{"a":' + b"1" * 5000 + b"}",
    "a tensor twice": b'{"a":%(one)s,"a":%(one)s}' % {b"one": encoded(ONE)},
    "a field twice": b'{"a":{"dtype":"F32","dtype":"F32","shape":[6],"data_offsets":[0,24]}}',
    "metadata twice": b'{"__metadata__":{},"__metadata__":{}}',
    "metadata of numbers": b'{"__metadata__":{"a":1}}',
    "metadata of text": b'{"__metadata__":"a"}',
    "a tensor of text": b'{"a":"b"}',
    **{name: encoded({"a": {**ONE, **changed}}) for name, changed in CHANGES.items()},
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_header_is_a_typed_error_that_names_the_object(text: bytes) -> None:
    with pytest.raises(FormatError, match=r"key='model\.safetensors'") as caught:
        parsed(text, 24)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("places", "data"),
    [
        ([(8, 32)], 32),
        ([(0, 24), (20, 44)], 44),
        ([(0, 24), (28, 52)], 52),
        ([(0, 24), (0, 24)], 24),
        ([(0, 24), (0, 24)], 48),
        ([(0, 24), (24, 48)], 47),
        ([(0, 24), (24, 48)], 49),
        ([], 1),
    ],
)
def test_tensors_that_do_not_lie_one_after_the_other_are_refused(places: list[tuple[int, int]], data: int) -> None:
    text = encoded({str(number): {**ONE, "data_offsets": place} for number, place in enumerate(places)})
    assert as_original(text, data) is None
    with pytest.raises(FormatError):
        parsed(text, data)


def test_a_product_that_overflows_on_its_way_to_nothing_is_refused() -> None:
    text = encoded({"a": {"dtype": "F32", "shape": [1 << 63, 2, 0], "data_offsets": [0, 0]}})
    assert as_original(text, 0) is None
    with pytest.raises(FormatError):
        parsed(text, 0)


@pytest.mark.parametrize(
    ("length", "size"), [(0, 3), (1, 8), (93, 100), (1 << 63, 1 << 40), (MAX_HEADER + 1, MAX_HEADER * 2)]
)
def test_a_length_that_cannot_be_is_found_before_the_header_is_read(length: int, size: int) -> None:
    with pytest.raises(FormatError, match="no safetensors object"):
        header_end(length.to_bytes(LENGTH, "little")[:size], size, NOWHERE)
    assert header_end((92).to_bytes(LENGTH, "little"), 100, NOWHERE) == 100


@example(b"{" + b" " * 1_000_000 + b"}", 0)
@given(st.binary(max_size=40) | st.text().map(str.encode), st.integers(0, 40))
def test_any_bytes_are_read_or_refused(text: bytes, data: int) -> None:
    try:
        parsed(text, data)
    except FormatError:
        return
    assert as_original(text, data) is not None


_NUMBERS = st.integers(0, 5) | st.sampled_from([-1, 1 << 32, 1 << 63, 1 << 64])
_TENSORS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*BITS, "F33"]),
        "shape": st.lists(_NUMBERS, max_size=3),
        "data_offsets": st.lists(_NUMBERS, min_size=2, max_size=2).map(sorted),
    },
    optional={"more": st.none()},
)


@given(st.dictionaries(st.text(max_size=3), _TENSORS, max_size=3), st.integers(0, 10))
def test_what_the_original_refuses_is_refused_and_no_more(tensors: dict[str, Any], data: int) -> None:
    text = encoded(tensors)
    expected = as_original(text, data)
    if expected is None:
        with pytest.raises(FormatError):
            parsed(text, data)
    else:
        found = parsed(text, data)
        assert {name: (dtype, shape, end - start) for name, (dtype, shape, start, end) in found.items()} == expected


_NUDGES = st.sampled_from([0] * 8 + [-1, 1])


@given(
    st.lists(st.tuples(st.sampled_from(["U8", "F16", "F4"]), st.integers(0, 4), _NUDGES, _NUDGES), max_size=4), _NUDGES
)
def test_of_what_is_nearly_right_what_the_original_refuses_is_refused(
    tensors: list[tuple[str, int, int, int]], more: int
) -> None:
    content, end = {}, 0
    for number, (dtype, length, begin, stop) in enumerate(tensors):
        start, end = end, end + length * BITS[dtype] // 8
        content[str(number)] = {"dtype": dtype, "shape": [length], "data_offsets": [start + begin, end + stop]}
    text, data = encoded(content), max(0, end + more)
    if as_original(text, data) is None:
        with pytest.raises(FormatError):
            parsed(text, data)
    else:
        assert len(parsed(text, data)) == len(tensors)


def test_a_name_that_is_the_formats_own_is_none_for_a_tensor() -> None:
    with pytest.raises(ValueError, match="__metadata__"):
        plan_header({"__metadata__": ("F32", ())}, None)


def test_a_header_that_is_too_long_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3dlio.safetensors.header.MAX_HEADER", 1000)
    with pytest.raises(ValueError, match="take 1032 bytes, more than the 1000"):
        plan_header({}, {"a": "b" * 1000})


def test_an_index_names_objects_beside_it() -> None:
    assert parse_index(b' {"metadata": {}, "weight_map": {"a": "x", "b": "y"}}\n', NOWHERE) == {"a": "x", "b": "y"}


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {"a": 1}}', b'{"weight_map": {"a": "../x"}}'),
        *(b'{"weight_map": {"a": "x", "a": "y"}}', b'{"weight_map": {"a": ""}}', b"[" * 200_000),
    ],
)
def test_a_hostile_index_is_a_typed_error(text: bytes) -> None:
    with pytest.raises(FormatError, match="index"):
        parse_index(text, NOWHERE)
