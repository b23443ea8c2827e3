"""Heads, framing and chunks: the same bytes mean the same in whatever pieces they come, and ambiguity is refused."""

from __future__ import annotations

import re
import traceback
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.errors import InvalidKeyError, ProtocolError
from s3dlio.transport.http1 import (
    ChunkedDecoder,
    Framing,
    Head,
    SecretHeaders,
    SecretText,
    body_framing,
    http_date,
    parse_head,
    parse_size,
    quote_etag,
    quote_path,
    quote_query,
    request_head,
)


def head_of(*lines: str, status: str = "HTTP/1.1 200 OK") -> bytes:
    return "".join(f"{line}\r\n" for line in (status, *lines, "")).encode("latin-1")


def test_a_request() -> None:
    assert request_head("GET", "/b/k?x=1", {"host": "h", "range": "bytes=0-1"}) == (
        b"GET /b/k?x=1 HTTP/1.1\r\nhost: h\r\nrange: bytes=0-1\r\n\r\n"
    )


@pytest.mark.parametrize("bad", ["\r", "\n", "\0", "\r\nx: y", "\N{SNOWMAN}"])
@pytest.mark.parametrize("place", ["target", "name", "value"])
def test_a_request_that_would_be_two(bad: str, place: str) -> None:
    parts = {"target": "/k", "name": "x-amz-meta-a", "value": "v"}
    parts[place] += bad
    with pytest.raises(ProtocolError):
        request_head("GET", parts["target"], {parts["name"]: parts["value"]})


def test_an_answer() -> None:
    head = parse_head(head_of('ETag: "a"', "Content-Length: 12 \t", "X:", "Vary: a", "vary: b"))
    assert head == Head(200, {"etag": '"a"', "content-length": "12", "x": "", "vary": "a, b"}, keep_alive=True)
    assert body_framing("GET", head) == Framing("length", 12)


@pytest.mark.parametrize(
    ("lines", "keep"),
    [
        (["content-length: 0"], True),
        (["content-length: 7"], True),
        ([], True),
        (["connection: close", "content-length: 0"], False),
        (["Connection: x, Close", "content-length: 0"], False),
        (["connection: keep-alive", "content-length: 0"], True),
    ],
)
def test_whether_the_connection_is_kept(lines: list[str], *, keep: bool) -> None:
    assert parse_head(head_of(*lines)).keep_alive is keep
    assert parse_head(head_of(*lines, status="HTTP/1.1 404 Not Found")).keep_alive is keep
    assert not parse_head(head_of(*lines, status="HTTP/1.0 200 OK")).keep_alive


SMUGGLING = {
    "two lengths": head_of("Content-Length: 1", "Content-Length: 2"),
    "the same length twice": head_of("Content-Length: 1", "Content-Length: 1"),
    "two lengths in one": head_of("Content-Length: 1, 2"),
    "signed length": head_of("Content-Length: +1"),
    "negative length": head_of("Content-Length: -1"),
    "hex length": head_of("Content-Length: 0x1"),
    "empty length": head_of("Content-Length:"),
    "length not ASCII": head_of("Content-Length: \N{SUPERSCRIPT TWO}"),
    "length of a googol": head_of(f"Content-Length: 1{'0' * 100}"),
    "length of 64 bits": head_of("Content-Length: 9223372036854775807"),
    "length and chunks": head_of("Content-Length: 1", "Transfer-Encoding: chunked"),
    "chunks and length": head_of("Transfer-Encoding: chunked", "Content-Length: 1"),
    "chunked twice": head_of("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
    "chunked, then gzip": head_of("Transfer-Encoding: chunked, gzip"),
    "gzip, then chunked": head_of("Transfer-Encoding: gzip, chunked"),
    "nearly chunked": head_of("Transfer-Encoding: xchunked"),
    "identity": head_of("Transfer-Encoding: identity", "Content-Length: 1"),
    "folded line": head_of("Content-Length: 1", " 2"),
    "folded by tab": head_of("X: a", "\tTransfer-Encoding: chunked"),
    "space before the colon": head_of("Content-Length : 1"),
    "space before the name": head_of(" Content-Length: 1"),
    "no colon": head_of("Content-Length 1"),
    "no name": head_of(": 1"),
    "NUL in a value": head_of("X: a\0b"),
    "NUL in a name": head_of("X\0: a"),
    "CR alone": head_of("X: a\rContent-Length: 1"),
    "LF alone": head_of("X: a\nContent-Length: 1"),
    "status of two digits": head_of(status="HTTP/1.1 20 OK"),
    "status of four digits": head_of(status="HTTP/1.1 2000 OK"),
    "no status": head_of(status="HTTP/1.1 OK"),
    "another protocol": head_of(status="ICY 200 OK"),
    "a request": head_of(status="GET / HTTP/1.1"),
    "upgrade": head_of("Upgrade: h2c", "Connection: upgrade", status="HTTP/1.1 101 Switching Protocols"),
    "TLS": b"\x16\x03\x01\x02\x00\r\n\r\n",
    "nothing": b"\r\n\r\n",
}


@pytest.mark.parametrize("head", SMUGGLING)
def test_ambiguous_answers_are_refused(head: str) -> None:
    with pytest.raises(ProtocolError):
        body_framing("GET", parse_head(SMUGGLING[head]))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_head_or_an_error(data: bytes) -> None:
    for bytes_seen in (data + b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + data + b"\r\n\r\n"):
        try:
            head = parse_head(bytes_seen)
        except ProtocolError:
            continue
        assert isinstance(head.status, int)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304), ("GET", 100)])
