"""XML answers of services, and what is read from them: pure.

Answers are parsed by expat with document types refused, so that nothing can be expanded or fetched, and only where they
have no more tags than make sense. White space before the XML declaration, which servers send to keep a connection
alive, is passed over; so are prefixes of names.

Keys may hold what XML cannot, and servers repeat them: control characters as they are or as references such as `&#x7;`,
and a bare `&`. A document that is refused is read once more with stand-ins in their place, and nothing is lost: Unicode
has set aside 32 characters for such uses, one for each control character.

Building elements is most of the work of listing, and a page is a thousand entries that look alike. So there is a short
way, :func:`read_plain`: where all entries follow one another and are as plain as one regular expression knows them,
that reads them, and the parser the rest of the document, with a mark in their place. It shows that they stood where
entries do. Anything else is the parser's, which stays the authority.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ..errors import ProtocolError, shown

MOST_TAGS = 50_000
"""In an answer that is no listing: a thousand failures of DeleteObjects have 12,000."""

MOST_LISTED = 4_000_000
"""In a page, also of a server that does not mind how many objects were asked for."""

PLAIN = "[ -%'-;=?-~]"
"""A character of printable ASCII that means itself in XML, as part of a regular expression; no `>`, for `]]>`."""

WORD = "[!-%'-;=?-~]"
"""The same without white space, which is taken off around most values."""

_ERROR_SIZE = 64 << 10
_BEFORE_XML = b"\xef\xbb\xbf \t\r\n"
"""White space, and the mark of UTF-8."""

_ROOT = re.compile(rb"(?:<[?!][^>]*>\s*)*<(?P<prefix>[\w.-]+:)?(?P<name>[\w.-]+)")
_UNREADABLE = re.compile(
    rb"(?P<bare>[\x00-\x08\x0b\x0c\x0e-\x1f])|&#x0*(?P<hex>1?[0-9a-fA-F]);|&#0*(?P<decimal>[12]?[0-9]|3[01]);"
    rb"|&(?!#|[A-Za-z_][\w.-]*;)"
)
_FIRST_STAND_IN = 0xFDD0
_ORIGINALS = {_FIRST_STAND_IN + code: code for code in range(32)}
_MARK = "s3dlio-entries"
_NOT_XML = (expat.ExpatError, AssertionError, LookupError, ValueError, Warning)  # the last three: a strange encoding


def parse(body: bytes, root: str | None = None, most: int = MOST_TAGS) -> Element:
    """The root element, which must be called `root` where that is given, of a document of at most `most` tags.

    Errors: `ProtocolError` where the body is not XML, has a document type, or another root.
    """
    body = body.lstrip(_BEFORE_XML)
    if body.count(b"<") > most:
        raise ProtocolError(f"the answer has more than {most} tags")
    try:
        try:
            found = _read(body, TreeBuilder())
        except expat.ExpatError:
            found = _read_again(body, TreeBuilder())
    except _NOT_XML as error:
        raise ProtocolError(f"the answer is not the XML it should be: {error}") from None
    if root is not None and found.tag != root:
        raise ProtocolError(f"asked for a {root!r}, the answer is a {shown(found.tag, 100)!r}")
    return found


def _read(body: bytes, builder: TreeBuilder) -> Element:
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    if (match := _ROOT.match(body)) and match["prefix"]:
        parser.StartElementHandler = lambda name, attributes: builder.start(_local(name), attributes)
        parser.EndElementHandler = lambda name: builder.end(_local(name))
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    parser.Parse(body, True)
    return builder.close()


def _read_again(body: bytes, builder: TreeBuilder) -> Element:
    """Read a document with characters that XML does not have."""
    root = _read(_UNREADABLE.sub(_stand_in, body, count=MOST_TAGS), builder)
    for element in root.iter():
        element.text = element.text.translate(_ORIGINALS) if element.text else element.text
    return root


def _stand_in(match: re.Match[bytes]) -> bytes:
    bare, hexadecimal, decimal = match["bare"], match["hex"], match["decimal"]
    if not (bare or hexadecimal or decimal):
        return b"&amp;"
    code = bare[0] if bare else int(hexadecimal, 16) if hexadecimal else int(decimal)
    return b"&#%d;" % (_FIRST_STAND_IN + code)


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def _refuse(*declared: object) -> None:
    raise ProtocolError("the answer's XML has a document type, which no service sends")


class PlainListing(NamedTuple):
    """A listing, read the short way: the `rows` of its entries, and the `root` of the document without them."""

    root: Element
    rows: list[tuple[str, ...]]


def read_plain(body: bytes, root: str, path: str, entry: re.Pattern[str]) -> PlainListing | None:
    """A listing whose root, and whose entries' `path` below it, are called so; `None` where it is not all plain.

    `entry` matches one entry and what separates it from the next or the end. It takes printable ASCII alone, and
    nothing that the parser would refuse or read in another way; in every encoding that expat knows, ASCII is ASCII.
    """
    body, tag = body.lstrip(_BEFORE_XML), path.rpartition("/")[2]
    first, end = body.find(f"<{tag}>".encode()), body.rfind(f"</{tag}>".encode()) + len(tag) + 3
    if first < 0 or len(body) > MOST_LISTED or _MARK.encode() in body:
        return None
    entries = body[first:end].decode(errors="replace")
    rows: list[tuple[str, ...]] = entry.findall(entries)
    if len(rows) != entries.count(f"<{tag}>"):  # one was not plain, or something stands between two
        return None
    try:
        found = parse(body[:first] + f"<{_MARK}/>".encode() + body[end:], root)
    except ProtocolError:
        return None
    siblings = [item.tag for item in found.iterfind(path.removesuffix(tag) + "*")]
    return PlainListing(found, rows) if _MARK in siblings and tag not in siblings else None


def parse_error(body: bytes) -> Element | None:
    """The root of an error answer, with what can be read of it; `None` where the body is not one."""
    body = body[:_ERROR_SIZE].lstrip(_BEFORE_XML)
    match, builder = _ROOT.match(body), TreeBuilder()
    if match is None or match["name"] != b"Error":
        return None
    with suppress(ProtocolError, *_NOT_XML):
        return _read_again(body, builder)
    return builder.close()  # as far as it had been built


def text_of(element: Element | None, name: str) -> str | None:
    """The text of a child without white space around it; `None` where there is no such child, or nothing in it."""
    return (element.findtext(name) or "").strip() or None if element is not None else None
