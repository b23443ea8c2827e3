"""The names of AWS's `s3torchconnector`, on our own engine. Change the import; leave the rest of the code as it is.

`from s3dlio.compat.s3torchconnector import S3Checkpoint, S3IterableDataset, S3MapDataset`
"""

from __future__ import annotations

from . import collation
from .checkpoint import S3Checkpoint
from .config import S3ClientConfig
from .datasets import S3IterableDataset, S3MapDataset
from .errors import S3Exception
from .reader import S3Reader
from .writer import S3Writer

__version__ = "1.5.0"
"""The version of `s3torchconnector` whose interface this is. Programs compare it."""

__all__ = [
    "S3Checkpoint",
    "S3ClientConfig",
    "S3Exception",
    "S3IterableDataset",
    "S3MapDataset",
    "S3Reader",
    "S3Writer",
    "__version__",
]

collation.register()
