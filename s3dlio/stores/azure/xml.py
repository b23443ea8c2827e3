"""Azure Blob Storage's XML, both ways. Source: "List Blobs" and "Put Block List" in its REST API reference."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from ...errors import ProtocolError
from ...model import Decoded, ListPage, ObjectColumns, ObjectMeta
from ...transport.http1 import http_date, parse_size, quote_etag
from ..xml import MOST_LISTED, PLAIN, WORD, parse, read_plain, text_of

_LISTING = "EnumerationResults"
_TEXT = f"(?! )({PLAIN}++)(?<! )"
_ENTRY = re.compile(
    rf"<Blob><Name>({PLAIN}++)</Name><Properties>(?:<(?:"
    r"Content-Length>(?(2)(?!))([0-9]{1,18}+)</Content-Length>"
    rf"|Etag>(?(3)(?!))({WORD}++)</Etag>"
    rf"|Last-Modified>(?(4)(?!)){_TEXT}</Last-Modified>"
    rf"|AccessTier>(?(5)(?!))({WORD}++)</AccessTier>"
    rf"|Content-Type>(?(6)(?!)){_TEXT}</Content-Type>"
    r"|ResourceType>(?(7)(?!))(file|directory)</ResourceType>"
    r"|(?!(?:Content-Length|Etag|Last-Modified|AccessTier|Content-Type|ResourceType)[ />])([A-Za-z][A-Za-z0-9-]*+)"
    rf"(?: ?/>|>{PLAIN}*+</\8>)"
    r"))+(?(2)|(?!))</Properties>(?:<OrMetadata ?/>)?+</Blob>(?=<Blob>|\Z)"
)
"""A plain entry, its properties in any order: those that count at most once, the size in any case.

The repetition is not possessive, as the others are: Python 3.11.2 would match nothing.
"""


def parse_list_page(body: bytes) -> ListPage:
    """List Blobs' answer. Errors: `ProtocolError`.

    A directory of an account with a hierarchical namespace is listed as if it were a blob, which it is not.
    """
    plain = read_plain(body, _LISTING, "Blobs/Blob", _ENTRY)
    root = plain.root if plain else parse(body, _LISTING, MOST_LISTED)
    objects = _columns(plain.rows) if plain else _objects(root)
    prefixes = tuple(_name(item) for item in root.iterfind("Blobs/BlobPrefix"))
    return ListPage(objects, prefixes, text_of(root, "NextMarker"))


def _columns(rows: Iterable[tuple[str, ...]]) -> Sequence[ObjectMeta]:
    files = [row for row in rows if row[6] != "directory"]
    if not files:
        return ()
    names, sizes, etags, times, tiers, kinds, *_ = zip(*files, strict=True)
    return ObjectColumns(
        {
            "key": names,
            "size": [*map(int, sizes)],
            "etag": [quote_etag(etag) if etag else None for etag in etags],
            "last_modified": Decoded(times, http_date),
            "storage_class": [tier or None for tier in tiers],
            "content_type": [kind or None for kind in kinds],
        }
    )


def _objects(root: Element) -> Sequence[ObjectMeta]:
    blobs = root.iterfind("Blobs/Blob")
    return tuple(_object(item) for item in blobs if item.findtext("Properties/ResourceType") != "directory")


def _object(item: Element) -> ObjectMeta:
    size = parse_size(text_of(item, "Properties/Content-Length"))
    if size is None:
        raise ProtocolError("a listed blob has no size that makes sense")
    etag = text_of(item, "Properties/Etag")
    return ObjectMeta(
        key=_name(item),
        size=size,
        etag=quote_etag(etag) if etag else None,
        last_modified=http_date(text_of(item, "Properties/Last-Modified") or ""),
        storage_class=text_of(item, "Properties/AccessTier"),
        content_type=text_of(item, "Properties/Content-Type"),
    )


def _name(item: Element) -> str:
    """A name; percent-encoded where XML has no form for it."""
    name = item.find("Name")
    if name is None or not name.text:
        raise ProtocolError("a listing has an entry without a name")
    return unquote(name.text) if name.get("Encoded") == "true" else name.text


def block_list(ids: Iterable[str]) -> bytes:
    """Put Block List's request. `Latest` also finds blocks that an earlier attempt at it has committed already."""
    listed = "".join(f"<Latest>{block}</Latest>" for block in ids)
    return f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()
