"""What the answer to a GET says of checksums, and what is signed of a body that is sent.

A checksum is of the whole object (`FULL_OBJECT`), or made of those of its parts (`COMPOSITE`), which says nothing of
the bytes themselves. Answers to ranges have none, unless the range is one whole part of the object, or all of it. A
server that is not Amazon's may not tell the types apart: then an answer of the whole object is believed, unless its
value ends in a number of parts, and no other.

Source: "Checking object integrity in Amazon S3" in the User Guide; "GetObject" in the API Reference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import trio

from ...auth.sigv4 import EMPTY_SHA256, UNSIGNED_PAYLOAD
from ...model import StoredChecksum
from ..integrity import HASH_IN_THREAD_FROM, read_checksum

ASK = {"x-amz-checksum-mode": "ENABLED"}
"""For every server: botocore has sent it to all of them since 1.36, so those that do not know it take no notice."""

HEADERS = {name: f"x-amz-checksum-{name.lower()}" for name in ("CRC64NVME", "CRC32C", "CRC32")}
"""Where the checksums that can be compared are, the quickest first."""

_TYPE = "x-amz-checksum-type"


def of_object(headers: Mapping[str, str]) -> StoredChecksum | None:
    """The checksum of all bytes of the object."""
    value = _value(headers)
    if value is None:
        return None
    kind = headers.get(_TYPE)
    return value if kind == "FULL_OBJECT" or (kind is None and "content-range" not in headers) else None


def of_range(headers: Mapping[str, str]) -> StoredChecksum | None:
    """The checksum of the answered range, which is a part of the object."""
    return _value(headers) if headers.get(_TYPE) == "COMPOSITE" and "content-range" in headers else None


def _value(headers: Mapping[str, str]) -> StoredChecksum | None:
    for algorithm, header in HEADERS.items():
        text = headers.get(header)
        if text is not None:
            return read_checksum(algorithm, text)
    return None


async def payload_hash(body: Sequence[memoryview], *, tls: bool) -> str:
    """What SigV4 signs for the body: its SHA-256 where nothing else protects it, nothing under TLS."""
    if not body:
        return EMPTY_SHA256
    if tls:
        return UNSIGNED_PAYLOAD
    digest = hashlib.sha256()
    for piece in body:
        await trio.to_thread.run_sync(digest.update, piece) if len(piece) >= HASH_IN_THREAD_FROM else digest.update(
            piece
        )
    return digest.hexdigest()