def test_answers_that_have_no_body(method: str, status: int) -> None:
    assert body_framing(method, Head(status, {"content-length": "5"}, keep_alive=True)) == Framing("length", 0)
    assert body_framing(method, Head(status, {"transfer-encoding": "chunked"}, keep_alive=True)) == Framing("length", 0)


def test_a_body_that_ends_with_the_connection() -> None:
    assert body_framing("GET", parse_head(head_of())) == Framing("close")


def test_etags() -> None:
    assert [quote_etag(etag) for etag in ('"a"', 'W/"a"', "a", "*")] == ['"a"', 'W/"a"', '"a"', "*"]


@given(st.datetimes(min_value=datetime(1, 1, 1), timezones=st.just(UTC)))
def test_dates(moment: datetime) -> None:
    moment = moment.replace(microsecond=0)
    text = format_datetime(moment, usegmt=True)
    assert http_date(text) == moment


@given(st.text(max_size=40))
def test_dates_that_are_none(text: str) -> None:
    assert http_date(text) is None or len(text) >= 24


@pytest.mark.parametrize("text", ["0", "7", "0000000000000000012", "4611686018427387903"])
def test_sizes(text: str) -> None:
    assert parse_size(text) == int(text)


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", " 1", "1 ", "1\n", "+1", "-1", "1.0", "1e3", "0x1", "1_000", "\N{SUPERSCRIPT TWO}"),
        *("\N{ARABIC-INDIC DIGIT ONE}", "4611686018427387904", "9223372036854775807", "9" * 19, "0" * 20, "9" * 5000),
    ],
)
def test_what_is_no_size(text: str | None) -> None:
    assert parse_size(text) is None


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_quoted_path_is_one_word_that_means_the_key(key: str) -> None:
    quoted = quote_path(key)
    assert set(quoted) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~/%")
    plain = quoted.encode().split(b"%")
    assert plain[0] + b"".join(bytes([int(part[:2], 16)]) + part[2:] for part in plain[1:]) == key.encode()


def test_queries_are_sorted_after_quoting() -> None:
    pairs = [("b", "2"), ("a", "/"), ("a", "."), ("uploads", ""), ("ä", "1")]
    assert quote_query(pairs) == "%C3%A4=1&a=%2F&a=.&b=2&uploads="
    assert quote_query([]) == ""


def test_keys_without_utf8_form_are_refused() -> None:
    with pytest.raises(InvalidKeyError, match="UTF-8") as caught:
        quote_path("a\udc80")
    assert caught.value.key == "a\udc80"
    with pytest.raises(InvalidKeyError, match="UTF-8"):
        quote_query([("prefix", "\ud800")])


extensions = st.sampled_from([b"", b";x", b";a=b", b';a="b c";d', b";chunk-signature=0a"])


