"""The file that a manifest is mapped from: itself, where it is one, else a copy, made once for a machine."""

from __future__ import annotations

import fcntl
import mmap
import os
from hashlib import blake2b
from pathlib import Path
from tempfile import mkstemp

from ..alignment.compiled import directory
from ..blocking.store import BlockingStore
from ..errors import ErrorContext, StoreError
from ..model import ObjectMeta
from ..versions import pin_of

_FILES = ("file", "direct")


def local_copy(store: BlockingStore, meta: ObjectMeta) -> str:
    """The path of a file that holds the object `meta` of `store`.

    Of several processes that want it one fetches it, and the others wait. A copy is never changed, and is named for the
    version. Errors: `StoreError`, also where there is no private directory for it; `OSError` where there is no room.
    """
    if store.bucket.scheme in _FILES:
        return f"{store.bucket.bucket.rstrip('/')}/{meta.key}"
    path = _kept_at(store, meta)
    if not path.exists():
        _fetch(store, meta, path)
    return str(path)


def _kept_at(store: BlockingStore, meta: ObjectMeta) -> Path:
    folder = directory()
    if folder is None:
        where = ErrorContext("read manifest", store.bucket.bucket, meta.key)
        raise StoreError("there is no private directory for a copy of the manifest: set S3DLIO_CACHE_DIR", where)
    version = f"{store.root}\0{store.config.endpoint}\0{meta.key}\0{meta.etag}\0{meta.size}\0{meta.last_modified}"
    return folder / f"{blake2b(version.encode(), digest_size=16).hexdigest()}.manifest"


def _fetch(store: BlockingStore, meta: ObjectMeta, path: Path) -> None:
    with open(path.with_suffix(".lock"), "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return
        # of its own, as locks may not reach other machines: to write to a mapping that is cut ends the process
        descriptor, unfinished = mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
        try:
            with open(descriptor, "r+b") as file:
                _receive(store, meta, file.fileno())
            os.rename(unfinished, path)
        except BaseException:
            os.unlink(unfinished)
            raise


def _receive(store: BlockingStore, meta: ObjectMeta, file: int) -> None:
    if meta.size:
        os.posix_fallocate(file, 0, meta.size)  # so does one that the disk has no room for
        store.get_into(meta.key, memoryview(mmap.mmap(file, meta.size)), if_match=pin_of(meta))
