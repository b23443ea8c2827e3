"""What readers of an object have in common, however they read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .s3reader import S3Reader

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class NamedReader(S3Reader):
    """A reader that knows its object's name. Errors: `ValueError` where `bucket` is empty."""

    def __init__(self, bucket: str, key: str) -> None:
        check_bucket(bucket)
        self._bucket = bucket
        self._key = key

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self._bucket

    @property
    def key(self) -> str:
        """Name of the object in its bucket."""
        return self._key


def check_bucket(bucket: str) -> None:
    """Errors: `ValueError` where it is empty."""
    if not bucket:
        raise ValueError("Bucket should be specified")


def writable_view(buffer: WriteableBuffer) -> memoryview:
    """The bytes of a buffer that can be written to, whatever its items are. Errors: `TypeError` for anything else."""
    try:
        view = memoryview(buffer)
    except TypeError:
        view = memoryview(b"")
    if view.readonly:
        raise TypeError(f"readinto() argument must be read-write bytes-like object, not {type(buffer).__name__}")
    return view.cast("B") if view.nbytes else memoryview(bytearray())
