"""The blocking face: one function per verb, a URI first. Works in scripts, threads, notebooks and worker processes.

Settings come from the environment, or from the `config` that every verb takes, see :class:`s3dlio.Config`. Every
function raises a :class:`s3dlio.StoreError`: an absent object is a `FileNotFoundError`, a refused one a
`PermissionError`, a malformed URI a `ValueError`. What is about many objects tries all of them, and raises a
:class:`s3dlio.BulkError` that names those that failed. :class:`BlockingStore` is a bucket with all verbs of a store.
"""

from __future__ import annotations

from .files import ObjectReader, ObjectWriter
from .listing import Listing
from .many import delete_many, get_many, put_many
from .store import BlockingStore, BlockingWriter
from .transfers import copy, download, move, sync, upload
from .verbs import Folder, delete, exists, get, get_into, get_range, glob, presign, put, put_bytes, stat, stats, walk

# not in `__all__`, as `import *` would put them in the place of Python's own
from .verbs import list as list
from .verbs import open as open

__all__ = [
    "BlockingStore",
    "BlockingWriter",
    "Folder",
    "Listing",
    "ObjectReader",
    "ObjectWriter",
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
    "presign",
    "put",
    "put_bytes",
    "put_many",
    "stat",
    "stats",
    "sync",
    "upload",
    "walk",
]
