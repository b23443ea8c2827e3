"""What datasets and checkpoints share: access to the buckets of one endpoint, with one configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ...model import ListPage
from ...session import BlockingStore, blocking_store
from .config import S3ClientConfig, store_config
from .errors import translated
from .objects import HasSize, ListObjectResult, ObjectInfo
from .reader import S3Reader, SequentialS3Reader
from .source import StoredObject
from .writer import S3Writer

ReaderConstructor = Callable[..., Any]
"""Called with the keywords `bucket`, `key`, `get_object_info` and `get_stream`; gives a reader."""


class S3Client:
    """Access to the buckets of one endpoint. Nothing is checked or requested before it is used."""

    def __init__(
        self, region: str | None, *, endpoint: str | None = None, s3client_config: S3ClientConfig | None = None
    ) -> None:
        self.region = region
        self.endpoint = endpoint
        self.s3client_config = s3client_config
        self._stores: dict[tuple[str, str], BlockingStore] = {}

    def list_objects(self, bucket: str, prefix: str = "", delimiter: str = "") -> Iterator[ListObjectResult]:
        """The pages of a listing, each asked for when it is wanted.

        Errors: `S3Exception`.
        """
        for page in self.pages(bucket, prefix, delimiter):
            yield ListObjectResult([ObjectInfo(meta) for meta in page.objects], list(page.prefixes))

    def get_object(
        self,
        bucket: str,
        key: str,
        *,
        object_info: HasSize | None = None,
        reader_constructor: ReaderConstructor | None = None,
        scheme: str = "s3",
    ) -> S3Reader:
        """A reader of one object. No request is made."""
        return reader_of(self.stored_object(bucket, key, object_info, scheme), reader_constructor)

    def put_object(self, bucket: str, key: str, *, scheme: str = "s3") -> S3Writer:
        """A writer of one object, which appears when the writer is closed."""
        with translated():
            return S3Writer(self.store(bucket, scheme).open_writer(key))

    def store(self, bucket: str, scheme: str = "s3") -> BlockingStore:
        """The store behind one bucket.

        Errors: `S3Exception` and `TypeError` for a configuration that cannot be used.
        """
        known = self._stores.get((scheme, bucket))
        if known is None:
            config = store_config(scheme, self.region, self.endpoint, self.s3client_config)
            with translated():
                known = self._stores[scheme, bucket] = blocking_store(f"{scheme}://{bucket}", config)
        return known

    def pages(self, bucket: str, prefix: str, delimiter: str = "", scheme: str = "s3") -> Iterator[ListPage]:
        """The pages of a listing in our own terms."""
        with translated():
            yield from self.store(bucket, scheme).list_pages(prefix, delimiter=delimiter)

    def stored_object(self, bucket: str, key: str, info: HasSize | None, scheme: str = "s3") -> StoredObject:
        """One object; `info` is what is known of it."""
        return StoredObject(self.store(bucket, scheme), bucket, key, info)


def reader_of(stored: StoredObject, constructor: ReaderConstructor | None) -> S3Reader:
    """A reader of `stored`, by default a sequential one."""
    reader: S3Reader = (constructor or SequentialS3Reader)(
        bucket=stored.bucket, key=stored.key, get_object_info=stored.info, get_stream=stored.stream
    )
    return reader
