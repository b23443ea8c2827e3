"""A download against a plain model: whatever the answers, the bytes are exactly the object's, or there is an error."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.errors import ObjectChangedError, ProtocolError, RangeError
from s3dlio.model import BoundedRange, GetRange, GetResult, ObjectMeta, OffsetRange, SuffixRange, resolve
from s3dlio.transport.download import Download, range_header
from s3dlio.transport.http1 import Head

ETAG, OTHER_ETAG = '"one"', '"two"'

ranges = st.one_of(
    st.none(),
    st.builds(lambda start, size: BoundedRange(start, start + size), st.integers(0, 40), st.integers(1, 40)),
    st.builds(OffsetRange, st.integers(0, 40)),
    st.builds(SuffixRange, st.integers(1, 40)),
)


def describe(headers: Mapping[str, str], size: int) -> ObjectMeta:
    return ObjectMeta("key", size, headers.get("etag"))


class Reader:
    """A download, its destination, and what it asked for."""

    def __init__(self, byte_range: GetRange | None = None, if_match: str | None = None) -> None:
        self.view = bytearray()
        self.download = Download("key", self._sink, describe, byte_range, if_match)

    def asked(self) -> dict[str, str]:
        """The headers of the next request."""
        headers, query = self.download.narrow({}, "")
        assert not query
        return headers

    def _sink(self, coming: GetResult) -> memoryview:
        assert not self.view, "the sink is asked once"
        self.view = bytearray(coming.end - coming.start)
        return memoryview(self.view)

    def receive(self, status: int, headers: Mapping[str, str], body: bytes, cut: int | None = None) -> bool:
        """One answer, of which `cut` bytes arrive; whether it was taken as the object, and came to its end."""
        place = self.download.place(Head(status, headers, keep_alive=True), len(body))
        if place is None:
            return False
        assert len(place) == len(body)
        arrived = len(body) if cut is None else min(cut, len(body))
        place[:arrived] = body[:arrived]
        self.download.filled = arrived
        return arrived == len(body)


def answer(data: bytes, asked: Mapping[str, str]) -> tuple[int, dict[str, str], bytes]:
    """What an honest server says."""
    value = asked.get("range")
    if value is None:
        return 200, {"etag": ETAG}, data
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", value)
    assert match is not None
    if not match[1]:
        start, end = max(0, len(data) - int(match[2])), len(data)
    else:
        start, end = int(match[1]), min(int(match[2]) + 1, len(data)) if match[2] else len(data)
    if start >= len(data):
        return 416, {}, b""
    return 206, {"etag": ETAG, "content-range": f"bytes {start}-{end - 1}/{len(data)}"}, data[start:end]


@given(st.binary(max_size=60), ranges, st.lists(st.integers(0, 60)))
def test_any_sequence_of_cuts(data: bytes, byte_range: GetRange | None, cuts: list[int]) -> None:
    reader, received = Reader(byte_range), 0
    for cut in cuts:
        status, headers, body = answer(data, reader.asked())
        if status == 416 or cut >= len(body):
            break
        reader.receive(status, headers, body, cut)
        assert reader.asked()["if-match"] == ETAG
        assert reader.download.broke_off() is (cut > 0)
        received += cut
    status, headers, body = answer(data, reader.asked())
    start, end = resolve(byte_range, len(data))
    if status == 416:
        assert start >= len(data)
        return
    assert reader.receive(status, headers, body)
    assert reader.view == data[start:end]
    assert received + len(body) == end - start
    assert reader.download.result == GetResult(ObjectMeta("key", len(data), ETAG), start, end)


lies = st.fixed_dictionaries(
    {
        "status": st.sampled_from([200, 206]),
        "etag": st.sampled_from([ETAG, ETAG, ETAG, OTHER_ETAG, None]),
        "range": st.none() | st.tuples(st.integers(0, 25), st.integers(-1, 25), st.integers(0, 25)),
        "start": st.integers(0, 20),
        "end": st.integers(0, 20),
    }
)


@given(ranges, st.integers(0, 20), st.lists(lies, max_size=4))
def test_no_lie_shifts_a_byte(byte_range: GetRange | None, cut: int, answers: list[dict[str, object]]) -> None:
    """The body of an answer is what the answer says it is; whatever it says, nothing wrong arrives."""
    data = bytes(range(1, 21))
    reader = Reader(byte_range)
    first = answer(data, reader.asked())
    if first[0] == 416 or reader.receive(*first, cut):
        return
    start, end = resolve(byte_range, len(data))
    for lie in answers:
        reader.download.broke_off()
        told = lie["range"]
        begin, stop = (told[0], told[1] + 1) if isinstance(told, tuple) else (0, len(data))
        headers = {"etag": str(lie["etag"])} if lie["etag"] else {}
        headers |= {"content-range": f"bytes {told[0]}-{told[1]}/{told[2]}"} if isinstance(told, tuple) else {}
        try:
            whole = reader.receive(int(str(lie["status"])), headers, data[begin:stop])
        except (ProtocolError, ObjectChangedError, RangeError):
            continue
        assert whole
        assert reader.view == data[start:end]
        return


@pytest.mark.parametrize("status", [204, 304, 400, 404, 412, 500])
def test_errors_are_not_the_object(status: int) -> None:
    reader = Reader()
    assert not reader.receive(status, {"etag": ETAG}, b"an explanation")
    assert reader.download.result is None
    assert not reader.view


@pytest.mark.parametrize("size", ["4611686018427387904", "9223372036854775807", "9223372036854775808", "9" * 30])
def test_sizes_that_no_object_has(size: str) -> None:
    reader = Reader(BoundedRange(0, 5))
    with pytest.raises(ProtocolError, match="makes no sense"):
        reader.receive(206, {"etag": ETAG, "content-range": f"bytes 0-4/{size}"}, b"01234")
    assert reader.download.result is None


def test_ranges_on_the_wire() -> None:
    assert [range_header(asked) for asked in (BoundedRange(0, 1), OffsetRange(5), SuffixRange(9))] == [
        "bytes=0-0",
        "bytes=5-",
        "bytes=-9",
    ]


def test_the_pin_of_the_caller() -> None:
    reader = Reader(if_match="one")
    assert reader.asked() == {"if-match": ETAG}
    assert [reader.download.tells_change(status) for status in (412, 416, 404)] == [True, False, False]
    with pytest.raises(ObjectChangedError, match="one became"):
        reader.receive(200, {"etag": OTHER_ETAG}, b"x")
    assert Reader().download.tells_change(412) is False


def test_an_error_while_nothing_is_missing_yet() -> None:
    reader = Reader(BoundedRange(5, 10))
    reader.receive(206, {"etag": ETAG, "content-range": "bytes 5-9/20"}, b"56789", cut=2)
    assert reader.download.broke_off()
    assert reader.asked() == {"range": "bytes=7-9", "if-match": ETAG}
    assert [reader.download.tells_change(status) for status in (412, 416, 404)] == [True, True, False]
