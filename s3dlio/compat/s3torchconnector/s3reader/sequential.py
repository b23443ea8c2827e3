"""The default reader."""

from __future__ import annotations

from ..source import GetObjectInfo, GetStream, source_of
from .fetched import FetchedReader
from .fetching import Fetcher, Growing


class SequentialS3Reader(FetchedReader):
    """A reader for any way of reading, best for reading through. Which bytes it keeps is told in :mod:`.fetching`.

    `get_object_info()` gives an object with a `size`; `get_stream(start=None, end=None)` gives the bytes in pieces.
    """

    def __init__(self, bucket: str, key: str, get_object_info: GetObjectInfo, get_stream: GetStream) -> None:
        source = source_of(key, get_object_info, get_stream)
        super().__init__(bucket, key, Fetcher(source, Growing(source.part_size)))

    def prefetch(self) -> None:
        """Fetch the beginning of the object, all of it where it is known to be small."""
        self._fetcher.begin()
