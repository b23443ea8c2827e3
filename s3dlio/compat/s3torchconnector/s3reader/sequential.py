"""The default reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..source import GetObjectInfo, GetStream, source_of
from .fetching import Fetcher, Growing
from .s3reader import FetchedReader

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class SequentialS3Reader(FetchedReader):
    """A reader for any order of reading, best for reading through. Which bytes it keeps is told in :mod:`.fetching`.

    `bucket` and `key` name the object. `get_object_info()` gives an object with a `size` in bytes;
    `get_stream(start=None, end=None)` gives the bytes from `start` to `end` (exclusive) in pieces.
    Errors: `ValueError` where `bucket` is empty; those of :class:`S3Reader`.
    """

    _not_writable = "readinto() argument must be read-write bytes-like object"

    def __init__(self, bucket: str, key: str, get_object_info: GetObjectInfo, get_stream: GetStream) -> None:
        source = source_of(key, get_object_info, get_stream)
        super().__init__(bucket, key, Fetcher(source, Growing(source.part_size)))

    def readinto(self, buf: WriteableBuffer) -> int:
        return super().readinto(buf) if len(buf) else 0  # type: ignore[arg-type]

    def prefetch(self) -> None:
        """Fetch the beginning of the object, all of it where it is known to be small. Errors: `S3Exception`."""
        self._fetcher.begin()
