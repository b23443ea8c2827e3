"""What can go wrong, as types a caller can act on.

Every error of the package is a :class:`StoreError` and, where Python has a word for it, also the builtin
(`FileNotFoundError`, `PermissionError`, `TimeoutError`, `ValueError`, ...). An error names the operation, the object,
the endpoint, the answer and the attempts; it never holds a credential, a signed URL or a body.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class ErrorContext:
    """Where an error happened. Every field may be unknown (`None`); `attempts` counts requests sent."""

    operation: str | None = None
    bucket: str | None = None
    key: str | None = None
    endpoint: str | None = None
    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    attempts: int | None = None

    def __str__(self) -> str:
        known = ((field.name, getattr(self, field.name)) for field in fields(self))
        return ", ".join(f"{name}={value!r}" for name, value in known if value is not None)


class StoreError(Exception):
    """Base of all errors: a message and an :class:`ErrorContext`, whose fields are attributes here."""

    def __init__(self, message: str, context: ErrorContext | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.context = context or ErrorContext()

    def __str__(self) -> str:
        where = str(self.context)
        return f"{self.message} ({where})" if where else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.context)

    @property
    def operation(self) -> str | None:
        return self.context.operation

    @property
    def bucket(self) -> str | None:
        return self.context.bucket

    @property
    def key(self) -> str | None:
        return self.context.key

    @property
    def endpoint(self) -> str | None:
        return self.context.endpoint

    @property
    def status(self) -> int | None:
        return self.context.status

    @property
    def code(self) -> str | None:
        return self.context.code

    @property
    def request_id(self) -> str | None:
        return self.context.request_id

    @property
    def attempts(self) -> int | None:
        return self.context.attempts


class InvalidUriError(StoreError, ValueError):
    """The URI has no known scheme, no bucket, or no key where one is needed."""


class InvalidKeyError(StoreError, ValueError):
    """The key cannot be an object's name: empty, not encodable as UTF-8, or refused by the store."""


class ConfigError(StoreError, ValueError):
    """A setting or an environment variable has a value that cannot be used."""


class UnsupportedError(StoreError, NotImplementedError):
    """This store has no such capability."""


class NotFoundError(StoreError, FileNotFoundError):
    """No such object."""


class BucketNotFoundError(NotFoundError):
    """No such bucket or container."""


class UploadNotFoundError(NotFoundError):
    """No such multipart upload: it was completed, aborted, or never begun."""


class AlreadyExistsError(StoreError, FileExistsError):
    """A create-only write met an existing object."""


class PermissionDeniedError(StoreError, PermissionError):
    """The credentials are wrong, expired, or do not allow this."""


class NoCredentialsError(PermissionDeniedError):
    """No credentials were found, and anonymous access was not asked for."""


class ProfileNotFoundError(NoCredentialsError):
    """The profile that was asked for does not exist."""


class PreconditionFailedError(StoreError):
    """An `If-Match` or similar condition of the caller did not hold."""


class NotModifiedError(StoreError):
    """The object is still the version that `If-None-Match` named."""


class RangeError(StoreError, ValueError):
    """The asked range begins at or past the object's end."""


class ObjectChangedError(StoreError):
    """The object was replaced while it was being read. No byte of two versions is ever mixed."""


class IntegrityError(StoreError):
    """Bytes do not match their length or checksum."""


class ChecksumError(IntegrityError):
    """Bytes do not have the checksum that the store tells of them, twice; or it tells none, where one is required."""


class FormatError(StoreError, ValueError):
    """The object is not of the format that it is read as, or does not hold what it says it does."""


class ProtocolError(StoreError):
    """The server's answer is not HTTP, or not the answer to what was asked."""


class ConnectionFailedError(StoreError, ConnectionError):
    """The endpoint could not be reached, or the connection broke, on every attempt."""


class ConnectTimeoutError(ConnectionFailedError, TimeoutError):
    """The endpoint did not take a connection in time, on every attempt."""


class ProxyError(ConnectionFailedError):
    """The proxy does not lead to the endpoint; `status` is its answer's, `None` where it gave none that is HTTP."""


class StallError(StoreError, TimeoutError):
    """No byte moved for the stall limit, on every attempt."""


