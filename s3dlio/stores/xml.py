"""XML answers of services, and what is read from them: pure.

Answers are parsed by expat with document types refused, so that nothing can be expanded or fetched. White space before
the XML declaration, which servers send to keep a connection alive, is passed over; so are prefixes of names.
"""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ..errors import ProtocolError

_BEFORE_XML = b"\xef\xbb\xbf \t\r\n"
"""White space, and the mark of UTF-8."""

_PREFIXED = re.compile(rb"(?:<[?!][^>]*>\s*)*<[\w.-]+:")


def parse(body: bytes, root: str | None = None) -> Element:
    """The root element, which must be called `root` where that is given.

    Errors: `ProtocolError` where the body is not XML, has a document type, or another root.
    """
    body, builder = body.lstrip(_BEFORE_XML), TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    if _PREFIXED.match(body):
        parser.StartElementHandler = lambda name, attributes: builder.start(_local(name), attributes)
        parser.EndElementHandler = lambda name: builder.end(_local(name))
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(body, True)
        found = builder.close()
    except (expat.ExpatError, AssertionError, LookupError, ValueError) as error:  # the last two: a strange encoding
        raise ProtocolError(f"the answer is not the XML it should be: {error}") from None
    if root is not None and found.tag != root:
        raise ProtocolError(f"asked for a {root!r}, the answer is a {found.tag!r}")
    return found


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def _refuse(*declared: object) -> None:
    raise ProtocolError("the answer's XML has a document type, which no service sends")


def parse_error(body: bytes) -> Element | None:
    """The root of an error answer; `None` where the body is not one."""
    if not body.lstrip(_BEFORE_XML).startswith(b"<"):
        return None
    try:
        root = parse(body)
    except ProtocolError:
        return None
    return root if root.tag == "Error" else None


def text_of(element: Element | None, name: str) -> str | None:
    """The text of a child without white space around it; `None` where there is no such child, or nothing in it."""
    return (element.findtext(name) or "").strip() or None if element is not None else None
