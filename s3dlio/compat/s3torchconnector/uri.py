"""The URIs of datasets and checkpoints, taken apart."""

from __future__ import annotations

import os

from ...errors import InvalidUriError
from ...urls import SCHEMES, Uri, parse_uri

AnyPath = str | os.PathLike[str]
"""A URI, as a distributed checkpoint may name it."""


def split_uri(uri: str) -> Uri:
    """Scheme, bucket and key (or prefix, or nothing) of a URI. The key is verbatim: nothing is decoded.

    What bucket and key are in each scheme is told in :mod:`s3dlio.urls`.
    Errors: `ValueError` for an unknown scheme, and for an empty bucket.
    """
    if not uri or not uri.startswith("s3://"):
        return _of_another_scheme(uri)
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not bucket:
        raise ValueError("Bucket name must be non-empty")
    return Uri("s3", bucket, key)


def split_path(path: AnyPath) -> Uri:
    """The same of a distributed checkpoint's path. PyTorch makes one line of an error, so the schemes are in a note."""
    try:
        return split_uri(str(path))
    except ValueError as error:
        text, _, schemes = str(error).partition("\n")
        if not schemes:
            raise
        shown = ValueError(text)
        shown.add_note(schemes)
        raise shown from None


def _of_another_scheme(uri: str) -> Uri:
    try:
        return parse_uri(uri or "")
    except InvalidUriError as error:
        if uri and uri.startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
            raise
        # programs match on the first line, which is the original's
        raise ValueError(f"Only s3:// URIs are supported\n{error}") from None


def parse_s3_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of a URI. Errors: as :func:`split_uri`."""
    parts = split_uri(uri)
    return parts.bucket, parts.key
