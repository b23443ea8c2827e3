"""The verbs: their settings, what they take, and what a person sees who gives them something else."""

from __future__ import annotations

import array
import json
import mmap
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import s3dlio
from s3dlio import BucketNotFoundError, BulkError, Config, NotFoundError, StoreError
from s3dlio.blocking.portal import portal
from s3dlio.blocking.store import BlockingStore
from s3dlio.urls import parse_uri

from ..places import Place
from ..servers.faults import Fault, fault_server, refusal
from ..servers.seaweedfs import SeaweedFS

VERBS: dict[str, Callable[[str, Config | None], Any]] = {
    "get": lambda uri, config: s3dlio.get(uri, config=config),
    "put": lambda uri, config: s3dlio.put(uri, b"data", config=config),
    "list": lambda uri, config: list(s3dlio.list(uri, config=config)),
    "stat": lambda uri, config: s3dlio.stat(uri, config=config),
    "exists": lambda uri, config: s3dlio.exists(uri, config=config),
    "delete": lambda uri, config: s3dlio.delete(uri, config=config),
}
MORE_VERBS: dict[str, Callable[[str, Config | None], Any]] = {
    "get_into": lambda uri, config: s3dlio.get_into(uri, bytearray(4), config=config),
    "get_many": lambda uri, config: s3dlio.get_many([uri], config=config),
    "put_many": lambda uri, config: s3dlio.put_many([(uri, b"data")], config=config),
    "glob": lambda uri, config: list(s3dlio.glob(uri, config=config)),
    "walk": lambda uri, config: list(s3dlio.walk(uri, config=config)),
    "open": lambda uri, config: s3dlio.open(uri, config=config).close(),
    "copy": lambda uri, config: s3dlio.copy(uri, f"{uri}2", config=config),
    "delete_many": lambda uri, config: s3dlio.delete_many([uri], config=config),
}


@pytest.mark.parametrize("verb", ["put", "get", "list", "stat", "exists", "delete"])
def test_every_verb_takes_a_config(
    s3_server: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The environment leads to where nobody answers."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    config = Config(region="us-east-1", max_attempts=1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    s3dlio.put(f"s3://{bucket}/key", b"data", config=config)
    VERBS[verb](f"s3://{bucket}/key", config)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ConnectionError):
        VERBS[verb](f"s3://{bucket}/key", None)
    listed = list(s3dlio.list(f"s3://{bucket}/", config=config))
    assert [item.key for item in listed] == ([] if verb == "delete" else ["key"])


