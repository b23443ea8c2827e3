"""The URIs of datasets and checkpoints, taken apart."""

from __future__ import annotations

from ...urls import SCHEMES, Uri, parse_uri


def split_uri(uri: str) -> Uri:
    """Scheme, bucket and key (or prefix, or nothing) of a URI. The key is verbatim: nothing is decoded.

    What bucket and key are in each scheme is told in :mod:`s3dlio.urls`.
    Errors: `ValueError` for an unknown scheme, and for an empty bucket.
    """
    scheme, separator, rest = (uri or "").partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError("Only s3:// URIs are supported")
    if scheme != "s3":
        return parse_uri(uri)
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise ValueError("Bucket name must be non-empty")
    return Uri(scheme, bucket, key)


def parse_s3_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of a URI. Errors: as :func:`split_uri`."""
    parts = split_uri(uri)
    return parts.bucket, parts.key
