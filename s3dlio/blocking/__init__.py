"""The blocking face: one function per verb, a URI first. Works in scripts, threads, notebooks and worker processes.

Settings come from the environment, or from the `config` that every verb takes, see :class:`s3dlio.Config`. Every
function raises a :class:`s3dlio.StoreError`: an absent object is a `FileNotFoundError`, a refused one a
`PermissionError`, a malformed URI a `ValueError`. :class:`BlockingStore` is a bucket with all verbs of a store.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ..config import Config
from ..endpoint_stats import Stats
from ..model import ObjectMeta, PutOptions, PutResult
from ..urls import parse_object_uri, parse_uri
from .portal import BlockingPortal
from .portal import portal as this_portal  # `portal` is the module
from .store import BlockingStore, BlockingWriter

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def _object(uri: str, config: Config | None) -> tuple[BlockingStore, str]:
    config = config or Config()
    parsed = parse_object_uri(uri, config)
    return BlockingStore(replace(parsed, key=""), config), parsed.key


def get(uri: str, *, config: Config | None = None) -> bytes:
    """The whole object at `uri`, a large one in parallel ranges.

    `config` has the settings, by default the environment's. Errors: `NotFoundError`, `StoreError`.
    """
    store, key = _object(uri, config)
    return store.get(key)


def put(
    uri: str, data: ReadableBuffer, options: PutOptions = PutOptions(), *, config: Config | None = None
) -> PutResult:
    """Write the object at `uri`; a large one in parallel parts. It appears whole or not at all.

    `data` is any contiguous buffer of up to 5 TiB: `bytes`, an array, a mapped file; `options` are the object's headers
    and what has to be there before; `config` has the settings, by default the environment's. Returns the version that
    was made. Errors: `PreconditionFailedError`, `AlreadyExistsError`, `StoreError`; `TypeError` for what is no buffer.
    """
    store, key = _object(uri, config)
    return store.put(key, data, options)


def list(uri: str, *, config: Config | None = None) -> Iterator[ObjectMeta]:
    """The objects whose keys start with that of `uri`, in the store's order; pages are asked for as they are needed.

    Keys are relative to the bucket, sizes in bytes. The prefix is plain text: end it in `/` for a folder. `config` has
    the settings, by default the environment's. Errors: `InvalidUriError` at once; `StoreError` of a page where it is
    asked for.
    """
    config = config or Config()
    parsed = parse_uri(uri, config)
    pages = BlockingStore(replace(parsed, key=""), config).list_pages(parsed.key)
    return (item for page in pages for item in page.objects)


def stat(uri: str, *, config: Config | None = None) -> ObjectMeta:
    """The metadata of the object at `uri`, its size in bytes.

    `config` has the settings, by default the environment's. Errors: `NotFoundError`, `StoreError`.
    """
    store, key = _object(uri, config)
    return store.head(key)


def exists(uri: str, *, config: Config | None = None) -> bool:
    """Whether there is an object at `uri`.

    `config` has the settings, by default the environment's. Errors: `BucketNotFoundError` where there is not even the
    bucket; `StoreError`, for anything but the object's absence.
    """
    store, key = _object(uri, config)
    return store.exists(key)


def delete(uri: str, *, config: Config | None = None) -> None:
    """Remove the object at `uri`. Removing an absent one succeeds.

    `config` has the settings, by default the environment's. Errors: `StoreError`.
    """
    store, key = _object(uri, config)
    store.delete(key)


def stats() -> Stats:
    """What was asked of all endpoints by the blocking calls, data sets and checkpoints of this process so far.

    Errors: `CancelledError` where the process ends meanwhile.
    """
    here = this_portal()
    return here.call(_stats_of, here)


async def _stats_of(here: BlockingPortal) -> Stats:
    return Stats.of_all(store.stats() for store in here.stores.values())


# `list` is not among them, as `import *` would put it in the place of Python's own
__all__ = ["BlockingStore", "BlockingWriter", "delete", "exists", "get", "put", "stat", "stats"]
