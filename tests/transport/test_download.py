"""A download against a plain model: whatever the answers, the bytes are exactly the object's, or there is an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.errors import ObjectChangedError, ProtocolError, RangeError, StoreError
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
        """One answer, of which `cut` of the wanted bytes arrive; whether that is all of them."""
        place = self.download.place(Head(status, headers, keep_alive=True), len(body))
        wanted = body[self.download.skip :][: len(place)]
        assert len(place) == len(wanted)
        arrived = len(wanted) if cut is None else min(cut, len(wanted))
        place[:arrived] = wanted[:arrived]
        self.download.filled = arrived
        return arrived == len(wanted)


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


@given(st.binary(min_size=1, max_size=60), ranges, st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=4))
def test_a_server_that_knows_no_ranges(data: bytes, byte_range: GetRange | None, cuts: list[tuple[int, bool]]) -> None:
    """It always sends the whole object, or does so now and then: the wanted part of it arrives."""
    start, end = resolve(byte_range, len(data))
    reader = Reader(byte_range)
    whole = (200, {"etag": ETAG}, data)
    for cut, deaf in cuts:
        if start >= len(data) or cut >= end - start - reader.download.received:
            break
        reader.receive(*(whole if deaf else answer(data, reader.asked())), cut)
        reader.download.broke_off()
    if start >= len(data):
        with pytest.raises(RangeError):
            reader.receive(*whole)
        return
    assert reader.receive(*whole)
    assert reader.view == data[start:end]
    assert reader.download.result == GetResult(ObjectMeta("key", len(data), ETAG), start, end)


@pytest.mark.parametrize("taken", [0, 3, 15])
def test_a_sink_may_take_what_follows(taken: int) -> None:
    told: list[GetResult] = []
    view = bytearray(5 + taken)

    def sink(coming: GetResult) -> memoryview:
        told.append(coming)
        return memoryview(view)

    download = Download("key", sink, describe, BoundedRange(0, 5))
    assert len(download.place(Head(200, {"etag": ETAG}, keep_alive=True), 20)) == 5 + taken
    assert told == [GetResult(ObjectMeta("key", 20, ETAG), 0, 5, excess=15)]
    assert download.result == GetResult(ObjectMeta("key", 20, ETAG), 0, 5 + taken)
    download.filled = 2
    download.broke_off()
    assert download.narrow({}, "")[0] == {"range": f"bytes=2-{4 + taken}", "if-match": ETAG}


def test_a_sink_may_not_take_more_than_follows() -> None:
    download = Download("key", lambda _: memoryview(bytearray(21)), describe, BoundedRange(0, 5))
    with pytest.raises(ValueError, match="21 bytes for 5"):
        download.place(Head(200, {"etag": ETAG}, keep_alive=True), 20)


def test_there_is_no_memory() -> None:
    download = Download("key", lambda coming: memoryview(bytearray(coming.end)), describe)
    with pytest.raises(StoreError, match="no memory") as caught:
        download.place(Head(200, {"etag": ETAG}, keep_alive=True), 2**60)
    assert caught.value.key == "key"


WEAK, OTHER_WEAK = 'W/"one"', 'W/"two"'


@pytest.mark.parametrize(
    ("second", "same"),
    [
        ((WEAK, 1, 20), True),
        ((OTHER_WEAK, 1, 20), False),
        ((WEAK, 2, 20), False),
        ((WEAK, 1, 21), False),
        ((ETAG, 1, 20), False),
        ((None, 1, 20), False),
    ],
)
def test_weak_etags(second: tuple[str | None, int, int], *, same: bool) -> None:
    """Nothing can be asked of them (If-Match never holds), so the answers are compared: etag, time and size."""

    def dated(headers: Mapping[str, str], size: int) -> ObjectMeta:
        return ObjectMeta("key", size, headers.get("etag"), datetime(2026, 1, int(headers["day"]), tzinfo=UTC))

    view = memoryview(bytearray(20))
    download = Download("key", lambda _: view, dated)
    download.place(Head(200, {"etag": WEAK, "day": "1"}, keep_alive=True), 20)
    download.filled = 5
    download.broke_off()
    assert download.narrow({}, "")[0] == {"range": "bytes=5-19"}
    etag, day, size = second
    headers = {"day": str(day), "content-range": f"bytes 5-19/{size}"} | ({"etag": etag} if etag else {})
    if same:
        assert len(download.place(Head(206, headers, keep_alive=True), 15)) == 15
    else:
        with pytest.raises(ObjectChangedError):
            download.place(Head(206, headers, keep_alive=True), 15)


@pytest.mark.parametrize(("told", "same"), [(WEAK, True), (OTHER_WEAK, False), (ETAG, False), (None, False)])
def test_a_weak_pin_of_the_caller(told: str | None, *, same: bool) -> None:
    reader = Reader(if_match=WEAK)
    assert reader.asked() == {}
    headers = {"etag": told} if told else {}
    if same:
        assert reader.receive(200, headers, b"x")
    else:
        with pytest.raises(ObjectChangedError):
            reader.receive(200, headers, b"x")


def test_what_a_server_says_is_shown_in_one_short_line() -> None:
    hostile = '"\x1b[2J' + "x" * 50_000 + '"'
    answers = [{"etag": hostile}, {"etag": ETAG, "content-range": hostile}]
    for headers in answers:
        with pytest.raises(StoreError) as caught:
            Reader(BoundedRange(0, 5), if_match=ETAG).receive(206, {"content-range": "bytes 0-4/5"} | headers, b"01234")
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400
