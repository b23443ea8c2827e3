from __future__ import annotations

import inspect
import pickle
from dataclasses import fields

import pytest

import s3dlio
from s3dlio import errors
from s3dlio.errors import (
    AlreadyExistsError,
    BucketNotFoundError,
    ConnectionFailedError,
    ConnectTimeoutError,
    ErrorContext,
    IntegrityError,
    InvalidKeyError,
    InvalidUriError,
    NoCredentialsError,
    NotFoundError,
    NotModifiedError,
    PermissionDeniedError,
    PreconditionFailedError,
    ProxyError,
    RangeError,
    RequestError,
    ServerError,
    StallError,
    StoreError,
    ThrottledError,
    UnsupportedError,
    UploadNotFoundError,
    WrongRegionError,
    error_class,
)

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, StoreError)]
CONTEXT = ErrorContext("GetObject", "bucket", "a key", "https://host", 404, "NoSuchKey", "id-1", 2)


@pytest.mark.parametrize("kind", ALL)
def test_an_error_survives_pickling_whole(kind: type[StoreError]) -> None:
    again = pickle.loads(pickle.dumps(kind("the message", CONTEXT)))
    assert type(again) is kind
    assert (again.message, again.context) == ("the message", CONTEXT)
    assert str(again) == str(kind("the message", CONTEXT))


def test_the_region_survives_too() -> None:
    assert pickle.loads(pickle.dumps(WrongRegionError("elsewhere", CONTEXT, "eu-west-1"))).region == "eu-west-1"


@pytest.mark.parametrize("kind", ALL)
def test_an_error_says_what_is_known_and_nothing_else(kind: type[StoreError]) -> None:
    assert str(kind("the message")) == "the message"
    context = ErrorContext(operation="PutObject", key="a key")
    assert str(kind("the message", context)) == "the message (operation='PutObject', key='a key')"
    assert "the message" in repr(kind("the message"))


def test_every_field_of_the_context_is_an_attribute() -> None:
    error = StoreError("the message", CONTEXT)
    for field in fields(ErrorContext):
        assert getattr(error, field.name) == getattr(CONTEXT, field.name)
        assert getattr(StoreError("the message"), field.name) is None


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (InvalidUriError, ValueError),
        (InvalidKeyError, ValueError),
        (RangeError, ValueError),
        (UnsupportedError, NotImplementedError),
        (NotFoundError, FileNotFoundError),
        (BucketNotFoundError, FileNotFoundError),
        (UploadNotFoundError, FileNotFoundError),
        (AlreadyExistsError, FileExistsError),
        (PermissionDeniedError, PermissionError),
        (NoCredentialsError, PermissionError),
        (ConnectionFailedError, ConnectionError),
        (ConnectTimeoutError, TimeoutError),
        (ProxyError, ConnectionError),
        (StallError, TimeoutError),
    ],
)
def test_an_error_is_also_the_builtin_that_means_it(kind: type[StoreError], builtin: type[Exception]) -> None:
    with pytest.raises(builtin, match="the message"):
        raise kind("the message", CONTEXT)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, None, NotFoundError),
        (404, "NoSuchBucket", BucketNotFoundError),
        (404, "NoSuchUpload", UploadNotFoundError),
        (403, None, PermissionDeniedError),
        (400, "ExpiredToken", PermissionDeniedError),
        (401, None, PermissionDeniedError),
        (304, None, NotModifiedError),
        (412, "PreconditionFailed", PreconditionFailedError),
        (416, "InvalidRange", RangeError),
        (400, "KeyTooLongError", InvalidKeyError),
        (400, "BadDigest", IntegrityError),
        (400, "RequestTimeout", StallError),
        (409, "BucketAlreadyExists", AlreadyExistsError),
        (429, None, ThrottledError),
        (503, None, ThrottledError),
        (503, "SlowDown", ThrottledError),
        (200, "SlowDown", ThrottledError),
        (501, "NotImplemented", UnsupportedError),
        (500, "InternalError", ServerError),
        (599, "Unheard", ServerError),
        (400, "Unheard", RequestError),
        (418, None, RequestError),
        (407, None, ProxyError),
    ],
)
def test_the_code_decides_before_the_status(status: int, code: str | None, kind: type[StoreError]) -> None:
    assert error_class(status, code) is kind


def test_every_error_is_a_public_name() -> None:
    assert [kind.__name__ for kind in ALL if not hasattr(s3dlio, kind.__name__)] == []
