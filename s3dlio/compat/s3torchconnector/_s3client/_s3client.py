"""What datasets and checkpoints share: access to the buckets of one endpoint, with one configuration."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, Self
from urllib.parse import unquote

from ....config import Durable
from ....model import ListPage, PutOptions
from ....session import BlockingStore, blocking_store
from .._user_agent import UserAgent
from ..errors import OBJECT_ABSENT, translated
from ..objects import HasSize, HeadObjectResult, ListObjectResult, ObjectInfo
from ..s3reader import S3Reader, SequentialS3Reader
from ..s3reader.named import check_bucket
from ..s3writer import S3Writer
from ..source import StoredObject
from .s3client_config import S3ClientConfig, store_config

ReaderConstructor = Callable[..., Any]
"""Called with the keywords `bucket`, `key`, `get_object_info` and `get_stream`; gives a reader."""


class S3Client:
    """Access to the buckets of one endpoint. Nothing is checked or requested before it is used.

    `region` may be `None`: then it comes from the environment. `durable` is what writes to files wait for, see
    :class:`s3dlio.Config`. A client can be shared by threads, pickled, and used in a forked child. Errors of the
    methods: `S3Exception`, and `TypeError` for a name that is no string.
    """

    def __init__(
        self,
        region: str | None,
        *,
        endpoint: str | None = None,
        user_agent: UserAgent | None = None,
        s3client_config: S3ClientConfig | None = None,
        durable: Durable | None = None,
    ) -> None:
        self._region = region
        self._endpoint = endpoint
        self._user_agent_prefix = (user_agent or UserAgent()).prefix
        self._s3client_config = s3client_config or S3ClientConfig()
        self._settings = {"user_agent": self._user_agent_prefix} | ({"durable": durable} if durable else {})
        self._stores: dict[tuple[str, str], BlockingStore] = {}

    @property
    def region(self) -> str | None:
        """As given."""
        return self._region

    @property
    def endpoint(self) -> str | None:
        """As given."""
        return self._endpoint

    @property
    def s3client_config(self) -> S3ClientConfig:
        """As given, or the default."""
        return self._s3client_config

    @property
    def user_agent_prefix(self) -> str:
        """What requests say of who sends them."""
        return self._user_agent_prefix

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

    def put_object(self, bucket: str, key: str, storage_class: str | None = None, *, scheme: str = "s3") -> S3Writer:
        """A writer of one object, which appears when the writer is closed."""
        _check_names(bucket, key)
        with translated():
            return S3Writer(self.store(bucket, scheme).open_writer(key, PutOptions(storage_class=storage_class)))

    def list_objects(
        self, bucket: str, prefix: str = "", delimiter: str = "", max_keys: int = 1000, *, scheme: str = "s3"
    ) -> ListObjectStream:
        """The pages of a listing, of at most `max_keys` keys each, and at most 1000; asked for when wanted."""
        _check_names(bucket, prefix, delimiter)
        return ListObjectStream(self.store(bucket, scheme), bucket, prefix, delimiter, max_keys)

    def head_object(self, bucket: str, key: str, *, scheme: str = "s3") -> HeadObjectResult:
        """Size, etag and the rest of one object."""
        _check_names(bucket, key)
        with translated(OBJECT_ABSENT):
            return HeadObjectResult.of(self.store(bucket, scheme).head(key))

    def delete_object(self, bucket: str, key: str, *, scheme: str = "s3") -> None:
        """Remove an object. Removing an absent one succeeds."""
        _check_names(bucket, key)
        with translated():
            self.store(bucket, scheme).delete(key)

    def copy_object(self, src_bucket: str, src_key: str, dst_bucket: str, dst_key: str, *, scheme: str = "s3") -> None:
        """Copy an object, on the server. `src_key` is percent-encoded, `dst_key` is not: so it is in the original."""
        _check_names(src_bucket, src_key, dst_bucket, dst_key)
        elsewhere = src_bucket if src_bucket != dst_bucket else None
        with translated(OBJECT_ABSENT):
            self.store(dst_bucket, scheme).copy(unquote(src_key), dst_key, source_bucket=elsewhere)

    def store(self, bucket: str, scheme: str = "s3") -> BlockingStore:
        """The store behind one bucket.

        Errors: `S3Exception` and `TypeError` for a configuration that cannot be used.
        """
        known = self._stores.get((scheme, bucket))
        if known is None:
            config = store_config(scheme, self._region, self._endpoint, self._s3client_config, **self._settings)
            with translated():
                known = self._stores[scheme, bucket] = blocking_store(f"{scheme}://{bucket}", config)
        return known

    def pages(self, bucket: str, prefix: str, scheme: str = "s3") -> Iterator[ListPage]:
        """The pages of a listing in our own terms."""
        with translated():
            yield from self.store(bucket, scheme).list_pages(prefix)

    def stored_object(self, bucket: str, key: str, info: HasSize | None = None, scheme: str = "s3") -> StoredObject:
        """One object; `info` is what is known of it. Errors: `ValueError` where `bucket` is empty."""
        check_bucket(bucket)
        return StoredObject(self.store(bucket, scheme), bucket, key, info)


class ListObjectStream:
    """The pages of a listing. Can be pickled between two pages; `continuation_token` leads to the next one."""

    def __init__(self, store: BlockingStore, bucket: str, prefix: str, delimiter: str, max_keys: int) -> None:
        if operator.index(max_keys) < 0:
            raise OverflowError(f"max_keys cannot be negative: {max_keys}")
        self.bucket = bucket
        self.prefix = prefix
        self.delimiter = delimiter
        self.max_keys = max_keys
        self.continuation_token: str | None = None
        self.complete = False
        self._store = store

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ListObjectResult:
        if self.complete:
            raise StopIteration
        with translated():
            page = self._store.list_page(
                self.prefix, delimiter=self.delimiter, token=self.continuation_token, limit=min(self.max_keys, 1000)
            )
        self.continuation_token = page.token
        self.complete = page.token is None
        return ListObjectResult([ObjectInfo.of(meta) for meta in page.objects], list(page.prefixes))


def reader_of(stored: StoredObject, constructor: ReaderConstructor | None) -> S3Reader:
    """A reader of `stored`, by default a sequential one."""
    reader: S3Reader = (constructor or SequentialS3Reader)(
        bucket=stored.bucket, key=stored.key, get_object_info=stored.info, get_stream=stored.stream
    )
    return reader


def _check_names(*names: str) -> None:
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"buckets and keys are named by strings, not by {type(name).__name__}")
