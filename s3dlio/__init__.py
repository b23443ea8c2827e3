"""Object storage for training code.

Three ways in, one engine:

    from s3dlio.compat.s3torchconnector import S3IterableDataset    PyTorch: swap one import
    s3dlio.get("s3://bucket/key")                                   notebooks and scripts: blocking calls
    async with s3dlio.open_store("s3://bucket/prefix") as store:    Trio: the engine itself

Public are this package, :mod:`s3dlio.stores`, :mod:`s3dlio.alignment`, :mod:`s3dlio.blocking` and
:mod:`s3dlio.compat`. How it is built stands in the README; a walk through it is `docs/design.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .config import Config
from .endpoint_stats import EndpointStats, Stats
from .errors import (
    AlreadyExistsError,
    BucketNotFoundError,
    ConfigError,
    ConnectionFailedError,
    ConnectTimeoutError,
    ErrorContext,
    IntegrityError,
    InvalidKeyError,
    InvalidUriError,
    NoCredentialsError,
    NotFoundError,
    NotModifiedError,
    ObjectChangedError,
    PermissionDeniedError,
    PreconditionFailedError,
    ProfileNotFoundError,
    ProtocolError,
    ProxyError,
    RangeError,
    RequestError,
    RequestTimeoutError,
    ServerError,
    StallError,
    StoreError,
    ThrottledError,
    UnsupportedError,
    UploadNotFoundError,
    WrongRegionError,
)
from .lazy import attach
from .model import (
    BoundedRange,
    GetOptions,
    GetResult,
    ListOptions,
    ListPage,
    ObjectMeta,
    OffsetRange,
    Part,
    PartCopy,
    PutOptions,
    PutResult,
    RestoreStatus,
    Sink,
    StoredChecksum,
    SuffixRange,
    Upload,
)
from .version import __version__

if TYPE_CHECKING:
    from .blocking import delete, exists, get, put, stat, stats
    from .blocking import list as list  # not in `__all__`, as `import *` would put it in the place of Python's own
    from .stores.store import ObjectStore
    from .transfer import ParallelStore, PartWriter
    from .urls import open_store

_VERBS = dict.fromkeys(("delete", "exists", "get", "list", "put", "stat", "stats"), "blocking")
_STORES = {"ObjectStore": "stores.store", "ParallelStore": "transfer", "PartWriter": "transfer", "open_store": "urls"}
__getattr__, __dir__ = attach(__name__, _VERBS | _STORES)

__all__ = [
    "AlreadyExistsError",
    "BoundedRange",
    "BucketNotFoundError",
    "Config",
    "ConfigError",
    "ConnectTimeoutError",
    "ConnectionFailedError",
    "EndpointStats",
    "ErrorContext",
    "GetOptions",
    "GetResult",
    "IntegrityError",
    "InvalidKeyError",
    "InvalidUriError",
    "ListOptions",
    "ListPage",
    "NoCredentialsError",
    "NotFoundError",
    "NotModifiedError",
    "ObjectChangedError",
    "ObjectMeta",
    "ObjectStore",
    "OffsetRange",
    "ParallelStore",
    "Part",
    "PartCopy",
    "PartWriter",
    "PermissionDeniedError",
    "PreconditionFailedError",
    "ProfileNotFoundError",
    "ProtocolError",
    "ProxyError",
    "PutOptions",
    "PutResult",
    "RangeError",
    "RequestError",
    "RequestTimeoutError",
    "RestoreStatus",
    "ServerError",
    "Sink",
    "StallError",
    "Stats",
    "StoreError",
    "StoredChecksum",
    "SuffixRange",
    "ThrottledError",
    "UnsupportedError",
    "Upload",
    "UploadNotFoundError",
    "WrongRegionError",
    "__version__",
    "delete",
    "exists",
    "get",
    "open_store",
    "put",
    "stat",
    "stats",
]
