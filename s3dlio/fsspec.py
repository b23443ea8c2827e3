"""File systems for fsspec, and so for pandas, pyarrow, zarr, dask and whatever else opens URIs by it.

`s3dlio+s3://bucket/key`, `s3dlio+gs://`, `s3dlio+az://` and `s3dlio+memory://` are known wherever fsspec is, without an
import. :func:`register` makes the plain schemes ours, for this process. Files are fsspec's own matter; `direct://` are
those that are read and written past the page cache.

Paths are as everywhere in fsspec: `bucket/key`, without the scheme. A folder is there while an object is below it:
making one does nothing. Objects whose keys end in a slash, which some tools write in the place of a folder, are passed
over. Storage options are the fields of :class:`s3dlio.Config`; and `anon`, which means `anonymous`.

Errors are this library's, which are those of Python's family that fsspec's users expect: `FileNotFoundError`,
`FileExistsError`, `PermissionError`, `OSError`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, ClassVar

from fsspec import register_implementation  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem  # type: ignore[import-untyped]

from . import blocking
from .blocking.bodies import Bodies
from .blocking.many import IN_FLIGHT, UnderWay
from .blocking.prefetch import Want
from .blocking.store import BlockingStore, BlockingWriter, locate, locate_prefix
from .config import Config, MiB
from .errors import AlreadyExistsError, NotFoundError, RangeError, StoreError, UnsupportedError
from .model import ObjectMeta, PutOptions
from .slices import get_slice
from .transfer import ParallelStore

_DELIMITER = "/"
_BLOCK = 8 * MiB


class StoreFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """The buckets of one scheme, with the storage options `settings`: see the module.

    It is cheap, may be used by any thread, pickled, and used in forked children: stores and connections are the
    portal's. Errors: `ConfigError` for settings that make no sense; `TypeError` for an unknown one.
    """

    scheme: ClassVar[str]
    root_marker = ""
    cachable = True

    def __init__(self, config: Config | None = None, *, anon: bool | None = None, **settings: Any) -> None:
        others = ("asynchronous", "loop", "batch_size", "skip_instance_cache", "use_listings_cache")
        super().__init__(**{name: settings.pop(name) for name in others if name in settings})
        if anon is not None:
            settings["anonymous"] = anon
        self.config = config if config is not None and not settings else Config(**settings)

    @property
    def fsid(self) -> str:
        """Which file system this is."""
        return f"s3dlio+{self.scheme}"

    def _locate(self, path: str) -> tuple[BlockingStore, str]:
        return locate_prefix(self._uri(path), self.config)

    def _uri(self, path: str) -> str:
        return f"{self.scheme}://{self._strip_protocol(path)}"

    def _path_of(self, store: BlockingStore, key: str) -> str:
        return f"{store.root}/{key}".removeprefix(f"{self.scheme}://").rstrip(_DELIMITER)

    # Looking

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What is in the folder `path`, or the file. Errors: `FileNotFoundError`."""
        store, key = self._locate(path)
        prefix = _folder(key)
        found = [self._described(store, each) for each in _entries(store, prefix, _DELIMITER) if _name(each) != prefix]
        if not found and key and (alone := self.info(path))["type"] == "file":
            found = [alone]
        return found if detail else [each["name"] for each in found]

    def _described(self, store: BlockingStore, entry: ObjectMeta | str) -> dict[str, Any]:
        if isinstance(entry, str):
            return {"name": self._path_of(store, entry), "size": 0, "type": "directory"}
        return {
            "name": self._path_of(store, entry.key),
            "size": entry.size,
            "type": "file",
            "etag": entry.etag,
            "last_modified": entry.last_modified,
            "storage_class": entry.storage_class,
            "content_type": entry.content_type,
        }

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """What is told of a file, its size in bytes first; of a folder that it is one. Errors: `FileNotFoundError`."""
        store, key = self._locate(path)
        missing: StoreError | None = None
        if key and not key.endswith(_DELIMITER):
            try:
                return self._described(store, store.head(key))
            except NotFoundError as error:
                missing = error
        if next(_entries(store, _folder(key)), None) is not None or not key:
            return self._described(store, key)
        raise missing or NotFoundError(f"there is nothing below {self._uri(path)}")

    def find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **options: Any
    ) -> Any:
        """All files below `path`, or that file; with `detail` as a dict by name."""
        if maxdepth is not None or withdirs or options.get("prefix"):
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **options)
        store, key = self._locate(path)
        metas = (each for each in _entries(store, _folder(key)) if isinstance(each, ObjectMeta))
        found = [self._described(store, meta) for meta in metas if not meta.key.endswith(_DELIMITER)]
        if not found and key and self.isfile(path):
            found = [self.info(path)]
        by_name = {each["name"]: each for each in sorted(found, key=lambda each: str(each["name"]))}
        return by_name if detail else [*by_name]

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is a file, or something below. Errors: those other than its absence."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def modified(self, path: str) -> datetime:
        """When it was written, aware, UTC. Errors: `FileNotFoundError`."""
        when: datetime | None = self.info(path).get("last_modified")
        if when is None:
            raise UnsupportedError(f"the store does not tell when {self._uri(path)} was written")
        return when

    def ukey(self, path: str) -> str:
        """What differs between two versions of a file. Errors: `FileNotFoundError`."""
        return str(self.info(path).get("etag"))

    checksum = ukey

    # Reading

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes of a file, or those from `start` to `end`, negative ones from its end; large ones in parallel."""
        store, key = locate(self._uri(path), self.config)
        return store.call(_slice(store, key, start or 0, end))

    def cat_ranges(
        self,
        paths: Sequence[str],
        starts: int | Sequence[int | None] | None,
        ends: int | Sequence[int | None] | None,
        max_gap: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[Any]:
        """Ranges of files, all at once, in this order. With `on_error="return"` errors stand where bytes would."""
        each = [*zip(paths, _each(starts, len(paths)), _each(ends, len(paths)), strict=True)]
        found = _get_ranges([(*self._locate(path), start or 0, end) for path, start, end in each])
        for result in found if on_error == "raise" else ():
            if isinstance(result, BaseException):
                raise result
        return found

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **_: Any) -> Any:
        """The bytes of one file, or of several at once, by path."""
        paths = self.expand_path(path, recursive=recursive, maxdepth=None if recursive else 1)
        if len(paths) == 1 and isinstance(path, str) and paths[0] == self._strip_protocol(path):
            return self.cat_file(paths[0])
        folders = {self._parent(name) for name in paths}
        paths = [name for name in paths if name not in folders]
        found = self.cat_ranges(paths, None, None, on_error="raise" if on_error == "raise" else "return")
        pairs = zip(paths, found, strict=True)
        return {name: data for name, data in pairs if on_error == "return" or not isinstance(data, BaseException)}

    # Writing

    def pipe_file(self, path: str, value: Any, mode: str = "overwrite", **_: Any) -> None:
        """Write the whole file. `mode="create"` is for a new one alone. Errors: `FileExistsError`."""
        blocking.put(self._uri(path), value, PutOptions(if_none_match=mode == "create"), config=self.config)

    def pipe(self, path: Any, value: Any = None, **options: Any) -> None:
        """Write one file, or several at once: a dict of contents by path."""
        if isinstance(path, str):
            self.pipe_file(path, value, **options)
            return
        items = {self._uri(name): data for name, data in path.items()}
        blocking.put_many(items, config=self.config, progress=False)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        """Write an empty file, unless there is one that is not to be truncated."""
        if truncate or not self.exists(path):
            self.pipe_file(path, b"")

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy a file, on the server; a folder is nothing to be copied."""
        if self.isfile(path1):
            (source, key), (target, new_key) = self._locate(path1), self._locate(path2)
            bucket = None if source == target else source.bucket.bucket
            target.copy(key, new_key, source_bucket=bucket)

    def rm_file(self, path: str) -> None:
        """Remove a file."""
        blocking.delete(self._uri(path), config=self.config)

    _rm = rm_file

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files, many in one request where the store can. An absent one is no error, but an absent folder is."""
        found = self.expand_path(path, recursive=recursive, maxdepth=maxdepth)
        uris = [self._uri(name) for name in found if self._locate(name)[1]]
        blocking.delete_many(uris, config=self.config, progress=False)

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Nothing: a folder is there while an object is below it."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing, as :meth:`mkdir`."""

    def rmdir(self, path: str) -> None:
        """Nothing, as :meth:`mkdir`."""

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: Any = None,
        **options: Any,
    ) -> StoreFile:
        return StoreFile(
            self, path, mode, block_size or _BLOCK, autocommit=autocommit, cache_options=cache_options, **options
        )


