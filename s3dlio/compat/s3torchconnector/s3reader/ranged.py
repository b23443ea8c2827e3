"""The reader for parts of large objects."""

from __future__ import annotations

from ....config import MiB
from ..source import GetObjectInfo, GetStream, source_of
from .fetching import Fetcher, Fixed
from .s3reader import FetchedReader

DEFAULT_BUFFER_SIZE = 8 * MiB


class RangedS3Reader(FetchedReader):
    """A reader that fetches what is asked for: reads below `buffer_size` bytes fetch that much, larger ones no more.

    `bucket` and `key` name the object. `get_object_info()` gives an object with a `size` in bytes;
    `get_stream(start, end)` gives the bytes from `start` to `end` (exclusive) in pieces. `buffer_size=None` means
    8 MiB, 0 or less means no buffer. Errors: `ValueError` where `bucket` is empty, `TypeError` for a size
    that is no integer; those of :class:`S3Reader`.
    """

    _not_writable = "argument must be a writable bytes-like object"

    def __init__(
        self,
        bucket: str,
        key: str,
        get_object_info: GetObjectInfo,
        get_stream: GetStream,
        buffer_size: int | None = None,
    ) -> None:
        wanted = DEFAULT_BUFFER_SIZE if buffer_size is None else max(0, buffer_size)
        if not hasattr(wanted, "__index__"):
            raise TypeError(f"cannot convert {type(wanted).__name__!r} object to bytearray")
        super().__init__(bucket, key, Fetcher(source_of(key, get_object_info, get_stream), Fixed(wanted)))
