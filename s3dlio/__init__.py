"""Object storage for training code.

Three ways in, one engine:

    from s3dlio.compat.s3torchconnector import S3IterableDataset    PyTorch: swap one import
    s3dlio.get("s3://bucket/key")                                   notebooks and scripts: blocking calls
    async with s3dlio.open_store("s3://bucket/prefix") as store:    Trio: the engine itself

Public are this package, :mod:`s3dlio.aio`, :mod:`s3dlio.stores`, :mod:`s3dlio.alignment`, :mod:`s3dlio.blocking`,
:mod:`s3dlio.compat`, :mod:`s3dlio.manifest`, :mod:`s3dlio.numpy`, :mod:`s3dlio.opentelemetry`,
:mod:`s3dlio.safetensors` and :mod:`s3dlio.shards`. How it is built stands in the README; a walk through
it is `docs/design.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .config import Config
from .endpoint_stats import EndpointStats, Stats
from .errors import (
    AlreadyExistsError,
    BucketNotFoundError,
    BulkError,
    ChecksumError,
    ConfigError,
    ConnectionFailedError,
    ConnectTimeoutError,
    ErrorContext,
    FormatError,
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
    from .blocking import (
        Folder,
        Listing,
        ObjectWriter,
        copy,
        delete,
        delete_many,
        download,
        exists,
        get,
        get_into,
        get_many,
        get_range,
        glob,
        move,
        presign,
        put,
        put_bytes,
        put_many,
        stat,
        stats,
        sync,
        upload,
        walk,
    )
    from .blocking import list as list  # not in `__all__`, as `import *` would put them in the place of Python's own
    from .blocking import open as open
    from .blocking.timeline import trace
    from .many_reader import ManyReader
    from .mirror import Transferred
    from .part_reader import PartReader
    from .part_writer import PartWriter
    from .previews import Preview, preview
    from .stores.store import ObjectStore
    from .transfer import ParallelStore
    from .urls import open_store

_ONE = ("delete", "exists", "get", "get_into", "get_range", "presign", "put", "put_bytes", "stat")
_MANY = ("delete_many", "get_many", "list", "put_many", "stats")
_TREES = ("copy", "download", "glob", "move", "open", "sync", "upload", "walk")
_VERBS = dict.fromkeys((*_ONE, *_MANY, *_TREES, "Folder", "Listing", "ObjectWriter"), "blocking")
_OTHERS = {
    "ManyReader": "many_reader",
    "ObjectStore": "stores.store",
    "ParallelStore": "transfer",
    "PartReader": "part_reader",
    "PartWriter": "part_writer",
    "Preview": "previews",
    "Transferred": "mirror",
    "open_store": "urls",
    "preview": "previews",
    "trace": "blocking.timeline",
}
__getattr__, __dir__ = attach(__name__, _VERBS | _OTHERS)

__all__ = [
    "AlreadyExistsError",
    "BoundedRange",
    "BucketNotFoundError",
    "BulkError",
    "ChecksumError",
    "Config",
    "ConfigError",
    "ConnectTimeoutError",
    "ConnectionFailedError",
    "EndpointStats",
    "ErrorContext",
    "Folder",
    "FormatError",
    "GetOptions",
    "GetResult",
    "IntegrityError",
    "InvalidKeyError",
    "InvalidUriError",
    "ListOptions",
    "ListPage",
    "Listing",
    "ManyReader",
    "NoCredentialsError",
    "NotFoundError",
    "NotModifiedError",
    "ObjectChangedError",
    "ObjectMeta",
    "ObjectStore",
    "ObjectWriter",
    "OffsetRange",
    "ParallelStore",
    "Part",
    "PartCopy",
    "PartReader",
    "PartWriter",
    "PermissionDeniedError",
    "PreconditionFailedError",
    "Preview",
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
    "Transferred",
    "UnsupportedError",
    "Upload",
    "UploadNotFoundError",
    "WrongRegionError",
    "__version__",
    "copy",
    "delete",
    "delete_many",
    "download",
    "exists",
    "get",
    "get_into",
    "get_many",
    "get_range",
    "glob",
    "move",
    "open_store",
    "presign",
    "preview",
    "put",
    "put_bytes",
    "put_many",
    "stat",
    "stats",
    "sync",
    "trace",
    "upload",
    "walk",
]
