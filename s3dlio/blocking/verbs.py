"""One object at a time, by its URI."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from io import BufferedReader
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from ..config import Config
from ..endpoint_stats import Stats
from ..model import GetResult, ObjectColumns, ObjectMeta, PutOptions, PutResult
from ..slices import get_slice
from ..trees import fixed_prefix, matches
from .contents import Content, Target, memory_of, put_content
from .files import ObjectWriter, open_object
from .listing import Listing
from .portal import BlockingPortal
from .portal import portal as this_portal  # `portal` is the module
from .store import BlockingStore, locate, locate_prefix

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def get(uri: str, start: int | slice = 0, end: int | None = None, *, config: Config | None = None) -> bytes:
    """The object at `uri`, or bytes `start` to `end` of it; a large one in parallel ranges.

    Both count as in `content[start:end]`, negative ones from the object's end, and a `slice` may be given for them.
    `config` has the settings, by default the environment's. Errors: `NotFoundError`, `StoreError`; `RangeError` for a
    `start` at or past the end of an object that is not empty.
    """
    if isinstance(start, slice):
        start, end = _ends(start, end)
    store, key = locate(uri, config)
    if start == 0 and end is None:
        return store.get(key)
    return store.call(partial(get_slice, key=key, start=start, end=end, part_size=store.config.part_size))


def _ends(piece: slice, end: int | None) -> tuple[int, int | None]:
    if end is not None or piece.step not in (None, 1):
        raise TypeError("a slice of consecutive bytes is wanted, and nothing beside it")
    return piece.start or 0, piece.stop


def get_range(uri: str, offset: int, length: int | None = None, *, config: Config | None = None) -> bytes:
    """`length` bytes of the object at `uri` from `offset`, by default all to its end; fewer where it ends before.

    `config` has the settings, by default the environment's. Errors: `NotFoundError`, `StoreError`; `RangeError` for an
    `offset` at or past the end of an object that is not empty; `ValueError` for a negative number.
    """
    if offset < 0 or (length is not None and length < 0):
        raise ValueError(f"an offset and a length are not negative: {offset}, {length}")
    return get(uri, offset, None if length is None else offset + length, config=config)


def get_into(uri: str, target: Target, *, start: int = 0, config: Config | None = None) -> GetResult:
    """Fill `target` with the object at `uri` from byte `start`: received where it lies, in parallel where it is large.

    `target` is a writable contiguous buffer, such as a `bytearray` or an array of numpy, or a tensor on the CPU. The
    result tells the version. `config` has the settings, by default the environment's. Errors: `NotFoundError`;
    `IntegrityError` where the object ends before `target` is full; `TypeError` for what cannot be filled.
    """
    view = memory_of(target)
    store, key = locate(uri, config)
    return store.get_into(key, view, start=start)


def put(uri: str, data: Content, options: PutOptions = PutOptions(), *, config: Config | None = None) -> PutResult:
    """Write the object at `uri`; a large one in parallel parts. It appears whole or not at all.

    `data`, of up to 5 TiB, is text, which is written as UTF-8; any contiguous buffer: `bytes`, an array, a mapped file;
    a tensor; or a file, by its `pathlib.Path` or open for bytes, which is read to its end. `options` are the object's
    headers and what has to be there before; `config` has the settings, by default the environment's. Returns the
    version that was made. Errors: `PreconditionFailedError`, `AlreadyExistsError`, `StoreError`; `OSError` of a file;
    `TypeError` for what is none of these.
    """
    store, key = locate(uri, config)
    return put_content(store, key, data, options)


def put_bytes(uri: str, data: ReadableBuffer, *, config: Config | None = None) -> PutResult:
    """:func:`put` for buffers alone: write `data` to `uri`. `config` has the settings. Errors: as there."""
    store, key = locate(uri, config)
    return store.put(key, data)


def list(uri: str, *, config: Config | None = None) -> Listing:
    """The objects whose keys start with that of `uri`, in the store's order, as a :class:`Listing`.

    Keys are relative to the bucket, sizes in bytes. The prefix is plain text: end it in `/` for a folder. `config` has
    the settings, by default the environment's. Errors: `InvalidUriError` at once; `StoreError` of a page where it is
    asked for.
    """
    store, prefix = locate_prefix(uri, config)
    return Listing(store.root, lambda: (page.objects for page in store.list_pages(prefix)))


def stat(uri: str, *, config: Config | None = None) -> ObjectMeta:
    """The metadata of the object at `uri`, its size in bytes.

    `config` has the settings, by default the environment's. Errors: `NotFoundError`, `StoreError`.
    """
    store, key = locate(uri, config)
    return store.head(key)


def exists(uri: str, *, config: Config | None = None) -> bool:
    """Whether there is an object at `uri`.

    `config` has the settings, by default the environment's. Errors: `BucketNotFoundError` where there is not even the
    bucket; `StoreError`, for anything but the object's absence.
    """
    store, key = locate(uri, config)
    return store.exists(key)


def presign(uri: str, *, method: str = "GET", seconds: int = 3600, config: Config | None = None) -> str:
    """A URL by which whoever has it may do `method` (GET or PUT) with the object at `uri`, for so many seconds.

    So it is a secret. S3 has such URLs, of a week at most, and of the configured region. No request is sent. `config`
    has the settings, by default the environment's. Errors: `UnsupportedError` for other schemes; `NoCredentialsError`;
    `ValueError` for more than a week.
    """
    store, key = locate(uri, config)
    return store.call(lambda opened: opened.presign(key, method=method, seconds=seconds))


def delete(uri: str, *, config: Config | None = None) -> None:
    """Remove the object at `uri`. Removing an absent one succeeds.

    `config` has the settings, by default the environment's. Errors: `StoreError`.
    """
    store, key = locate(uri, config)
    store.delete(key)


def glob(pattern: str, *, config: Config | None = None) -> Listing:
    """The objects whose URIs are of the `pattern`, as :func:`list` gives them: `s3://bucket/train/*/[0-9].jpg`.

    Between slashes `*` is any letters, `?` is one, `[a-c]` one of these and `[!a-c]` one of the others; `**` is any
    number of folders, at the end all that lies below. In the bucket's name they mean themselves. `config` has the
    settings, by default the environment's. Errors: as of :func:`list`.
    """
    fixed = fixed_prefix(pattern)
    folder = fixed[: fixed.rfind("/") + 1]
    store, prefix = locate_prefix(folder, config)
    keys = prefix + pattern.removeprefix(folder)

    def pages() -> Iterator[Sequence[ObjectMeta]]:
        for page in store.list_pages(fixed_prefix(keys)):
            yield ObjectColumns.of(page.objects).where(lambda key: matches(keys, key))

    return Listing(store.root, pages)


class Folder(NamedTuple):
    """A folder, by its URI: the names of the folders in it, and the objects in it, sizes in bytes."""

    uri: str
    folders: Sequence[str]
    objects: Sequence[ObjectMeta]


def walk(uri: str, *, config: Config | None = None) -> Iterator[Folder]:
    """The folder at `uri`, then those in it and all below, depth first, as `os.walk` goes: see :class:`Folder`.

    One level is asked for at a time. `config` has the settings, by default the environment's. Errors:
    `InvalidUriError`; `StoreError` of a folder where it is come to.
    """
    store, prefix = locate_prefix(uri if uri.endswith("/") else f"{uri}/", config)
    return _walk(store, prefix)


def _walk(store: BlockingStore, prefix: str) -> Iterator[Folder]:
    pages = [*store.list_pages(prefix, delimiter="/")]
    folders = [name.removeprefix(prefix).rstrip("/") for page in pages for name in page.prefixes]
    objects = [meta for page in pages for meta in page.objects if meta.key != prefix]
    yield Folder(f"{store.root}/{prefix}", folders, objects)
    for name in folders:
        yield from _walk(store, f"{prefix}{name}/")


@overload
def open(
    uri: str, mode: Literal["rb"] = "rb", options: PutOptions = PutOptions(), *, config: Config | None = None
) -> BufferedReader: ...
@overload
def open(
    uri: str, mode: Literal["wb"], options: PutOptions = PutOptions(), *, config: Config | None = None
) -> ObjectWriter: ...
def open(uri: str, mode: str = "rb", options: PutOptions = PutOptions(), *, config: Config | None = None) -> Any:
    """The object at `uri` as a file of bytes: `rb` to read and seek in it, `wb` to write a new one.

    Reads are of the version that was there when it was opened, by ranges of 4 MiB or what is asked for where that is
    more, so `readinto` a large buffer is parallel. What is written appears when the file is closed; where an exception
    ends its `with` block, or it is dropped, there is no object. `options` are those of the object that is written;
    `config` has the settings, by default the environment's. Errors: `NotFoundError`, `StoreError`;
    `ObjectChangedError` where it was replaced since; `ValueError` for another `mode`.
    """
    store, key = locate(uri, config)
    return open_object(store, key, mode, options)


def stats() -> Stats:
    """What was asked of all endpoints by the blocking calls, data sets and checkpoints of this process so far.

    Errors: `CancelledError` where the process ends meanwhile.
    """
    here = this_portal()
    return here.call(_stats_of, here)


async def _stats_of(here: BlockingPortal) -> Stats:
    return Stats.of_all(store.stats() for store in here.stores.values())
