"""What datasets and checkpoints share: access to the buckets of one endpoint, with one configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self
from urllib.parse import unquote

from ....blocking.store import BlockingStore
from ....config import Durable
from ....model import ListOptions, ListPage, PutOptions
from ....urls import Uri
from .._user_agent import UserAgent
from ..arguments import check, check_given, count
from ..errors import OBJECT_ABSENT, translated
from ..objects import HasSize, HeadObjectResult, ListObjectResult, ObjectInfo
from ..s3reader import S3Reader, SequentialS3Reader
from ..s3reader.s3reader import check_bucket
from ..s3writer import S3Writer
from ..source import StoredObject
from .s3client_config import S3ClientConfig, store_config

ReaderConstructor = Callable[..., Any]
"""Called with the keywords `bucket`, `key`, `get_object_info` and `get_stream`; gives a reader."""


class S3Client:
    """Access to the buckets of one endpoint. Nothing is checked or requested before it is used.

    `region` and `endpoint` (a URL) say where the buckets are; where they are `None`, the environment does.
    `s3client_config` is an `S3ClientConfig`, by default one with the default values; `user_agent` is how requests name
    their sender; `durable` is what writes to files wait for, see :class:`s3dlio.Config`. A client can be shared by
    threads, pickled, and used in a forked child.

    Methods name an object by `bucket` and `key`, as they are, without any decoding. `scheme` is that of the bucket's
    URI. Errors of the methods: `S3Exception`, and `TypeError` for a name that is no string.
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
        """A reader of one object. No request is made.

        `object_info`, where known, has the `size` in bytes, and saves asking for it. `reader_constructor` makes the
        reader, by default a sequential one: see `S3ReaderConstructor`. Errors: `ValueError` where `bucket` is empty.
        """
        return reader_of(self.stored_object(bucket, key, object_info, scheme), reader_constructor)

    def put_object(self, bucket: str, key: str, storage_class: str | None = None, *, scheme: str = "s3") -> S3Writer:
        """A writer of one object, which appears, in `storage_class` (`STANDARD_IA` ...), when the writer is closed."""
        check(str, bucket=bucket, key=key)
        check_given(storage_class=storage_class)
        with translated():
            return S3Writer(self.store(bucket, scheme).open_writer(key, PutOptions(storage_class=storage_class)))

    def list_objects(
        self, bucket: str, prefix: str = "", delimiter: str = "", max_keys: int = 1000, *, scheme: str = "s3"
    ) -> ListObjectStream:
        """The keys that begin with `prefix`, in pages of at most `max_keys` keys (1000 at most), asked for in turn.

        Keys that have `delimiter` after the prefix are shown once for all, in `common_prefixes`, by what leads to it.
        Errors: `OverflowError` for a negative `max_keys`; those of the requests come while pages are taken.
        """
        check(str, bucket=bucket, prefix=prefix, delimiter=delimiter)
        return ListObjectStream(self.store(bucket, scheme), bucket, prefix, delimiter, max_keys)

    def head_object(self, bucket: str, key: str, *, scheme: str = "s3") -> HeadObjectResult:
        """Size (bytes), etag and the rest of one object. Errors: also where it is absent."""
        check(str, bucket=bucket, key=key)
        with translated(OBJECT_ABSENT):
            return HeadObjectResult.of(self.store(bucket, scheme).head(key))

    def delete_object(self, bucket: str, key: str, *, scheme: str = "s3") -> None:
        """Remove an object. Removing an absent one succeeds."""
        check(str, bucket=bucket, key=key)
        with translated():
            self.store(bucket, scheme).delete(key)

    def copy_object(self, src_bucket: str, src_key: str, dst_bucket: str, dst_key: str, *, scheme: str = "s3") -> None:
        """Copy the object `src_key` of `src_bucket` to `dst_key` of `dst_bucket`, on the server, replacing any there.

        `src_key` is percent-encoded, `dst_key` is not: so it is in the original.
        """
        check(str, src_bucket=src_bucket, src_key=src_key, dst_bucket=dst_bucket, dst_key=dst_key)
        elsewhere = src_bucket if src_bucket != dst_bucket else None
        with translated(OBJECT_ABSENT):
            self.store(dst_bucket, scheme).copy(unquote(src_key), dst_key, source_bucket=elsewhere)

    def store(self, bucket: str, scheme: str = "s3") -> BlockingStore:
        """The store behind one bucket. Errors: `S3Exception`, `TypeError` for a configuration that cannot be used."""
        known = self._stores.get((scheme, bucket))
        if known is None:
            config = store_config(scheme, self._region, self._endpoint, self._s3client_config, **self._settings)
            with translated():
                known = self._stores[scheme, bucket] = BlockingStore(Uri(scheme, bucket, ""), config)
        return known

    def pages(self, uri: Uri, delimiter: str = "") -> Iterator[ListPage]:
        """The pages of what begins with `uri`, in our own terms; `delimiter` as in :meth:`list_objects`."""
        with translated():
            yield from self.store(uri.bucket, uri.scheme).list_pages(uri.key, delimiter=delimiter)

    def stored_object(self, bucket: str, key: str, info: HasSize | None = None, scheme: str = "s3") -> StoredObject:
        """One object; `info` is what is known of it. Errors: `ValueError` where `bucket` is empty; `TypeError`."""
        check_bucket(bucket)
        check(str, bucket=bucket, key=key)
        return StoredObject(self.store(bucket, scheme), bucket, key, info)


class ListObjectStream:
    """The pages of a listing. Can be pickled between two pages; `continuation_token` leads to the next one.

    `store` is that of `bucket`; `prefix`, `delimiter` and `max_keys` as in :meth:`S3Client.list_objects`.
    """

    def __init__(self, store: BlockingStore, bucket: str, prefix: str, delimiter: str, max_keys: int) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self.delimiter = delimiter
        self.max_keys = count("max_keys", max_keys)
        self.continuation_token: str | None = None
        self.complete = False
        self._store = store

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ListObjectResult:
        if self.complete:
            raise StopIteration
        with translated():
            options = ListOptions(self.delimiter, token=self.continuation_token, limit=min(self.max_keys, 1000))
            page = self._store.list_page(self.prefix, options)
        self.continuation_token = page.token
        self.complete = page.token is None
        return ListObjectResult([ObjectInfo.of(meta) for meta in page.objects], list(page.prefixes))


def reader_of(stored: StoredObject, constructor: ReaderConstructor | None) -> S3Reader:
    """A reader of `stored`, by default a sequential one."""
    reader: S3Reader = (constructor or SequentialS3Reader)(
        bucket=stored.bucket, key=stored.key, get_object_info=stored.info, get_stream=stored.stream
    )
    return reader
