"""`S3Exception`, and the translation of our errors into it.

Users and PyTorch match on some texts, so those are kept to the letter. What happened where is not lost: the original
error is the `__cause__`, and its text, with the operation, key, endpoint and attempts, is a note on the exception.

Each class takes one string. `torch.utils.data` relies on that: it raises a worker's error again, in the main process,
as `type(error)(text of the whole traceback)`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from ...errors import (
    BucketNotFoundError,
    ConfigError,
    NoCredentialsError,
    NotFoundError,
    ProfileNotFoundError,
    StoreError,
)

KEY_ABSENT = "Service error: The key does not exist"
OBJECT_ABSENT = "Service error: The object was not found"
BUCKET_ABSENT = "Service error: The bucket does not exist"
NO_CREDENTIALS = "Client error: No signing credentials available, see CRT debug logs"

_ELSEWHERE = re.compile(r"Blob|Block|objects\.")
"""What the operations of Azure and Google are known by: no program matches on texts about these."""


class S3Exception(Exception):
    """An error in accessing S3."""


class S3NotFoundError(S3Exception, FileNotFoundError):
    """There is no such object or bucket."""


class S3PermissionError(S3Exception, PermissionError):
    """The credentials are absent, wrong, or do not allow this."""


class S3TimeoutError(S3Exception, TimeoutError):
    """No byte moved for too long."""


class S3ConnectionError(S3Exception, ConnectionError):
    """The endpoint could not be reached."""


_FAMILIES: tuple[tuple[type[OSError], type[S3Exception]], ...] = (
    (FileNotFoundError, S3NotFoundError),
    (PermissionError, S3PermissionError),
    (TimeoutError, S3TimeoutError),
    (ConnectionError, S3ConnectionError),
)


def s3_exception(error: StoreError, absent: str = KEY_ABSENT) -> S3Exception:
    """The exception users expect for `error`; `absent` is the text for an object that is not there."""
    kind = next((ours for builtin, ours in _FAMILIES if isinstance(error, builtin)), S3Exception)
    exception = kind(_text(error, absent))
    exception.add_note(str(error))
    return exception


def _text(error: StoreError, absent: str) -> str:
    if isinstance(error, BucketNotFoundError):
        return absent if absent == OBJECT_ABSENT else BUCKET_ABSENT
    if type(error) is NotFoundError:  # not what is derived from it, which is absent in another sense
        return absent
    if isinstance(error, ProfileNotFoundError):
        return f"invalid AWS credentials: {error.message}"
    if isinstance(error, NoCredentialsError):
        return f"Client error: {error.message}" if _ELSEWHERE.search(error.operation or "") else NO_CREDENTIALS
    if isinstance(error, PermissionError):
        return f"Client error: Forbidden: {error.message}"
    if isinstance(error, ConfigError):
        return f"invalid configuration: {error.message}"
    return f"Client error: {error.message}"


@contextlib.contextmanager
def translated(absent: str = KEY_ABSENT) -> Iterator[None]:
    """Let every `StoreError` of the block leave it as an `S3Exception`."""
    try:
        yield
    except StoreError as error:
        raise s3_exception(error, absent) from error
