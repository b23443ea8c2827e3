"""Which version of an object is meant."""

from __future__ import annotations

from .errors import ErrorContext, ObjectChangedError
from .model import ObjectMeta
from .transport.http1 import is_weak


def pin_of(meta: ObjectMeta) -> str | None:
    """The etag that reads of the version `meta` can be held to, if it has one (RFC 9110 section 13.1.1)."""
    return None if meta.etag is None or is_weak(meta.etag) else meta.etag


def check_size(known: ObjectMeta, size: int, bucket: str) -> None:
    """Errors: `ObjectChangedError` where what has `size` bytes is not the object of `bucket` that is `known`."""
    if size != known.size:
        message = f"the object has {size} bytes, and is not the one of {known.size} that is meant"
        raise ObjectChangedError(message, ErrorContext("GET", bucket, known.key))
