"""Real jobs of several ranks under torchrun: sharded, resharded, in the background, and killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load

import s3dlio
from s3dlio.compat.s3torchconnector.dcp import S3StorageReader

from ...servers.seaweedfs import SeaweedFS
from .conftest import ALONE
from .ranks import LARGE, TENSORS, rows, rows_of

SMALL = 8
ROOT = Path(__file__).parents[3]


def torchrun(ranks: int, step: str, path: str, results: Path, mebibytes: int) -> subprocess.CompletedProcess[str]:
    """Run one step by `ranks` processes."""
    results.mkdir()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, "-m", "tests.compat.dcp.ranks", step, path, str(results), str(mebibytes)],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=ROOT,
        env=environment,
        check=False,
    )


def results_of(done: subprocess.CompletedProcess[str], results: Path, ranks: int) -> list[dict[str, Any]]:
    """What each rank found, where all came to their end."""
    assert done.returncode == 0, done.stderr
    return [json.loads((results / f"{rank}.json").read_text()) for rank in range(ranks)]


def files(path: str) -> list[str]:
    """The files of a checkpoint, relative to its path."""
    prefix = path.split("/", 3)[3] + "/"
    return sorted(entry.key.removeprefix(prefix) for entry in s3dlio.list(path + "/"))


@pytest.fixture(scope="module")
def home(s3_server: SeaweedFS) -> str:
    """A bucket for the checkpoints of this module."""
    name = f"ranks-{uuid.uuid4()}"
    s3_server.create_bucket(name)
    return f"s3://{name}"


@pytest.fixture(scope="module")
def environment(s3_server: SeaweedFS) -> Iterator[None]:
    """The server's, for fixtures of this module."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in s3_server.environment().items():
            patched.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def found_by_four(home: str, environment: None, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What four ranks found out about a large checkpoint."""
    results = tmp_path_factory.mktemp("four") / "results"
    return results_of(torchrun(4, "save_and_load", f"{home}/many/of four", results, LARGE), results, 4)


@pytest.fixture(scope="module")
def found_by_two(
    home: str, environment: None, found_by_four: object, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What two ranks found out about that one, and about everything else."""
    results = tmp_path_factory.mktemp("two") / "results"
    return results_of(torchrun(2, "many", f"{home}/many", results, SMALL), results, 2)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("s3_environment")
def test_four_ranks_load_what_they_saved(home: str, found_by_four: list[dict[str, Any]]) -> None:
    assert all(each["equal"] for each in found_by_four)
    assert sum(each["bytes"] for each in found_by_four) == LARGE << 20
    assert files(f"{home}/many/of four") == [".metadata", *(f"__{rank}_0.distcp" for rank in range(4))]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "what",
    [
        "of four", "fsdp", "ddp", "async thread", "async process", "round robin", "binary", "hex", "default",
        "replaced", "replicated to sharded", "sync True", "sync False",
    ],
)  # fmt: skip
def test_two_ranks_load_what_was_saved(what: str, found_by_two: list[dict[str, Any]]) -> None:
    assert [found[what] for found in found_by_two] == [True, True]


@pytest.mark.usefixtures("s3_environment", "found_by_two")
def test_files_of_two_ranks_are_where_the_strategy_says(home: str) -> None:
    folders = {"one/epoch_2", "two/epoch_2"}, {"0000000000/epoch_2", "1000000000/epoch_2"}, {"000", "100"}
    for name, expected in zip(("round robin", "binary", "hex"), folders, strict=True):
        found = [file for file in files(f"{home}/many/{name}") if file != ".metadata"]
        assert {file.rpartition("/")[0] for file in found} == expected
        assert {file.rpartition("/")[2] for file in found} == {f"__{r}_{n}.distcp" for r in (0, 1) for n in (0, 1)}


@pytest.mark.usefixtures("s3_environment", "found_by_two")
def test_a_replaced_checkpoint_leaves_no_files(home: str) -> None:
    found = files(f"{home}/many/default")
    assert len(found) == 3
    assert not {f"__{rank}_0.distcp" for rank in (0, 1)} & set(found)


@pytest.mark.usefixtures("s3_environment")
@pytest.mark.filterwarnings(ALONE)
def test_a_killed_rank_leaves_no_checkpoint_where_there_was_none(home: str, tmp_path: Path) -> None:
    path = f"{home}/killed"
    done = torchrun(2, "die", path, tmp_path / "results", SMALL)
    assert "Signal 9 (SIGKILL)" in done.stderr
    assert ".metadata" not in files(path)
    with pytest.raises(CheckpointException, match="Service error: The key does not exist"):
        load({"layer 0": torch.zeros(1)}, storage_reader=S3StorageReader("us-east-1", path))


@pytest.mark.usefixtures("s3_environment", "found_by_two")
@pytest.mark.filterwarnings(ALONE)
def test_a_killed_rank_leaves_the_checkpoint_that_was_there(home: str, tmp_path: Path) -> None:
    path, count = f"{home}/many/hex", rows_of(SMALL)
    done = torchrun(2, "die", path, tmp_path / "results", SMALL)
    assert "Signal 9 (SIGKILL)" in done.stderr
    state = {f"layer {number}": torch.zeros(count, 1024, dtype=torch.int32) for number in range(TENSORS)}
    load(state, storage_reader=S3StorageReader("us-east-1", path))
    assert all(torch.equal(state[f"layer {number}"], rows(number, 0, count)) for number in range(TENSORS))
