"""The records of a dataset: what `get_dataset_objects` yields."""

from __future__ import annotations

from typing import NamedTuple

from .objects import HasSize


class S3BucketKeyData(NamedTuple):
    """One object of a dataset: `key` in `bucket`. `object_info`, where known, saves a request for the size."""

    bucket: str
    key: str
    object_info: HasSize | None = None


class SchemeKeyData(S3BucketKeyData):
    """The same of another scheme than `s3`."""

    scheme = "s3"


def record_of(scheme: str, bucket: str, key: str, info: HasSize | None = None) -> S3BucketKeyData:
    """The record of the object `key` in a bucket of some scheme."""
    if scheme == "s3":
        return S3BucketKeyData(bucket, key, info)
    record = SchemeKeyData(bucket, key, info)
    record.scheme = scheme
    return record
