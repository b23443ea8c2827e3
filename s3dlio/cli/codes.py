"""Exit codes: rclone's numbers. Source: "Exit code" in rclone's documentation, "Usage"."""

from __future__ import annotations

from collections.abc import Collection

from ..errors import (
    OUTAGES,
    AlreadyExistsError,
    BucketNotFoundError,
    BulkError,
    ConfigError,
    InvalidKeyError,
    InvalidUriError,
    ObjectChangedError,
    PermissionDeniedError,
    PreconditionFailedError,
    RangeError,
    UnsupportedError,
)

OK, OTHER, USAGE, NO_FOLDER, NO_OBJECT, OUTAGE, REFUSED, FATAL, NOTHING = 0, 1, 2, 3, 4, 5, 6, 7, 9

_CODES: tuple[tuple[type[Exception] | tuple[type[Exception], ...], int], ...] = (
    ((InvalidUriError, InvalidKeyError, ConfigError), USAGE),
    (BucketNotFoundError, NO_FOLDER),
    (FileNotFoundError, NO_OBJECT),
    (OUTAGES, OUTAGE),
    ((AlreadyExistsError, PreconditionFailedError, ObjectChangedError, RangeError), REFUSED),
    ((PermissionDeniedError, PermissionError, UnsupportedError), FATAL),
    (ValueError, USAGE),
)
"""The first that fits counts: one kind of error may be another's, too."""


def code_of_many(codes: Collection[int]) -> int:
    """The one of all these failures, or that of an outage among them."""
    return next(iter(codes)) if len(codes) == 1 else OUTAGE if OUTAGE in codes else OTHER


def code_of(error: Exception) -> int:
    """The code for `error`; of many failures the one that all share, or that of an outage among them."""
    if isinstance(error, BulkError):
        return code_of_many({code_of(failure) for failure in error.failures.values()})
    return next((code for kinds, code in _CODES if isinstance(error, kinds)), OTHER)
