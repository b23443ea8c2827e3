"""Names, signatures, configuration, URIs and errors: what a program sees before any object is read."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import subprocess
import sys
from typing import Any

import pytest
import s3torchconnector as original
from torch._utils import ExceptionWrapper

from s3dlio import errors
from s3dlio.compat import s3torchconnector as ours
from s3dlio.compat.s3torchconnector import S3Checkpoint, S3ClientConfig, S3Exception, S3MapDataset
from s3dlio.compat.s3torchconnector._s3client.s3client_config import store_config
from s3dlio.compat.s3torchconnector.errors import KEY_ABSENT, OBJECT_ABSENT, s3_exception
from s3dlio.compat.s3torchconnector.uri import split_uri
from s3dlio.config import MiB
from s3dlio.errors import ErrorContext, StoreError
from s3dlio.urls import Uri

from ..servers.seaweedfs import SeaweedFS

_NAMES = ["S3Checkpoint", "S3ClientConfig", "S3Exception", "S3IterableDataset", "S3MapDataset", "S3Reader", "S3Writer"]


def test_the_names_are_there() -> None:
    assert set(_NAMES) <= set(ours.__all__)
    assert isinstance(ours.__version__, str)
    assert ours.__version__ == original.__version__


def test_the_import_costs_nothing_beyond_torch() -> None:
    program = (
        "import sys, torch.utils.data; before = set(sys.modules); import s3dlio.compat.s3torchconnector;"
        "print({'botocore', 'numba', 'google.auth', 'boto3', 's3torchconnector'} & (set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    "path",
    [
        "S3ClientConfig",
        "S3Checkpoint",
        "S3Checkpoint.reader",
        "S3Checkpoint.writer",
        "S3IterableDataset",
        "S3IterableDataset.from_prefix",
        "S3IterableDataset.from_objects",
        "S3MapDataset",
        "S3MapDataset.from_prefix",
        "S3MapDataset.from_objects",
        "S3Reader.read",
        "S3Reader.readinto",
        "S3Reader.seek",
        "S3Reader.tell",
    ],
)
def test_signatures_are_those_of_the_original(path: str) -> None:
    """Except that `region` may be left out where that is possible."""

    def parameters(module: Any) -> list[tuple[str, Any, bool]]:
        target = module
        for name in path.split("."):
            target = getattr(target, name)
        found = inspect.signature(target).parameters.values()
        return [
            (each.name, each.kind, each.default is inspect.Parameter.empty and each.name != "region") for each in found
        ]

    assert parameters(ours) == parameters(original)


def test_the_configuration_is_a_value() -> None:
    config = S3ClientConfig(part_size=16 * MiB)
    assert config == S3ClientConfig(part_size=16 * MiB)
    assert hash(config) == hash(S3ClientConfig(part_size=16 * MiB))
    assert pickle.loads(pickle.dumps(config)) == config
    assert dataclasses.replace(config, part_size=8 * MiB) == S3ClientConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.part_size = 1  # type: ignore[misc]
    mine, theirs = dataclasses.fields(S3ClientConfig), dataclasses.fields(original.S3ClientConfig)
    assert [(field.name, field.default) for field in mine] == [(field.name, field.default) for field in theirs]


def test_what_the_configuration_means() -> None:
    config = store_config(
        "s3",
        "eu-north-1",
        "http://host:1",
        S3ClientConfig(part_size=16 * MiB, unsigned=True, force_path_style=True, max_attempts=4, profile="me"),
    )
    assert (config.region, config.endpoint, config.part_size) == ("eu-north-1", "http://host:1", 16 * MiB)
    assert (config.anonymous, config.addressing, config.max_attempts, config.profile) == (True, "path", 4, "me")
    plain = store_config("s3", "eu-north-1", None, S3ClientConfig())
    assert (plain.anonymous, plain.addressing, plain.max_attempts, plain.profile) == (False, "auto", 10, None)


def test_what_is_not_given_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://host:2")
    config = store_config("s3", None, "", S3ClientConfig())
    assert (config.region, config.endpoint) == ("eu-west-3", "http://host:2")


@pytest.mark.parametrize("configured", [1, 10])
def test_the_environment_overrides_the_attempts(configured: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "5")
    assert store_config("s3", "r", None, S3ClientConfig(max_attempts=configured)).max_attempts == 5
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "many")
    with pytest.raises(S3Exception, match="AWS_MAX_ATTEMPTS must be a number"):
        store_config("s3", "r", None, S3ClientConfig(max_attempts=configured))


@pytest.mark.parametrize(
    ("config", "kind", "text"),
    [
        (S3ClientConfig(part_size=5 * MiB - 1), S3Exception, "part size must be at between 5MiB and 5GiB"),
        (S3ClientConfig(part_size=(5 << 30) + 1), S3Exception, "part size must be at between 5MiB and 5GiB"),
        (S3ClientConfig(part_size=8.0 * MiB), TypeError, "part_size must be an integer"),  # type: ignore[arg-type]
        (S3ClientConfig(max_attempts=0), S3Exception, "invalid configuration: max_attempts must be"),
    ],
)
def test_the_configuration_is_checked_on_first_use(config: S3ClientConfig, kind: type[Exception], text: str) -> None:
    dataset = S3MapDataset.from_prefix("s3://bucket", region="r", s3client_config=config)
    checkpoint = S3Checkpoint("r", s3client_config=config)
    with pytest.raises(kind, match=text):
        len(dataset)
    with pytest.raises(kind, match=text):
        checkpoint.reader("s3://bucket/key")


def test_a_part_size_at_its_limits_is_fine() -> None:
    for size in (5 * MiB, 5 << 30):
        assert store_config("s3", "r", None, S3ClientConfig(part_size=size)).part_size == size


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://b", ("b", "")),
        ("s3://b/", ("b", "")),
        ("s3://b//x", ("b", "/x")),
        ("s3://b/a%20b+c#d?e=é", ("b", "a%20b+c#d?e=é")),
    ],
)
def test_a_uri_is_taken_apart_without_decoding(uri: str, parts: tuple[str, str]) -> None:
    assert split_uri(uri) == Uri("s3", *parts)


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        (None, "Only s3:// URIs are supported"),
        ("", "Only s3:// URIs are supported"),
        ("S3://b/k", "Only s3:// URIs are supported"),
        ("https://b/k", "Only s3:// URIs are supported"),
        ("s3://", "Bucket name must be non-empty"),
        ("s3:///k", "Bucket name must be non-empty"),
    ],
)
def test_what_is_no_uri(uri: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        split_uri(uri)
    for opened in (S3Checkpoint("r").reader, S3Checkpoint("r").writer):
        with pytest.raises(ValueError, match=text):
            opened(uri)


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