class RequestTimeoutError(StoreError, TimeoutError):
    """The request, all its attempts together, took longer than `request_timeout`."""


class ThrottledError(StoreError):
    """The server asked for a lower request rate, on every attempt."""


class ServerError(StoreError):
    """The server failed (5xx), on every attempt."""


class RequestError(StoreError):
    """The server refused the request (4xx) for a reason that has no class of its own; see `code`."""


class WrongRegionError(RequestError):
    """The bucket is in another region, named by `region`, and asking there did not help either."""

    def __init__(self, message: str, context: ErrorContext | None = None, region: str = "") -> None:
        super().__init__(message, context)
        self.region = region

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.context, self.region)


class BulkError(StoreError):
    """Some of many objects failed. `failures` tells which and why, by URI; `done` is what the call would have returned
    for the others, of which all were tried unless the message says that an outage ended it.
    """

    def __init__(
        self,
        message: str,
        context: ErrorContext | None = None,
        failures: Mapping[str, Exception] = MappingProxyType({}),
        done: Any = (),
    ) -> None:
        super().__init__(message, context)
        self.failures = dict(failures)
        self.done = done

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.context, self.failures, self.done)


OUTAGES = (ConnectionFailedError, StallError, RequestTimeoutError, ThrottledError, ServerError)
"""The errors with which nothing is wrong but the server, or the way to it: another time the same call may succeed."""

_BY_CODE: dict[str, type[StoreError]] = {
    "NoSuchKey": NotFoundError,
    "NoSuchVersion": NotFoundError,
    "NoSuchBucket": BucketNotFoundError,
    "NoSuchUpload": UploadNotFoundError,
    "KeyTooLongError": InvalidKeyError,
    "InvalidObjectName": InvalidKeyError,
    "XMinioInvalidObjectName": InvalidKeyError,
    "SlowDown": ThrottledError,
    "SlowDownRead": ThrottledError,
    "SlowDownWrite": ThrottledError,
    "Throttling": ThrottledError,
    "ThrottlingException": ThrottledError,
    "RequestLimitExceeded": ThrottledError,
    "BandwidthLimitExceeded": ThrottledError,
    "TooManyRequests": ThrottledError,
    "AccessDenied": PermissionDeniedError,
    "InvalidAccessKeyId": PermissionDeniedError,
    "ExpiredToken": PermissionDeniedError,
    "InvalidToken": PermissionDeniedError,
    "BadDigest": IntegrityError,
    "XAmzContentSHA256Mismatch": IntegrityError,
    "BucketAlreadyExists": AlreadyExistsError,
    "BucketAlreadyOwnedByYou": AlreadyExistsError,
    "RequestTimeout": StallError,
    "BlobNotFound": NotFoundError,
    "ContainerNotFound": BucketNotFoundError,
    "BlobAlreadyExists": AlreadyExistsError,
    "InvalidBlockList": UploadNotFoundError,
    "InvalidResourceName": InvalidKeyError,
    "PublicAccessNotPermitted": PermissionDeniedError,
    "ServerBusy": ThrottledError,
    "Md5Mismatch": IntegrityError,
}

_BY_STATUS: dict[int, type[StoreError]] = {
    304: NotModifiedError,
    401: PermissionDeniedError,
    403: PermissionDeniedError,
    404: NotFoundError,
    407: ProxyError,
    408: StallError,
    412: PreconditionFailedError,
    416: RangeError,
    429: ThrottledError,
    501: UnsupportedError,
    503: ThrottledError,
}


def shown(text: str, most: int = 500) -> str:
    """A stranger's text as an error may show it: one line, printable, of at most `most` characters."""
    line = " ".join(text[: 4 * most].split())
    if not line.isprintable():
        line = "".join(letter if letter.isprintable() else "\ufffd" for letter in line)
    return line if len(line) <= most else f"{line[: most - 3]}..."


def error_class(status: int, code: str | None) -> type[StoreError]:
    """The class for an error answer: by the service's code, else by the status."""
    known = _BY_CODE.get(code or "") or _BY_STATUS.get(status)
    return known or (ServerError if status >= 500 else RequestError)