@pytest.mark.parametrize("verb", MORE_VERBS)
def test_every_other_verb_takes_a_config(s3_bucket: SeaweedFS, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    for name, value in s3_bucket.environment().items():
        monkeypatch.setenv(name, value)
    config = Config(region="us-east-1", max_attempts=1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3dlio.put("s3://bucket/config/key", b"data", config=config)
    MORE_VERBS[verb]("s3://bucket/config/key", config)
    with pytest.raises(StoreError) as caught:
        MORE_VERBS[verb]("s3://bucket/config/key", None)
    failed = caught.value
    assert isinstance(failed.__cause__ if isinstance(failed, BulkError) else failed, ConnectionError)


def test_unsigned_requests_can_be_asked_for_as_the_error_says() -> None:
    with pytest.raises(PermissionError, match=r"anonymous=True"):
        s3dlio.get("s3://bucket/key")

    async def ask() -> dict[str, str]:
        async with fault_server() as server:
            server.objects["/bucket/key"] = b"public"
            async with s3dlio.open_store("s3://bucket", Config(endpoint=server.endpoint, anonymous=True)) as store:
                assert await store.get("key") == b"public"
            return dict(server.requests[0].headers)

    assert "authorization" not in portal().call(ask)


@pytest.mark.usefixtures("environment")
def test_an_absent_bucket_is_not_an_absent_object(place: Place) -> None:
    assert not s3dlio.exists(f"{place.root}/absent")
    assert not s3dlio.exists(f"{place.root}/absent")
    scheme = place.root.partition("://")[0]
    if scheme in ("file", "direct"):  # a folder is there when something is in it
        assert not s3dlio.exists(f"{place.root}/no/such/folder")
    elif scheme != "gs":  # whose emulator does not say which of the two is missing
        with pytest.raises(BucketNotFoundError):
            s3dlio.exists(f"{scheme}://no-such-bucket/key")


def test_google_says_which_of_the_two_is_missing() -> None:
    body = json.dumps({"error": {"code": 404, "message": "The specified bucket does not exist."}}).encode()

    async def ask() -> None:
        async with fault_server() as server:
            server.always = Fault(404, {"content-type": "application/json"}, body)
            async with s3dlio.open_store("gs://bucket", gcs_endpoint=server.endpoint, anonymous=True) as store:
                with pytest.raises(BucketNotFoundError):
                    await store.exists("key")

    portal().call(ask)


def test_who_may_not_look_at_the_bucket_is_told_that_the_object_is_absent() -> None:
    async def ask() -> list[tuple[str, str]]:
        async with fault_server() as server:
            server.script.extend([refusal(404, "NoSuchKey"), refusal(403, "AccessDenied"), refusal(404, "NoSuchKey")])
            async with s3dlio.open_store("s3://bucket", Config(endpoint=server.endpoint, anonymous=True)) as store:
                assert not await store.exists("key")
                assert not await store.exists("key")
            return [(asked.method, asked.target) for asked in server.requests]

    assert portal().call(ask) == [("HEAD", "/bucket/key"), ("HEAD", "/bucket/"), ("HEAD", "/bucket/key")]


def _buffers() -> dict[str, Any]:
    mapped = mmap.mmap(-1, 4096)
    numbers: Any = np.arange(5)
    mapped[:] = bytes(range(256)) * 16
    return {
        "array": array.array("d", [1.5, 2.5]),
        "ndarray": np.arange(12, dtype=">f4").reshape(3, 4),
        "no items": np.empty((0, 3)),
        "mmap": mapped,
        "PickleBuffer": pickle.PickleBuffer(numbers),
    }


@pytest.mark.parametrize("kind", ["array", "ndarray", "no items", "mmap", "PickleBuffer"])
@pytest.mark.usefixtures("s3_environment")
def test_any_buffer_can_be_put_and_written(bucket: str, kind: str) -> None:
    data = _buffers()[kind]
    expected = memoryview(data).tobytes()
    s3dlio.put(f"s3://{bucket}/put", data)
    writer = BlockingStore(parse_uri(f"s3://{bucket}"), Config()).open_writer("written")
    writer.write(data)
    writer.write(data)
    writer.close()
    assert s3dlio.get(f"s3://{bucket}/put") == expected
    assert s3dlio.get(f"s3://{bucket}/written") == expected * 2


@pytest.mark.usefixtures("s3_environment")
def test_large_arrays_can_be_put_and_pickled_into_a_writer(bucket: str) -> None:
    """In parts: 24 MiB and a little."""
    data: Any = np.arange((3 << 20) + 5, dtype=np.int64)
    s3dlio.put(f"s3://{bucket}/put", data)
    assert s3dlio.get(f"s3://{bucket}/put") == data.tobytes()
    writer = BlockingStore(parse_uri(f"s3://{bucket}"), Config()).open_writer("pickled")
    pickle.dump(data, writer, protocol=5)
    writer.close()
    assert np.array_equal(pickle.loads(s3dlio.get(f"s3://{bucket}/pickled")), data)


@pytest.mark.usefixtures("s3_environment")
def test_what_cannot_be_put_is_refused_with_what_can(bucket: str) -> None:
    wrong: Any = 5
    with pytest.raises(TypeError, match="buffer is wanted"):
        s3dlio.put(f"s3://{bucket}/key", wrong)
    with pytest.raises(TypeError, match="buffer is wanted"):
        BlockingStore(parse_uri(f"s3://{bucket}"), Config()).open_writer("key").write(wrong)
    assert list(s3dlio.list(f"s3://{bucket}/")) == []


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (b"fixed", "can be written to"),
        (np.zeros((4, 4))[:, :2], "contiguous"),
        (torch.zeros(4, 4).T, "contiguous"),
        (torch.zeros(4, device="meta"), "not into a tensor on 'meta'"),
        ([1, 2], "buffer is wanted"),
    ],
)
def test_what_cannot_be_filled_is_refused(target: Any, said: str) -> None:
    s3dlio.put("memory://filled/key", bytes(256))
    with pytest.raises(TypeError, match=said):
        s3dlio.get_into("memory://filled/key", target)


@pytest.mark.parametrize("verb", VERBS)
def test_a_path_is_told_that_a_uri_is_wanted(verb: str) -> None:
    path: Any = Path("/folder/name")
    with pytest.raises(TypeError, match="'file:///folder/name', not PosixPath"):
        VERBS[verb](path, None)
    with pytest.raises(TypeError, match="not PosixPath"):
        s3dlio.open_store(path)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.usefixtures("s3_environment")
def test_an_error_has_a_short_traceback_and_no_group_behind_it(bucket: str, known: bool) -> None:
    config = Config(part_size=5 << 20)
    store = BlockingStore(parse_uri(f"s3://{bucket}"), config)
    store.put("key", bytes(12 << 20))
    meta = store.head("key") if known else None
    store.delete("key")
    with pytest.raises(NotFoundError) as caught:
        store.get("key", known=meta)
    assert caught.value.__context__ is None
    assert len(traceback.extract_tb(caught.value.__traceback__)) <= 6


def test_the_cause_of_an_error_is_kept() -> None:
    with pytest.raises(StoreError) as caught:
        s3dlio.get("s3://bucket/key", config=Config(endpoint="http://127.0.0.1:1", anonymous=True, max_attempts=1))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.__traceback__ is None
