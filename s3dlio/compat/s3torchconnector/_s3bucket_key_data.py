"""The records of a dataset: what `get_dataset_objects` yields."""

from __future__ import annotations

from typing import NamedTuple

from ...urls import Uri
from .objects import HasSize


class S3BucketKeyData(NamedTuple):
    """One object of a dataset: `key` in `bucket`. `object_info`, where known, saves a request for the size."""

    bucket: str
    key: str
    object_info: HasSize | None = None


class SchemeKeyData(S3BucketKeyData):
    """The same of another scheme than `s3`."""

    scheme = "s3"


def record_of(uri: Uri, key: str, info: HasSize | None = None) -> S3BucketKeyData:
    """The record of the object `key` in the bucket of `uri`."""
    if uri.scheme == "s3":
        return S3BucketKeyData(uri.bucket, key, info)
    record = SchemeKeyData(uri.bucket, key, info)
    record.scheme = uri.scheme
    return record
