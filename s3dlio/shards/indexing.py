"""Making the index of a shard, once, and keeping it beside the data."""

from __future__ import annotations

from ..alignment.buffers import fresh_bytes
from ..archives import Window, tar_members, zip_members
from ..blocking.store import BlockingStore, locate
from ..config import Config
from ..errors import ErrorContext, NotFoundError, PermissionDeniedError
from ..model import ObjectMeta
from ..versions import pin_of
from .members import Index, parse_index

SUFFIX = ".index.json"


def index(uri: str, *, save: bool = True, config: Config | None = None) -> Index:
    """The members of the shard at `uri`: a `.zip` by its name, else a tar that is not compressed.

    It is read from `uri` with `.index.json` after it, where it lies for this very version of the shard. Else it is
    made, of a tar by reading all of it where its files are small, and, if `save` says so, written there. `config` has
    the settings, by default the environment's. Errors: `NotFoundError`; `FormatError` for what is no such shard, and
    `UnsupportedError` for encrypted members and files with holes; `PermissionDeniedError` where it cannot be written;
    `StoreError`.
    """
    store, key = locate(uri, config)
    meta = store.head(key)
    kept = _kept(store, meta)
    if kept is not None:
        return kept
    made = _made(store, meta)
    if save:
        store.put(f"{key}{SUFFIX}", made.to_json())
    return made


def context_of(store: BlockingStore, key: str) -> ErrorContext:
    """What errors of a shard's content tell of it."""
    return ErrorContext("read shard", store.bucket.bucket, key)


def _kept(store: BlockingStore, meta: ObjectMeta) -> Index | None:
    try:
        data = store.get(f"{meta.key}{SUFFIX}")
    except (NotFoundError, PermissionDeniedError):  # S3 says the latter of absent objects to who may not list
        return None
    return parse_index(data, meta.etag, meta.size)


def _made(store: BlockingStore, meta: ObjectMeta) -> Index:
    def fetch(start: int, end: int) -> bytes:
        data, view = fresh_bytes(end - start)
        store.get_into(meta.key, view, start=start, if_match=pin_of(meta))
        return data

    members = zip_members if meta.key.lower().endswith(".zip") else tar_members
    window = Window(fetch, meta.size, context_of(store, meta.key))
    return Index.of(members(window), meta.etag, meta.size)
