"""Azure Blob Storage's XML, both ways. Source: "List Blobs" and "Put Block List" in its REST API reference."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote
from xml.etree.ElementTree import Element

from ...errors import ProtocolError
from ...model import ListPage, ObjectMeta
from ...transport.http1 import http_date, parse_size, quote_etag
from ..xml import MOST_LISTED, parse, text_of


def parse_list_page(body: bytes) -> ListPage:
    """List Blobs' answer. Errors: `ProtocolError`.

    A directory of an account with a hierarchical namespace is listed as if it were a blob, which it is not.
    """
    root = parse(body, "EnumerationResults", MOST_LISTED)
    blobs = root.iterfind("Blobs/Blob")
    objects = tuple(_object(item) for item in blobs if item.findtext("Properties/ResourceType") != "directory")
    prefixes = tuple(_name(item) for item in root.iterfind("Blobs/BlobPrefix"))
    return ListPage(objects, prefixes, text_of(root, "NextMarker"))


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
