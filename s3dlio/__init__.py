"""Object storage for training code.

Three ways in, one engine:

    from s3dlio.compat.s3torchconnector import S3IterableDataset    PyTorch: swap one import
    s3dlio.get("s3://bucket/key")                                   notebooks and scripts: blocking calls
    async with s3dlio.open_store("s3://bucket/prefix") as store:    Trio: the engine itself

The layers, each importing only those below it:

    compat, blocking            what users call
    readahead, gather, session  stores behind the portal; bodies and ranges fetched ahead
    portal, transfer, urls      one Trio thread per process; parallel parts; URIs to stores
    stores                      S3, memory: requests and answers
    transport.service           signed, retried, resumed
    transport, auth             HTTP/1.1 into the caller's memory; signatures, credentials
    alignment                   page-aligned buffers, checksum kernels
    config, errors, model       plain values
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .config import Config
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
    RangeError,
    RequestError,
    ServerError,
    StallError,
    StoreError,
    ThrottledError,
    UnsupportedError,
    UploadNotFoundError,
    WrongRegionError,
)
from .model import (
    BoundedRange,
    GetResult,
    ListPage,
    ObjectMeta,
    OffsetRange,
    Part,
    PutOptions,
    PutResult,
    RestoreStatus,
    SuffixRange,
    Upload,
)
from .version import __version__

if TYPE_CHECKING:
    from .blocking import delete, exists, get, list, put, stat
    from .stores.store import ObjectStore
    from .urls import open_store

_ON_FIRST_USE = dict.fromkeys(("delete", "exists", "get", "list", "put", "stat"), "blocking")
_ON_FIRST_USE |= {"ObjectStore": "stores.store", "open_store": "urls"}


def __getattr__(name: str) -> Any:
    """Import what needs Trio when it is first used: importing the package costs next to nothing."""
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_ON_FIRST_USE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> Iterable[str]:
    return sorted({*globals(), *_ON_FIRST_USE})


__all__ = [
    "AlreadyExistsError",
    "BoundedRange",
    "BucketNotFoundError",
    "Config",
    "ConfigError",
    "ConnectTimeoutError",
    "ConnectionFailedError",
    "ErrorContext",
    "GetResult",
    "IntegrityError",
    "InvalidKeyError",
    "InvalidUriError",
    "ListPage",
    "NoCredentialsError",
    "NotFoundError",
    "NotModifiedError",
    "ObjectChangedError",
    "ObjectMeta",
    "ObjectStore",
    "OffsetRange",
    "Part",
    "PermissionDeniedError",
    "PreconditionFailedError",
    "ProfileNotFoundError",
    "ProtocolError",
    "PutOptions",
    "PutResult",
    "RangeError",
    "RequestError",
    "RestoreStatus",
    "ServerError",
    "StallError",
    "StoreError",
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
    "list",
    "open_store",
    "put",
    "stat",
]
