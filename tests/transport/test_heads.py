"""Heads by other readers: h11, which is strict as well, and the pump's own, which must take none but plain ones."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.errors import ProtocolError
from s3dlio.transport.http1 import ChunkedDecoder, Framing, body_framing, parse_head, plain_head

from .interpreted import InterpretedHead
from .test_http1 import SMUGGLING
from .test_pump import streams

_CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
_TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_.", min_size=1, max_size=12)
_VALUE = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=20).map(str.strip)
_OWN = {"content-length", "transfer-encoding", "connection", "upgrade"}

Read = tuple[int, dict[str, str], bytes]


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, dict[str, str], str]:
    """A status, headers in lower case, and the line that says how long the body is."""
    names = draw(st.lists(_TOKEN.filter(lambda name: name.lower() not in _OWN), max_size=4, unique_by=str.lower))
    framing = draw(st.sampled_from(["Content-Length: 5", "content-length:0", "Transfer-Encoding: chunked", ""]))
    return draw(st.integers(200, 599)), {name: draw(_VALUE) for name in names}, framing


def spelled(status: int, headers: dict[str, str], framing: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Reason", *(f"{name}: {value}" for name, value in headers.items()), framing, "", ""]
    return "\r\n".join(lines if framing else [*lines[:-3], "", ""]).encode("ascii")


def by_h11(head: bytes, body: bytes) -> Read | None:
    """Status, headers and body; `None` where h11 takes it for no answer, or the body for another than it says."""
    client, data = h11.Connection(h11.CLIENT), b""
    client.send(h11.Request(method="GET", target="/", headers=[("host", "h")]))
    client.send(h11.EndOfMessage())
    client.receive_data(head + body)
    client.receive_data(b"")
    try:
        answer = client.next_event()
        if not isinstance(answer, h11.Response):
            return None
        while isinstance(event := client.next_event(), h11.Data):
            data += event.data
    except h11.RemoteProtocolError:
        return None
    return answer.status_code, joined(answer), data


def joined(answer: h11.Response) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in answer.headers:
        text = value.decode("latin-1")
        found[name.decode()] = f"{found[name.decode()]}, {text}" if name.decode() in found else text
    return found


def by_us(head: bytes, body: bytes) -> Read | None:
    """The same by our own."""
    try:
        answer = parse_head(head)
        match body_framing("GET", answer):
            case Framing("length", size):
                data = body[:size] if size <= len(body) else None
            case Framing("chunked"):
                decoder = ChunkedDecoder()
                found = decoder.feed(body)
                data = found if decoder.done else None
            case _:
                data = body
    except ProtocolError:
        return None
    return None if data is None or answer.status < 200 else (answer.status, dict(answer.headers), data)


@given(answers())
def test_what_is_sound_is_read_as_it_was_meant(meant: tuple[int, dict[str, str], str]) -> None:
    status, headers, framing = meant
    head, body = spelled(*meant), _CHUNKS if "chunked" in framing else b"hello"
    read = by_us(head, body)
    assert read is not None
    assert read == by_h11(head, body)
    assert read[0] == status
    assert {name: read[1][name] for name in map(str.lower, headers)} == {n.lower(): v for n, v in headers.items()}
    assert InterpretedHead().head_end(head) == len(head)


@given(streams())
def test_what_both_take_both_read_alike(stream: bytes) -> None:
    """No head may end, and no body be as long, by one of them and otherwise by the other."""
    end = stream.find(b"\r\n\r\n") + 4
    ours, theirs = by_us(stream[:end], stream[end:]), by_h11(stream[:end], stream[end:])
    assert ours == theirs or ours is None or theirs is None


@given(streams())
def test_what_the_pump_takes_is_read_alike(stream: bytes) -> None:
    pump, end = InterpretedHead(), stream.find(b"\r\n\r\n") + 4
    length = pump.plain_length(stream[:end]) if end >= 4 else -1
    if length >= 0:
        assert body_framing("GET", parse_head(stream[:end])) == body_framing("GET", plain_head(stream[:end]))
        assert body_framing("GET", parse_head(stream[:end])) == Framing("length", length)


@pytest.mark.parametrize("name", SMUGGLING)
def test_what_is_ambiguous_is_not_plain(name: str) -> None:
    sound = b"Content-Length: 5\r\n"
    start = SMUGGLING[name].find(b"\r\n") + 2
    for head in (SMUGGLING[name], SMUGGLING[name][:start] + sound + SMUGGLING[name][start:]):
        assert InterpretedHead().plain_length(head) < 0


def test_a_plain_line_ends_in_cr_and_lf() -> None:
    for byte in {*range(256)} - {ord("\r")}:
        assert InterpretedHead().plain_length(b"HTTP/1.1 200 OK\r\nX: a%c\nContent-Length: 5\r\n\r\n" % byte) < 0


@pytest.mark.parametrize("size", [0, 5, 1 << 40])
@pytest.mark.parametrize("status", ["200 OK", "206 Partial Content"])
def test_what_servers_send_is_plain(status: str, size: int) -> None:
    """Else the pump would hand back all of it, and be of no use."""
    head = f'HTTP/1.1 {status}\r\nDate: today\r\nETag: "e"\r\nContent-Length: {size}\r\nServer: s\r\n\r\n'.encode()
    assert InterpretedHead().plain_length(head) == size
    assert all(not InterpretedHead().head_end(head[:cut]) for cut in range(len(head)))
