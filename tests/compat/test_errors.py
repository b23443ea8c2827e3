"""`S3Exception`: the texts that programs match on, the builtin exceptions it also is, and how it travels."""

from __future__ import annotations

import pickle
import sys

import pytest
from torch._utils import ExceptionWrapper

from s3dlio import errors
from s3dlio.compat.s3torchconnector import S3Checkpoint, S3ClientConfig, S3Exception
from s3dlio.compat.s3torchconnector.errors import KEY_ABSENT, OBJECT_ABSENT, s3_exception
from s3dlio.errors import ErrorContext, StoreError

from ..servers.seaweedfs import SeaweedFS

_CONTEXT = ErrorContext(operation="GetObject", bucket="b", key="k", status=404, request_id="42", attempts=2)


@pytest.mark.parametrize(
    ("error", "text", "family"),
    [
        (errors.NotFoundError("m"), "Service error: The key does not exist", FileNotFoundError),
        (errors.BucketNotFoundError("m"), "Service error: The bucket does not exist", FileNotFoundError),
        (errors.UploadNotFoundError("m"), "Client error: m", FileNotFoundError),
        (errors.PermissionDeniedError("m"), "Client error: Forbidden: m", PermissionError),
        (
            errors.NoCredentialsError("m"),
            "Client error: No signing credentials available, see CRT debug logs",
            PermissionError,
        ),
        (errors.StallError("m"), "Client error: m", TimeoutError),
        (errors.ConnectionFailedError("m"), "Client error: m", ConnectionError),
        (errors.ConfigError("m"), "invalid configuration: m", S3Exception),
        (errors.ServerError("m"), "Client error: m", S3Exception),
        (errors.ObjectChangedError("m"), "Client error: m", S3Exception),
    ],
)
def test_errors_keep_their_texts_and_families(error: StoreError, text: str, family: type[Exception]) -> None:
    found = s3_exception(type(error)(error.message, _CONTEXT))
    assert str(found) == text
    assert isinstance(found, S3Exception)
    assert isinstance(found, family)
    assert found.__notes__ == [f"m ({_CONTEXT})"]
    arrived = pickle.loads(pickle.dumps(found))
    assert (type(arrived), str(arrived), arrived.__notes__) == (type(found), text, found.__notes__)


def test_an_absent_object_has_another_text_where_a_head_met_it() -> None:
    assert str(s3_exception(errors.NotFoundError("m"), OBJECT_ABSENT)) == OBJECT_ABSENT
    assert str(s3_exception(errors.BucketNotFoundError("m"), OBJECT_ABSENT)) == OBJECT_ABSENT
    assert str(s3_exception(errors.NotFoundError("m"))) == KEY_ABSENT


def test_the_exception_is_plain() -> None:
    assert S3Exception.__bases__ == (Exception,)
    assert str(S3Exception("text")) == "text"
    assert repr(S3Exception("text")) == "S3Exception('text')"


@pytest.mark.parametrize("error", [errors.NotFoundError("m"), errors.StallError("m"), errors.ServerError("m")])
def test_a_worker_s_error_can_be_raised_again(error: StoreError) -> None:
    found = s3_exception(error)
    try:
        raise found from error
    except S3Exception:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(type(found), match="in DataLoader worker process 0") as caught:
        wrapped.reraise()
    assert str(found) in str(caught.value)
    assert "m" in str(caught.value)


def test_real_refusals_have_the_known_texts(
    s3_environment: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = S3Checkpoint("us-east-1")
    with checkpoint.writer(f"s3://{bucket}/key") as writer:
        writer.write(b"data")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    refused = S3Checkpoint("us-east-1", s3client_config=S3ClientConfig(max_attempts=1))
    with pytest.raises(S3Exception) as caught:
        refused.reader(f"s3://{bucket}/key").read()
    assert str(caught.value).startswith("Client error: Forbidden: ")
    assert isinstance(caught.value, PermissionError)
    cause = caught.value.__cause__
    assert isinstance(cause, StoreError)
    assert (cause.key, cause.bucket, cause.status) == ("key", bucket, 403)
    assert repr(cause.key) in caught.value.__notes__[0]


def test_no_credentials_has_the_known_text(
    s3_environment: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    checkpoint = S3Checkpoint("us-east-1", s3client_config=S3ClientConfig(max_attempts=2))
    with pytest.raises(S3Exception) as caught:
        checkpoint.reader(f"s3://{bucket}/key").read()
    assert str(caught.value) == "Client error: No signing credentials available, see CRT debug logs"


@pytest.mark.parametrize(
    ("uri", "missing"),
    [
        ("az://account/container/key", ("AZURE_STORAGE_ACCOUNT_KEY", "az login")),
        ("gs://bucket/key", ("GOOGLE_APPLICATION_CREDENTIALS", "metadata server")),
    ],
)
def test_no_credentials_for_other_clouds_says_where_it_looked(
    uri: str, missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setitem(sys.modules, "azure.identity", None)  # which would ask the network
    with pytest.raises(S3Exception) as caught:
        S3Checkpoint().reader(uri).read()
    assert isinstance(caught.value, PermissionError)
    assert "CRT" not in str(caught.value)
    assert all(name in str(caught.value) for name in missing)


def test_an_endpoint_nobody_listens_at_is_a_connection_error() -> None:
    config = S3ClientConfig(max_attempts=1, unsigned=True)
    checkpoint = S3Checkpoint("us-east-1", endpoint="http://127.0.0.1:9", s3client_config=config)
    with pytest.raises(ConnectionError) as caught:
        checkpoint.reader("s3://bucket/key").read()
    assert isinstance(caught.value, S3Exception)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9", "http://", "ftp://host"])
def test_an_endpoint_that_is_none_is_an_ordinary_error(endpoint: str) -> None:
    config = S3ClientConfig(max_attempts=1, unsigned=True)
    with pytest.raises(S3Exception):
        S3Checkpoint("us-east-1", endpoint=endpoint, s3client_config=config).reader("s3://bucket/key").read()
