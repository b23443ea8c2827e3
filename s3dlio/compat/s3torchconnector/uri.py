"""The URIs of datasets and checkpoints, taken apart."""

from __future__ import annotations

import os

from ...urls import SCHEMES, Uri, parse_uri

AnyPath = str | os.PathLike[str]
"""A URI, as a distributed checkpoint may name it."""


def split_uri(uri: AnyPath) -> Uri:
    """Scheme, bucket and key (or prefix, or nothing) of a URI. The key is verbatim: nothing is decoded.

    What bucket and key are in each scheme is told in :mod:`s3dlio.urls`.
    Errors: `ValueError` for an unknown scheme, and for an empty bucket.
    """
    text = str(uri)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError("Only s3:// URIs are supported")
    if scheme != "s3":
        return parse_uri(text)
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise ValueError("Bucket name must be non-empty")
    return Uri(scheme, bucket, key)


def parse_s3_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of a URI. Errors: as :func:`split_uri`."""
    parts = split_uri(uri)
    return parts.bucket, parts.key
