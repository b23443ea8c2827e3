from __future__ import annotations

import pickle
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.model import (
    BoundedRange,
    GetResult,
    ObjectMeta,
    OffsetRange,
    PutOptions,
    RestoreStatus,
    SuffixRange,
    Upload,
    resolve,
)

DATA = bytes(range(50))


@given(st.integers(0, 60), st.integers(1, 60), st.integers(0, 50))
def test_ranges_are_slices(start: int, length: int, size: int) -> None:
    data = DATA[:size]

    def taken(byte_range: BoundedRange | OffsetRange | SuffixRange | None) -> bytes:
        first, end = resolve(byte_range, size)
        return data[first:end]

    assert taken(None) == data
    assert taken(BoundedRange(start, start + length)) == data[start : start + length]
    assert taken(OffsetRange(start)) == data[start:]
    assert taken(SuffixRange(length)) == data[-length:]


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (5, 5), (6, 5), (0, 0)])
def test_an_empty_range_is_none(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="not a range"):
        BoundedRange(start, end)


def test_offsets_and_lengths_have_a_sign() -> None:
    with pytest.raises(ValueError, match="not an offset"):
        OffsetRange(-1)
    for length in (0, -1):
        with pytest.raises(ValueError, match="not a suffix length"):
            SuffixRange(length)


_RESTORED = RestoreStatus(False, datetime(2024, 3, 1, tzinfo=UTC))
META = ObjectMeta(
    "key", 5, '"etag"', datetime(2024, 2, 29, tzinfo=UTC), "v", "GLACIER", "text/x", {"name": "value"}, _RESTORED
)


@pytest.mark.parametrize(
    "value",
    [
        META,
        ObjectMeta("key", 5),
        GetResult(META, 1, 3),
        BoundedRange(1, 2),
        PutOptions(),
        PutOptions("text/x", {"name": "value"}),
        PutOptions("text/x", {"name": "value"}, '"etag"', storage_class="GLACIER"),
        RestoreStatus(True),
        Upload("key", "id", PutOptions()),
    ],
)
def test_values_can_be_pickled(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value


def test_metadata_that_is_not_given_cannot_be_changed() -> None:
    for metadata in (ObjectMeta("key", 5).metadata, PutOptions().metadata):
        with pytest.raises(TypeError):
            metadata["name"] = "value"  # type: ignore[index]
