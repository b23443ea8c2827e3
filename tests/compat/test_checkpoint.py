"""Checkpoints saved and loaded by PyTorch, on a real server."""

from __future__ import annotations

import gc
import pickle
from typing import Any

import pytest
import torch

from s3dlio.compat.s3torchconnector import S3Checkpoint, S3ClientConfig, S3Exception

from ..servers.seaweedfs import SeaweedFS


@pytest.fixture
def checkpoint(s3_environment: SeaweedFS) -> Any:
    """Any, as `torch.save` and `torch.load` are annotated with `IO[bytes]`, which an `io.BufferedIOBase` is not."""
    return S3Checkpoint("us-east-1", s3client_config=S3ClientConfig(part_size=5 << 20))


def _state(elements: int) -> dict[str, object]:
    torch.manual_seed(elements)
    return {"weight": torch.randn(elements), "small": torch.arange(5), "step": elements}


def _same(left: dict[str, object], right: dict[str, object]) -> bool:
    return left.keys() == right.keys() and all(
        torch.equal(torch.as_tensor(left[k]), torch.as_tensor(right[k])) for k in left
    )


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("elements", [100, 5_000_000])
def test_save_and_load(zipped: bool, elements: int, checkpoint: Any, bucket: str) -> None:
    state, uri = _state(elements), f"s3://{bucket}/model.pt"
    with checkpoint.writer(uri) as writer:
        torch.save(state, writer, _use_new_zipfile_serialization=zipped)
    with checkpoint.reader(uri) as reader:
        assert _same(torch.load(reader, weights_only=True), state)


def test_save_and_load_without_closing(checkpoint: Any, bucket: str) -> None:
    uri = f"s3://{bucket}/model.pt"
    torch.save(_state(1000), checkpoint.writer(uri))
    gc.collect()
    assert _same(torch.load(checkpoint.reader(uri), weights_only=True), _state(1000))


def test_a_save_that_fails_keeps_the_older_checkpoint(checkpoint: Any, bucket: str) -> None:
    uri = f"s3://{bucket}/model.pt"
    with checkpoint.writer(uri) as writer:
        torch.save(_state(10), writer)

    class Unpicklable:
        def __reduce__(self) -> str:
            raise RuntimeError("cannot be pickled")

    with pytest.raises(RuntimeError, match="cannot be pickled"), checkpoint.writer(uri) as writer:
        torch.save({"weight": torch.ones(5), "bad": Unpicklable()}, writer)
    del writer
    gc.collect()
    assert _same(torch.load(checkpoint.reader(uri), weights_only=True), _state(10))


def test_a_save_that_is_refused_says_so(
    s3_environment: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first part is refused long before the end; `torch.save` goes on and complains of something else."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_environment.as_readonly().access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_environment.as_readonly().secret_key)
    refused: Any = S3Checkpoint("us-east-1", s3client_config=S3ClientConfig(max_attempts=9))
    uri = f"s3://{bucket}/model.pt"
    with pytest.raises(S3Exception, match="Client error: Forbidden") as caught, refused.writer(uri) as writer:
        torch.save({"weight": torch.ones(8 << 20)}, writer)
    assert isinstance(caught.value, PermissionError)


def test_a_checkpoint_that_is_not_there(checkpoint: Any, bucket: str) -> None:
    with pytest.raises(S3Exception) as caught:
        torch.load(checkpoint.reader(f"s3://{bucket}/absent"), weights_only=True)
    assert isinstance(caught.value, FileNotFoundError)


def test_a_checkpoint_can_be_sent_to_another_process(checkpoint: Any, bucket: str) -> None:
    arrived = pickle.loads(pickle.dumps(checkpoint))
    assert (arrived.region, arrived.endpoint) == ("us-east-1", None)
    with arrived.writer(f"s3://{bucket}/key") as writer:
        writer.write(b"data")
    assert checkpoint.reader(f"s3://{bucket}/key").read() == b"data"


def test_region_and_endpoint_may_come_from_arguments(
    s3_environment: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_REGION")
    checkpoint = S3Checkpoint("us-east-1", s3_environment.endpoint)
    with checkpoint.writer(f"s3://{bucket}/key") as writer:
        writer.write(b"data")
    assert checkpoint.reader(f"s3://{bucket}/key").read() == b"data"


def test_region_may_be_left_to_the_environment(s3_environment: SeaweedFS, bucket: str) -> None:
    S3Checkpoint(None).writer(f"s3://{bucket}/key").close()
    assert S3Checkpoint(None).reader(f"s3://{bucket}/key").read() == b""
