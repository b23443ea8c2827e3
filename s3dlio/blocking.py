"""The blocking face: one function per verb, a URI first. Works in scripts, threads, notebooks and worker processes.

Every function raises a :class:`s3dlio.StoreError`: an absent object is a `FileNotFoundError`, a refused one a
`PermissionError`, a malformed URI a `ValueError`. Settings come from the environment, see :class:`s3dlio.Config`.
"""

from __future__ import annotations

from collections.abc import Iterator

from .config import Config
from .model import ObjectMeta, PutOptions, PutResult
from .session import BlockingStore, blocking_store
from .stores.store import DEFAULT_PUT
from .urls import parse_object_uri, parse_uri


def _place(uri: str) -> tuple[BlockingStore, str]:
    parsed = parse_object_uri(uri)
    return blocking_store(parsed.root, Config()), parsed.key


def get(uri: str) -> bytes:
    """The whole object."""
    store, key = _place(uri)
    return store.get(key)


def put(uri: str, data: bytes | bytearray | memoryview, options: PutOptions = DEFAULT_PUT) -> PutResult:
    """Write an object; a large one in parallel parts. It appears whole or not at all."""
    store, key = _place(uri)
    return store.put(key, memoryview(data), options)


def list(uri: str) -> Iterator[ObjectMeta]:
    """The objects whose keys start with the URI's, in the store's order; pages are asked for as they are needed.

    Keys are relative to the bucket. The prefix is plain text: end it in `/` for a folder.
    """
    parsed = parse_uri(uri)
    pages = blocking_store(parsed.root, Config()).list_pages(parsed.key)
    return (item for page in pages for item in page.objects)


def stat(uri: str) -> ObjectMeta:
    """The object's metadata."""
    store, key = _place(uri)
    return store.head(key)


def exists(uri: str) -> bool:
    """Whether the object is there. An error other than its absence is raised."""
    store, key = _place(uri)
    return store.exists(key)


def delete(uri: str) -> None:
    """Remove an object. Removing an absent one succeeds."""
    store, key = _place(uri)
    store.delete(key)