class StoreFile(AbstractBufferedFile):  # type: ignore[misc]
    """An open file. What is read is of one version; what is written appears whole when it is closed, or not at all."""

    _writer: BlockingWriter | None = None

    def __init__(self, fs: StoreFileSystem, path: str, mode: str, block_size: int, **options: Any) -> None:
        if "a" in mode:
            raise UnsupportedError("objects are written whole: nothing can be appended to one")
        if "x" in mode and fs.exists(path):  # who opens it wants to know now; whether it is new is seen at the end
            raise AlreadyExistsError(f"there is a file already: {fs._uri(path)}")
        super().__init__(fs, path, mode, block_size, **options)

    def _fetch_range(self, start: int, end: int) -> bytes:
        store, key = self.fs._locate(self.path)
        etag = self.details.get("etag")
        return bytes(store.read_range(key, start, end, if_match=etag)[0])

    def _initiate_upload(self) -> None:
        store, key = self.fs._locate(self.path)
        self._writer = store.open_writer(key, PutOptions(if_none_match="x" in self.mode))

    def _upload_chunk(self, final: bool = False) -> bool:
        assert self._writer is not None
        self._writer.write(self.buffer.getbuffer())
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        """Have the object appear."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def discard(self) -> None:
        """Drop what was written."""
        if self._writer is not None:
            self._writer.abort()
            self._writer = None

    def __del__(self) -> None:
        """A file that was not closed was not written."""
        self.discard()


def _entries(store: BlockingStore, prefix: str, delimiter: str = "") -> Iterator[ObjectMeta | str]:
    """Objects, and what leads to more of them."""
    for page in store.list_pages(prefix, delimiter=delimiter):
        yield from page.prefixes
        yield from page.objects


def _name(entry: ObjectMeta | str) -> str:
    return entry if isinstance(entry, str) else entry.key


def _folder(key: str) -> str:
    return f"{key.rstrip(_DELIMITER)}{_DELIMITER}" if key else ""


def _each(given: int | Iterable[int | None] | None, count: int) -> list[int | None]:
    return [given] * count if given is None or isinstance(given, int) else [*given]


def _get_ranges(ranges: Iterable[tuple[BlockingStore, str, int, int | None]]) -> list[bytes | StoreError]:
    """Bytes `start` to `end` of each key, or the error instead, in order; many are under way at once."""
    results, under_way, bodies = list[bytes | StoreError](), deque[UnderWay[bytes]](), Bodies()
    try:
        for store, key, start, end in ranges:
            if len(under_way) >= IN_FLIGHT:
                results.append(_settled(under_way.popleft()))
            whole = (start, end) == (0, None)
            begun = bodies.begin(Want(store, key)) if whole else store.begin(_slice(store, key, start, end))
            under_way.append(begun)
        while under_way:
            results.append(_settled(under_way.popleft()))
        return results
    finally:
        for job in under_way:
            job.cancel()
        for job in under_way:
            job.let_go()
        bodies.close()


def _slice(store: BlockingStore, key: str, start: int, end: int | None) -> Callable[[ParallelStore], Awaitable[bytes]]:
    async def read(opened: ParallelStore) -> bytes:
        try:
            return await get_slice(opened, key, start, end, part_size=store.config.part_size)
        except RangeError:  # as of a slice past the end
            return b""

    return read


def _settled(job: UnderWay[bytes]) -> bytes | StoreError:
    try:
        return job.result()
    except StoreError as error:
        return error


class S3FileSystem(StoreFileSystem):
    """S3, and what speaks its API."""

    scheme = "s3"
    protocol = ("s3dlio+s3", "s3", "s3a")


class GCSFileSystem(StoreFileSystem):
    """Google Cloud Storage."""

    scheme = "gs"
    protocol = ("s3dlio+gs", "gs", "gcs")


class AzureFileSystem(StoreFileSystem):
    """Azure Blob Storage."""

    scheme = "az"
    protocol = ("s3dlio+az", "az")


class MemoryFileSystem(StoreFileSystem):
    """The memory of this process."""

    scheme = "memory"
    protocol = ("s3dlio+memory", "memory")


class DirectFileSystem(LocalFileSystem):  # type: ignore[misc]
    """Files that this library reads and writes past the page cache; looked at as any others."""

    protocol = "direct"

    def __init__(self, auto_mkdir: bool = True, **kwargs: Any) -> None:
        """Directories are made with the first file in them, as all of this library's stores have it."""
        super().__init__(auto_mkdir, **kwargs)

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).removeprefix("direct://"))


def register() -> None:
    """Have `s3://`, `s3a://`, `gs://`, `gcs://`, `az://` and `memory://` be ours wherever this process uses fsspec.

    File systems that were made before stay what they are. Doing so again changes nothing.
    """
    for kind in (S3FileSystem, GCSFileSystem, AzureFileSystem, MemoryFileSystem):
        for protocol in kind.protocol:
            register_implementation(protocol, kind, clobber=True)
