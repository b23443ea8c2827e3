"""What the requests of an upload say of checksums, and what tells, where the last answer was lost, that it is complete.

All of this is pure. Amazon's servers compare what they receive with a checksum that goes with it: that of a part, and
in the end that of the whole object, which is joined from those of the parts. Other servers refuse such headers, or take
no notice, so they are not sent any.

Source: "Checking object integrity for data uploads in Amazon S3" in the User Guide; "CompleteMultipartUpload" and
"Object" in the API Reference, for etags and times of objects.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import reduce

from ...alignment.checksum import combine
from ...model import Part
from ...transport.http1 import http_date, parse_size
from ..headers import etag_of

ALGORITHM = "CRC64NVME"
"""The one that is quickest, and that every object in S3 has that was written without any."""

_VALUE = f"x-amz-checksum-{ALGORITHM.lower()}"
_WHOLE = {"x-amz-checksum-type": "FULL_OBJECT"}
BEGIN = {"x-amz-checksum-algorithm": ALGORITHM, **_WHOLE}
"""Of a new upload, the parts of which are sent with checksums."""

_GRAIN = timedelta(seconds=2)
"""Of times in headers, and between the moment an upload begins and that of its answer."""


def compared_by(value: int | None) -> dict[str, str]:
    """The header by which a server compares what it receives with the checksum `value`, if there is one."""
    return {} if value is None else {_VALUE: b64encode(value.to_bytes(8, "big")).decode()}


def whole_compared(parts: Sequence[Part]) -> dict[str, str]:
    """The headers by which a server compares the object that `parts` are, in their order, if all have checksums."""
    sums = [(part.checksum.value, part.size) for part in parts if part.checksum is not None]
    if not sums or len(sums) < len(parts):
        return {}
    value, _ = reduce(lambda one, two: (combine(ALGORITHM, one[0], *two), 0), sums)
    return {**_WHOLE, **compared_by(value)}


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
