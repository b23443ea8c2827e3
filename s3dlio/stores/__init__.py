"""Every kind of store, all of one interface: :class:`ObjectStore`. Each is imported when it is first used.

`s3dlio.open_store` makes the right one for a URI and moves large objects in parallel; these classes are for programs
that put stores together themselves, and for annotations. One request is one call here: a large object is not cut up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import attach

if TYPE_CHECKING:
    from .azure.store import AzureStore
    from .gcs.store import GCSStore
    from .local.direct import DirectStore
    from .local.store import LocalStore
    from .memory import MemoryStore
    from .s3.store import S3Store
    from .store import ObjectStore
    from .wrapper import PrefixStore, WrapperStore

__getattr__, __dir__ = attach(
    __name__,
    {
        "AzureStore": "azure.store",
        "DirectStore": "local.direct",
        "GCSStore": "gcs.store",
        "LocalStore": "local.store",
        "MemoryStore": "memory",
        "ObjectStore": "store",
        "PrefixStore": "wrapper",
        "S3Store": "s3.store",
        "WrapperStore": "wrapper",
    },
)

__all__ = [
    "AzureStore",
    "DirectStore",
    "GCSStore",
    "LocalStore",
    "MemoryStore",
    "ObjectStore",
    "PrefixStore",
    "S3Store",
    "WrapperStore",
]