@st.composite
def chunked(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A message's body, and the same in chunks."""
    pieces = draw(st.lists(st.binary(min_size=1, max_size=50), max_size=6))
    encoded = b"".join(
        b"%b%b\r\n%b\r\n" % (draw(st.sampled_from([b"%x", b"%X", b"000%x"])) % len(piece), draw(extensions), piece)
        for piece in pieces
    )
    trailers = b"".join(draw(st.lists(st.sampled_from([b"x-amz-checksum: abc\r\n", b"a:\r\n"]), max_size=2)))
    return b"".join(pieces), encoded + b"0" + draw(extensions) + b"\r\n" + trailers + b"\r\n"


def decode(*pieces: bytes) -> tuple[bytes, bool, bool]:
    """What a decoder makes of `pieces`: the body, whether it has ended, and whether anything follows it."""
    decoder, body = ChunkedDecoder(), bytearray()
    for number, piece in enumerate(pieces, 1):
        body += decoder.feed(piece)
        if decoder.done:
            return bytes(body), True, decoder.excess or bool(b"".join(pieces[number:]).strip(b"\r\n"))
    return bytes(body), False, False


def in_bytes(stream: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in stream]


@given(chunked(), st.binary(max_size=10) | st.just(head_of("Content-Length: 1") + b"x"))
def test_chunks_in_any_pieces(message: tuple[bytes, bytes], after: bytes) -> None:
    body, encoded = message
    stream, expected = encoded + after, (body, True, bool(after.strip(b"\r\n")))
    assert decode(*in_bytes(stream)) == expected
    for cut in range(len(stream)):
        assert decode(stream[:cut], stream[cut:]) == expected


@given(chunked(), st.integers(1, 400))
def test_chunks_that_break_off(message: tuple[bytes, bytes], missing: int) -> None:
    body, encoded = message
    got, done, _ = decode(encoded[: max(0, len(encoded) - missing)])
    assert not done
    assert body.startswith(got)


def model(stream: bytes) -> tuple[bytes, bool, bool] | None:
    """What :func:`decode` must give for a stream that begins with a whole chunked body; `None` for any other."""
    body = bytearray()
    while line := re.match(rb"([0-9A-Fa-f]{1,16})(?:;[\w+]+(?:=[\w+]+)?)*\r\n", stream):
        size, stream = int(line[1], 16), stream[line.end() :]
        if not size:
            end = re.match(rb"(?:[\w+]+:[^\r\n]*\r\n)*\r\n", stream)
            return (bytes(body), True, bool(stream[end.end() :].strip(b"\r\n"))) if end else None
        body += stream[:size]
        if stream[size : size + 2] != b"\r\n":
            return None
        stream = stream[size + 2 :]
    return None


fragments = st.sampled_from(
    [
        *(b"0", b"1", b"2", b"a", b"F", b"g", b"+", b" ", b"\r", b"\n", b"\r\n", b"\r\n", b"\r\n"),
        *(b";x", b";x=y", b"x: y\r\n", b"1\r\na\r\n", b"2\r\n\r\n\r\n", b"0\r\n", b"0\r\n\r\n"),
    ]
)


@given(st.lists(fragments, max_size=12))
def test_a_body_ends_where_the_model_says(pieces: list[bytes]) -> None:
    expected = model(b"".join(pieces))
    for cut_up in (pieces, [b"".join(pieces)], in_bytes(b"".join(pieces))):
        outcome = _outcome(cut_up)
        assert outcome == expected if expected else outcome is None or not outcome[1]


MALFORMED = {
    "no size": b"\r\n",
    "not hex": b"g\r\n",
    "sign": b"+1\r\na\r\n0\r\n\r\n",
    "prefix": b"0x1\r\na\r\n0\r\n\r\n",
    "leading space": b" 1\r\na\r\n0\r\n\r\n",
    "trailing space": b"1 \r\na\r\n0\r\n\r\n",
    "negative": b"-1\r\n",
    "LF alone": b"1\na\r\n0\r\n\r\n",
    "CR in an extension": b"1;\rx\r\na\r\n0\r\n\r\n",
    "NUL in an extension": b"1;x=\0\r\na\r\n0\r\n\r\n",
    "too long": b"2\r\nabc\r\n0\r\n\r\n",
    "too short": b"2\r\na\r\n0\r\n\r\n",
    "wrong end": b"1\r\na\n\n0\r\n\r\n",
    "huge": b"1" + b"0" * 16 + b"\r\n",
    "trailer of LF alone": b"0\r\n\n",
    "folded trailer": b"0\r\na: b\r\n c\r\n\r\n",
    "trailer without a colon": b"0\r\na\r\n\r\n",
    "length in a trailer": b"0\r\ncontent-length: 1\r\n\r\n",
    "endless size": b"0" * 70_000,
    "endless line": b"1;" + b"x" * 70_000,
    "endless trailers": b"0\r\n" + b"a: b\r\n" * 20_000,
    "one endless trailer": b"0\r\na: " + b"b" * 70_000,
}


@pytest.mark.parametrize("stream", MALFORMED)
def test_malformed_chunks(stream: str) -> None:
    encoded = MALFORMED[stream]
    with pytest.raises(ProtocolError):
        decode(encoded)
    with pytest.raises(ProtocolError):
        decode(*in_bytes(encoded))


def test_many_small_chunks_are_no_endless_line() -> None:
    stream = b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n"
    assert decode(stream) == decode(*in_bytes(stream)) == (b"a" * 20_000, True, False)


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_any_bytes_are_the_same_in_any_pieces(pieces: list[bytes]) -> None:
    assert _outcome(pieces) == _outcome([b"".join(pieces)])


def _outcome(pieces: list[bytes]) -> tuple[bytes, bool, bool] | None:
    try:
        return decode(*pieces)
    except ProtocolError:
        return None


@pytest.mark.parametrize("status", ["000 Nothing", "099 Less", "101 Switching Protocols"])
def test_statuses_that_answer_nothing(status: str) -> None:
    with pytest.raises(ProtocolError):
        parse_head(head_of("Content-Length: 0", status=f"HTTP/1.1 {status}"))


def test_what_a_server_says_is_shown_in_one_short_line() -> None:
    for name in ("Transfer-Encoding", "Content-Length"):
        with pytest.raises(ProtocolError) as caught:
            body_framing("GET", parse_head(head_of(f"{name}: \x1b[2J" + "x" * 60_000)))
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400


def test_a_request_that_may_hold_a_secret_is_not_shown() -> None:
    target, headers = SecretText("/k?sig=canary"), SecretHeaders({"authorization": "canary", "bad": "a\nb"})
    assert "canary" not in f"{target!r} {headers!r}"
    with pytest.raises(ProtocolError) as caught:
        request_head("GET", target, headers)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown.stack = traceback.StackSummary.from_list([frame for frame in shown.stack if frame.filename != __file__])
    assert "canary" not in "".join(shown.format())
