"""What requests of copies say, and which need more than one: pure.

CopyObject takes metadata and tags along by itself. A copy in parts is a new object, which gets what its
CreateMultipartUpload names.

Source: "CopyObject", "UploadPartCopy" and "HeadObject" in the Amazon S3 API Reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ...config import GiB
from ...model import BoundedRange
from ...transport.download import range_header
from ...transport.http1 import is_weak, parse_size, quote_path, quote_query
from ..headers import etag_of
from ..store import check_key

MAX_COPY = 5 * GiB
"""Bytes of the largest object that one request copies."""

_CARRIED = frozenset(
    ("cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires")
)


class Source(NamedTuple):
    """A version of an object that has to be copied in parts: its etag, its size in bytes, and whether it has tags."""

    etag: str
    size: int
    tagged: bool


def large_source(headers: Mapping[str, str], limit: int) -> Source | None:
    """The object that `headers`, of a HEAD, describe, if it has more than `limit` bytes and can be held to its etag."""
    size, etag = parse_size(headers.get("content-length")), etag_of(headers)
    if size is None or size <= limit or etag is None or is_weak(etag):
        return None
    return Source(etag, size, headers.get("x-amz-tagging-count", "0") != "0")


def carried(headers: Mapping[str, str]) -> dict[str, str]:
    """Of an object's headers those that its copy gets, too."""
    return {name: value for name, value in headers.items() if name in _CARRIED or name.startswith("x-amz-meta-")}


def tagging(tags: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The header that gives a new object `tags`."""
    return {"x-amz-tagging": quote_query(tags)} if tags else {}


def of_source(bucket: str, key: str) -> dict[str, str]:
    """The header that names what is copied. Errors: `InvalidKeyError`."""
    return {"x-amz-copy-source": f"/{quote_path(bucket)}/{quote_path(check_key(key))}"}


def of_piece(etag: str, byte_range: BoundedRange) -> dict[str, str]:
    """The headers that have a range of exactly that version copied."""
    return {"x-amz-copy-source-if-match": etag, "x-amz-copy-source-range": range_header(byte_range)}
