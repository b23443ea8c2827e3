"""Distributed checkpoints of every scheme, on its real server or on a disk."""

from __future__ import annotations

import uuid

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from s3dlio.compat.s3torchconnector import S3Exception, S3ReaderConstructor
from s3dlio.compat.s3torchconnector.dcp import (
    RoundRobinPrefixStrategy,
    S3FileSystem,
    S3StorageReader,
    S3StorageWriter,
)

from ...places import Place

pytestmark = [
    pytest.mark.usefixtures("environment"),
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning"),
    pytest.mark.filterwarnings("ignore:Detected an existing checkpoint in:UserWarning"),
]

LARGE = 4_300_000


def state(number: int) -> dict[str, torch.Tensor]:
    """One tensor large enough to be received in place (of 32 MiB and more), others small."""
    return {
        "large": torch.arange(LARGE) * number,
        "small": torch.full((30, 40), number),
        "scalar": torch.tensor(number),
    }


@pytest.fixture
def path(place: Place) -> str:
    return f"{place.root}/{uuid.uuid4()}/step 1"


@pytest.mark.parametrize("strategy", [None, RoundRobinPrefixStrategy(["one", "two"], epoch_num=3)])
def test_a_checkpoint_is_saved_replaced_and_loaded(strategy: RoundRobinPrefixStrategy | None, path: str) -> None:
    for number in (1, 2):
        save(state(number), storage_writer=S3StorageWriter(None, path, prefix_strategy=strategy, thread_count=2))
        into = state(0)
        load(into, storage_reader=S3StorageReader(None, path))
        assert all(torch.equal(into[name], tensor) for name, tensor in state(number).items())


def test_every_kind_of_reader_loads_it(path: str) -> None:
    save(state(1), storage_writer=S3StorageWriter(None, path))
    for constructor in (S3ReaderConstructor.sequential(), S3ReaderConstructor.range_based()):
        into = state(0)
        load(into, storage_reader=S3StorageReader(None, path, reader_constructor=constructor))
        assert all(torch.equal(into[name], tensor) for name, tensor in state(1).items())


def test_what_is_not_there_is_an_error(path: str) -> None:
    with pytest.raises(CheckpointException, match=r"Service error: The (key|bucket) does not exist"):
        load(state(0), storage_reader=S3StorageReader(None, path))


def test_the_file_system_does_what_it_says(path: str) -> None:
    files = S3FileSystem(None)
    first, second = files.concat_path(path, "first é%20+"), files.concat_path(path, "second")
    assert files.validate_checkpoint_id(path)
    assert not files.exists(first)
    with files.create_stream(first, "wb") as stream:
        stream.write(b"content")
    files.rename(first, second)
    assert (files.exists(first), files.exists(second)) == (False, True)
    with files.create_stream(second, "rb") as stream:
        assert stream.read() == b"content"
    files.rm_file(second)
    files.rm_file(second)
    assert not files.exists(second)
    with pytest.raises(S3Exception), files.create_stream(second, "rb") as stream:
        stream.read()
