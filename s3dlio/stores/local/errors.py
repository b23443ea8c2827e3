"""What the operating system reports, as the errors of a store. The name of the errno becomes the `code`."""

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
    errno.ENOSPC: RequestError,
    errno.EDQUOT: RequestError,
    errno.EFBIG: RequestError,
    errno.E2BIG: RequestError,
    errno.ERANGE: RequestError,
    errno.EINVAL: RequestError,
}

_MESSAGES = {
    errno.ELOOP: "the path has a symbolic link in it, and follow_symlinks is off",
    errno.EXDEV: "the path leads out of the root",
    errno.EISDIR: "the key names a directory",
    errno.ENOTDIR: "a segment before the last names a file",
    errno.ENXIO: "not a regular file",
}

_WRITES = {"PutObject", "CopyObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"}


def store_error(error: OSError, context: ErrorContext) -> StoreError:
    """The error of a store for one of the system.

    Where a directory stands in the place of a file, or the other way round, nothing can be found, or written.
    """
    number = error.errno or 0
    kind = _CLASSES.get(number, ServerError)
    if isinstance(error, RootNotFoundError):
        kind = BucketNotFoundError
    elif number in (errno.EISDIR, errno.ENOTDIR):
        kind = InvalidKeyError if context.operation in _WRITES else NotFoundError
    message = _MESSAGES.get(number) or (os.strerror(number) if number else str(error))
    return kind(message, replace(context, code=errno.errorcode.get(number)))
