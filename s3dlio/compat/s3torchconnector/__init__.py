"""The names of AWS's `s3torchconnector`, on our own engine. Change the import; leave the rest of the code as it is.

`from s3dlio.compat.s3torchconnector import S3Checkpoint, S3IterableDataset, S3MapDataset`

The modules have the original's names too: `s3reader`, `s3writer`, `s3checkpoint`, `s3iterable_dataset`,
`s3map_dataset`, `_s3client`, and, imported when they are asked for, `dcp` and `lightning`.
"""

from __future__ import annotations

from ..extras import naming_the_extra

try:
    from . import collation
    from ._s3client import S3ClientConfig
    from .errors import S3Exception
    from .s3checkpoint import S3Checkpoint
    from .s3iterable_dataset import S3IterableDataset
    from .s3map_dataset import S3MapDataset
    from .s3reader import S3Reader, S3ReaderConstructor
    from .s3writer import S3Writer
except ModuleNotFoundError as error:
    raise naming_the_extra(error) from None

__version__ = "1.5.0"
"""The version of `s3torchconnector` whose interface this is. Programs compare it."""

__all__ = [
    "S3Checkpoint",
    "S3ClientConfig",
    "S3Exception",
    "S3IterableDataset",
    "S3MapDataset",
    "S3Reader",
    "S3ReaderConstructor",
    "S3Writer",
    "__version__",
]

collation.register()
