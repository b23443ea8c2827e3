"""What the operating system reports, as the errors of a store. The name of the errno becomes the `code`.

What has no class of its own is an `OSError` all the same, and every one that is has its `errno`.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace

from ...errors import (
    AlreadyExistsError,
    BucketNotFoundError,
    ErrorContext,
    InvalidKeyError,
    NotFoundError,
    PermissionDeniedError,
    RequestError,
    ServerError,
    StoreError,
    UnsupportedError,
)
from .paths import RootNotFoundError


class RefusedError(RequestError, OSError):
    """The system cannot do what was asked, as where the disk is full."""


class FailedError(ServerError, OSError):
    """The system failed, as where the disk is broken."""


_CLASSES: dict[int, type[StoreError]] = {
    errno.ENOENT: NotFoundError,
    errno.EEXIST: AlreadyExistsError,
    errno.EACCES: PermissionDeniedError,
    errno.EPERM: PermissionDeniedError,
    errno.EROFS: PermissionDeniedError,
    errno.ELOOP: PermissionDeniedError,
    errno.EXDEV: PermissionDeniedError,
    errno.ENAMETOOLONG: InvalidKeyError,
    errno.EILSEQ: InvalidKeyError,
    errno.ENXIO: UnsupportedError,
    errno.ENODEV: UnsupportedError,
    errno.EOPNOTSUPP: UnsupportedError,
    errno.ENOSYS: UnsupportedError,
    errno.ENOSPC: RefusedError,
    errno.EDQUOT: RefusedError,
    errno.EFBIG: RefusedError,
    errno.E2BIG: RefusedError,
    errno.ERANGE: RefusedError,
    errno.EINVAL: RefusedError,
}

_MESSAGES = {
    errno.ELOOP: "the path has too many symbolic links in it",
    errno.EXDEV: "the path leads out of the root",
    errno.EISDIR: "the key names a directory",
    errno.ENOTDIR: "a segment before the last names a file",
    errno.ENXIO: "not a regular file",
}

HOW_TO_FOLLOW = "Config(follow_symlinks=True) or S3DLIO_FOLLOW_SYMLINKS=1 has links followed"

_WRITES = {"PutObject", "CopyObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"}


def store_error(error: OSError, context: ErrorContext, *, follow_symlinks: bool) -> StoreError:
    """The error of a store, which may `follow_symlinks`, for one of the system.

    Where a directory stands in the place of a file, or the other way round, nothing can be found, or written.
    """
    number = error.errno or 0
    kind = _CLASSES.get(number, FailedError)
    if isinstance(error, RootNotFoundError):
        kind = BucketNotFoundError
    elif number in (errno.EISDIR, errno.ENOTDIR):
        kind = InvalidKeyError if context.operation in _WRITES else NotFoundError
    message = _MESSAGES.get(number) or (os.strerror(number) if number else str(error))
    if number == errno.ELOOP and not follow_symlinks:
        message = f"the path has a symbolic link in it: {HOW_TO_FOLLOW}"
    failure = kind(message, replace(context, code=errno.errorcode.get(number)))
    if isinstance(failure, OSError):
        failure.errno = error.errno
    return failure
