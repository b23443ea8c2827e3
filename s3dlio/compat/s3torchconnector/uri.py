"""`s3://bucket/key`, taken apart."""

from __future__ import annotations

_SCHEME = "s3://"


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key (or prefix, or nothing) of a URI. The key is verbatim: nothing is decoded.

    Errors: `ValueError` for another scheme, and for an empty bucket.
    """
    if not uri or not uri.startswith(_SCHEME):
        raise ValueError("Only s3:// URIs are supported")
    bucket, _, key = uri.removeprefix(_SCHEME).partition("/")
    if not bucket:
        raise ValueError("Bucket name must be non-empty")
    return bucket, key
