"""The blocking face: one function per verb, a URI first. Works in scripts, threads, notebooks and worker processes.

Settings come from the environment, see :class:`s3dlio.Config`. Every function raises a :class:`s3dlio.StoreError`: an
absent object is a `FileNotFoundError`, a refused one a `PermissionError`, a malformed URI a `ValueError`.
:class:`BlockingStore` is a bucket with all verbs of a store, for settings of one's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..config import Config
from ..model import DEFAULT_PUT, ObjectMeta, PutOptions, PutResult
from ..urls import parse_object_uri, parse_uri
from .store import BlockingStore, BlockingWriter


def _object(uri: str) -> tuple[BlockingStore, str]:
    config = Config()
    parsed = parse_object_uri(uri, config)
    return BlockingStore(replace(parsed, key=""), config), parsed.key


def get(uri: str) -> bytes:
    """The whole object at `uri`, a large one in parallel ranges. Errors: `NotFoundError`, `StoreError`."""
    store, key = _object(uri)
    return store.get(key)


def put(uri: str, data: bytes | bytearray | memoryview, options: PutOptions = DEFAULT_PUT) -> PutResult:
    """Write the object at `uri`; a large one in parallel parts. It appears whole or not at all.

    `data` is contiguous, of up to 5 TiB; `options` are the object's headers and what has to be there before. Returns
    the version that was made. Errors: `PreconditionFailedError`, `AlreadyExistsError`, `StoreError`.
    """
    store, key = _object(uri)
    return store.put(key, data, options)


def list(uri: str) -> Iterator[ObjectMeta]:
    """The objects whose keys start with that of `uri`, in the store's order; pages are asked for as they are needed.

    Keys are relative to the bucket, sizes in bytes. The prefix is plain text: end it in `/` for a folder. Errors:
    `InvalidUriError` at once; `StoreError` of a page where it is asked for.
    """
    config = Config()
    parsed = parse_uri(uri, config)
    pages = BlockingStore(replace(parsed, key=""), config).list_pages(parsed.key)
    return (item for page in pages for item in page.objects)


def stat(uri: str) -> ObjectMeta:
    """The metadata of the object at `uri`, its size in bytes. Errors: `NotFoundError`, `StoreError`."""
    store, key = _object(uri)
    return store.head(key)


def exists(uri: str) -> bool:
    """Whether there is an object at `uri`. Errors: `StoreError`, for anything but its absence."""
    store, key = _object(uri)
    return store.exists(key)


def delete(uri: str) -> None:
    """Remove the object at `uri`. Removing an absent one succeeds. Errors: `StoreError`."""
    store, key = _object(uri)
    store.delete(key)


__all__ = ["BlockingStore", "BlockingWriter", "delete", "exists", "get", "list", "put", "stat"]
