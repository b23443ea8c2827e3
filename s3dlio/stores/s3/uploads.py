"""What tells of a multipart upload that it was completed, where the answer to that was lost: pure.

Source: "CompleteMultipartUpload" and "Object" in the Amazon S3 API Reference, for etags and times of objects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from ...model import Part
from ...transport.http1 import http_date, parse_size
from ..http import etag_of

_GRAIN = timedelta(seconds=2)
"""Of times in headers, and between the moment an upload begins and that of its answer."""


def is_made_of(parts: Sequence[Part], begun: datetime | None, headers: Mapping[str, str]) -> bool:
    """Whether the object that `headers`, of a HEAD, describe is the one of `parts`, whose upload was begun at `begun`.

    Its etag proves it where etags are MD5s. Where they are not, as under keys of KMS, it has the size, is made of as
    many parts, and is no older than the upload: S3 dates such objects by the beginning of theirs.
    """
    etag, made = etag_of(headers), http_date(headers.get("last-modified", ""))
    if etag is None or parse_size(headers.get("content-length")) != sum(part.size for part in parts):
        return False
    composite = composite_etag(parts)
    if etag == composite:
        return True
    opaque = composite is None or _is_encrypted(headers)
    new = begun is not None and made is not None and made >= begun - _GRAIN
    return opaque and new and etag.strip('"').endswith(f"-{len(parts)}")


def composite_etag(parts: Sequence[Part]) -> str | None:
    """The etag S3 gives an object made of parts: the MD5 of their MD5s, and how many. `None` for other etags."""
    try:
        digests = [bytes.fromhex(part.etag.strip('"')) for part in parts]
    except ValueError:
        return None
    if any(len(digest) != 16 for digest in digests):
        return None
    return f'"{hashlib.md5(b"".join(digests), usedforsecurity=False).hexdigest()}-{len(parts)}"'


def _is_encrypted(headers: Mapping[str, str]) -> bool:
    """Whether etags have the form of an MD5, but are none."""
    kms = headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    return kms or "x-amz-server-side-encryption-customer-algorithm" in headers
