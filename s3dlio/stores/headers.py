"""What is known of an object, in the headers by which a service tells it, or is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..errors import InvalidKeyError, ProtocolError
from ..model import NO_METADATA, ObjectMeta, PutOptions, PutResult
from ..transport.connection import Answer
from ..transport.http1 import http_date, quote_etag, quote_query


class HeaderNames(NamedTuple):
    """How a service spells in headers what all services know; `metadata` is what the names of a user's own begin with.

    `content_type` is that of a write: reads are answered with a plain `content-type` everywhere. `tags` is empty where
    there are none.
    """

    metadata: str
    version: str
    storage_class: str
    content_type: str
    tags: str = ""

    def describe(self, key: str, headers: Mapping[str, str], size: int) -> ObjectMeta:
        """An object's metadata from the headers of a GET or HEAD."""
        meta = self.metadata
        own = {name.removeprefix(meta): value for name, value in headers.items() if name.startswith(meta)}
        return ObjectMeta(
            key=key,
            size=size,
            etag=etag_of(headers),
            last_modified=http_date(headers.get("last-modified", "")),
            version=headers.get(self.version),
            storage_class=headers.get(self.storage_class),
            content_type=headers.get("content-type"),
            metadata=own or NO_METADATA,
        )

    def written(self, answer: Answer) -> PutResult:
        """The version that a write made, from its headers. Errors: `ProtocolError` where they name none."""
        etag = etag_of(answer.headers)
        if etag is None:
            raise ProtocolError("the answer to a write names no etag: nothing shows that it was done")
        return PutResult(etag, answer.headers.get(self.version))

    def of_write(self, options: PutOptions) -> dict[str, str]:
        """The headers of a write. Errors: `InvalidKeyError` where metadata is not printable ASCII."""
        headers = {f"{self.metadata}{name.lower()}": value for name, value in options.metadata.items()}
        if options.content_type:
            headers[self.content_type] = options.content_type
        if options.storage_class:
            headers[self.storage_class] = options.storage_class
        if options.tags:
            headers[self.tags] = quote_query([*options.tags.items()])
        for name, value in headers.items():
            if not (name + value).isascii() or not (name + value).isprintable():
                raise InvalidKeyError(f"the value of {name!r} must be printable ASCII, as HTTP headers are")
        return headers | conditions(options)


def conditions(options: PutOptions) -> dict[str, str]:
    """The headers that make a write conditional (RFC 9110 section 13.1)."""
    if options.if_none_match:
        return {"if-none-match": "*"}
    return {"if-match": quote_etag(options.if_match)} if options.if_match is not None else {}


def etag_of(headers: Mapping[str, str]) -> str | None:
    """The etag as listings, heads and answers to writes would all spell it."""
    etag = headers.get("etag")
    return quote_etag(etag) if etag else None
