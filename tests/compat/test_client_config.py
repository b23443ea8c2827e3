"""`S3ClientConfig`: what its fields mean in our own settings, and when they are checked."""

from __future__ import annotations

import dataclasses
import pickle
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import s3torchconnector as original
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.compat.s3torchconnector import S3Checkpoint, S3ClientConfig, S3Exception, S3MapDataset
from s3dlio.compat.s3torchconnector._s3client import S3Client
from s3dlio.compat.s3torchconnector._s3client.s3client_config import parts_in_flight, store_config
from s3dlio.config import Config, GiB, MiB

from .differential.kit import refusing


def test_the_configuration_is_a_value() -> None:
    config = S3ClientConfig(part_size=16 * MiB)
    assert config == S3ClientConfig(part_size=16 * MiB)
    assert hash(config) == hash(S3ClientConfig(part_size=16 * MiB))
    assert pickle.loads(pickle.dumps(config)) == config
    assert dataclasses.replace(config, part_size=8 * MiB) == S3ClientConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.part_size = 1  # type: ignore[misc]
    mine, theirs = dataclasses.fields(S3ClientConfig), dataclasses.fields(original.S3ClientConfig)
    unreleased = [("requester_pays", False)]
    assert [(field.name, field.default) for field in mine] == [
        *((field.name, field.default) for field in theirs),
        *unreleased,
    ]


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
        (S3ClientConfig(part_size=8.0 * MiB), TypeError, "'float' object cannot be interpreted"),  # type: ignore[arg-type]
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


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something to sign with."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("asked", [True, False])
def test_the_requester_says_in_every_request_that_it_pays(asked: bool) -> None:
    with refusing(404, "NoSuchKey") as server:
        settings = S3ClientConfig(requester_pays=asked, max_attempts=1)
        client = S3Client("us-east-1", endpoint=server.endpoint, s3client_config=settings)
        for step in (
            client.get_object("bucket", "key").read,
            client.put_object("bucket", "key").close,
            lambda: client.head_object("bucket", "key"),
            lambda: client.delete_object("bucket", "key"),
            lambda: client.copy_object("bucket", "key", "bucket", "other"),
            lambda: next(client.list_objects("bucket")),
        ):
            with suppress(S3Exception):
                step()
    assert len(server.requests) >= 6
    for _, _, headers in server.requests:
        assert headers.get("x-amz-request-payer") == ("requester" if asked else None)
        assert ("x-amz-request-payer" in headers["authorization"]) == asked


def test_nobody_can_be_charged_for_an_unsigned_request() -> None:
    with pytest.raises(ValueError, match="requester_pays"):
        S3ClientConfig(requester_pays=True, unsigned=True)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("attempts", [1, 2, 4])
def test_requests_are_sent_as_often_as_was_set(attempts: int) -> None:
    with refusing(500, "InternalError") as server:
        settings = S3ClientConfig(max_attempts=attempts)
        client = S3Client("us-east-1", endpoint=server.endpoint, s3client_config=settings)
        with pytest.raises(S3Exception):
            client.head_object("bucket", "key")
    assert len(server.requests) == attempts


# What the fields do not say


GUIDE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text()
SOURCES = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", GUIDE.partition("| where it comes from |")[2], re.MULTILINE))
_ANOTHER = {str: "true", bool: "", int: "7", float: "7", type(None): "true"}
_CHOICES = {"addressing": "path", "durable": "none", "sse": "aws:kms", "checksums": "off", "replicas": "s3://b"}


@pytest.mark.parametrize("field", dataclasses.fields(Config), ids=lambda field: field.name)
def test_every_setting_can_be_reached_as_the_guide_says(field: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an argument, a field of `S3ClientConfig`, or the environment."""
    name = field.name
    *_, variable = re.findall(r"`([A-Z0-9_]+)`", SOURCES[name]) or [None]
    if variable is None:
        assert SOURCES[name] == "set by the library" or SOURCES[name].strip("`") in S3ClientConfig.__dataclass_fields__
        return
    default = getattr(store_config("s3", None, None, S3ClientConfig()), name)
    wanted = str(not default) if isinstance(default, bool) else _CHOICES.get(name) or _ANOTHER[type(default)]
    monkeypatch.setenv(variable, wanted)
    assert getattr(store_config("s3", None, None, S3ClientConfig()), name) not in (default, None)


# How many parts


@pytest.mark.parametrize(
    ("gbps", "part_size", "expected"),
    [
        (10.0, 8 * MiB, 15),
        (0, 8 * MiB, 15),
        (5.0, 8 * MiB, 8),
        (100.0, 8 * MiB, 32),
        (100.0, 5 * MiB, 51),
        (400.0, 128 * MiB, 2),
        (10.0, 5 * GiB, 2),
        (0.001, 8 * MiB, 2),
        (1e6, 5 * MiB, 51),
        (float("inf"), 8 * MiB, 32),
    ],
)
def test_parts_in_flight_follow_the_throughput_and_the_memory(gbps: float, part_size: int, expected: int) -> None:
    assert parts_in_flight(gbps, part_size) == expected


@given(st.floats(0, 1e9), st.integers(5 * MiB, 5 * GiB))
def test_parts_in_flight_are_at_least_two_and_otherwise_within_bounds(gbps: float, part_size: int) -> None:
    found = parts_in_flight(gbps, part_size)
    assert found == 2 or (2 < found <= 256 and found * part_size <= 256 * MiB)
    assert parts_in_flight(gbps + 10, part_size) >= found or gbps == 0


def test_the_configuration_has_them() -> None:
    config = store_config("s3", "r", None, S3ClientConfig(throughput_target_gbps=100.0))
    assert (config.parts_in_flight, config.connections) == (32, 64)


@pytest.mark.parametrize("target", [-1, -1.0, float("nan")])
def test_a_throughput_is_a_number_from_zero(target: float) -> None:
    with pytest.raises(S3Exception, match="throughput_target_gbps must be zero or more"):
        store_config("s3", "r", None, S3ClientConfig(throughput_target_gbps=target))
    with pytest.raises(TypeError, match="'throughput_target_gbps': must be real number"):
        store_config("s3", "r", None, S3ClientConfig(throughput_target_gbps="10"))  # type: ignore[arg-type]
