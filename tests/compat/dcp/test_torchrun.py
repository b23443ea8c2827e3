"""Real jobs of several ranks, started as torchrun starts them: sharded, resharded, in the background, and killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, NamedTuple

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


class Jobs(NamedTuple):
    """What the jobs found out and how they ended, in the order in which they ran."""

    of_four: list[dict[str, Any]]
    of_two: list[dict[str, Any]]
    killed: list[str]


def results_of(folder: Path, ranks: int) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


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
def jobs(home: str, s3_server: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    """Four ranks save a large checkpoint, two load that one and try everything else, and two are killed, twice."""
    four, two = (tmp_path_factory.mktemp(name) for name in ("four", "two"))
    planned: list[tuple[int, str, str, str, int]] = [
        (4, "save_and_load", f"{home}/many/of four", str(four), LARGE),
        (2, "many", f"{home}/many", str(two), SMALL),
        (2, "die", f"{home}/killed", str(two), SMALL),
        (2, "die", f"{home}/many/saved over", str(two), SMALL),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.compat.dcp.ranks", *map(json.dumps, planned)],
        capture_output=True,
        text=True,
        timeout=500,
        cwd=ROOT,
        env=os.environ | s3_server.environment() | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    saved, tried, *killed = json.loads(done.stdout.splitlines()[-1])
    assert (saved, tried) == ("", ""), done.stderr
    return Jobs(results_of(four, 4), results_of(two, 2), killed)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("s3_environment")
def test_four_ranks_load_what_they_saved(home: str, jobs: Jobs) -> None:
    assert all(each["equal"] for each in jobs.of_four)
    assert sum(each["bytes"] for each in jobs.of_four) == LARGE << 20
    assert files(f"{home}/many/of four") == [".metadata", *(f"__{rank}_0.distcp" for rank in range(4))]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "what",
    [
        "of four", "fsdp", "ddp", "async thread", "async process", "round robin", "binary", "hex", "saved over",
        "default", "replaced", "replicated to sharded", "sync True", "sync False",
    ],
)  # fmt: skip
def test_two_ranks_load_what_was_saved(what: str, jobs: Jobs) -> None:
    assert [found[what] for found in jobs.of_two] == [True, True]


@pytest.mark.usefixtures("s3_environment", "jobs")
def test_files_of_two_ranks_are_where_the_strategy_says(home: str) -> None:
    folders = {"one/epoch_2", "two/epoch_2"}, {"0000000000/epoch_2", "1000000000/epoch_2"}, {"000", "100"}
    for name, expected in zip(("round robin", "binary", "hex"), folders, strict=True):
        found = [file for file in files(f"{home}/many/{name}") if file != ".metadata"]
        assert {file.rpartition("/")[0] for file in found} == expected
        assert {file.rpartition("/")[2] for file in found} == {f"__{r}_{n}.distcp" for r in (0, 1) for n in (0, 1)}


@pytest.mark.usefixtures("s3_environment", "jobs")
def test_a_replaced_checkpoint_leaves_no_files(home: str) -> None:
    found = files(f"{home}/many/default")
    assert len(found) == 3
    assert not {f"__{rank}_0.distcp" for rank in (0, 1)} & set(found)


@pytest.mark.usefixtures("s3_environment")
@pytest.mark.filterwarnings(ALONE)
def test_a_killed_rank_leaves_no_checkpoint_where_there_was_none(home: str, jobs: Jobs) -> None:
    path = f"{home}/killed"
    assert "Signal 9 (SIGKILL)" in jobs.killed[0]
    assert ".metadata" not in files(path)
    with pytest.raises(CheckpointException, match="Service error: The key does not exist"):
        load({"layer 0": torch.zeros(1)}, storage_reader=S3StorageReader("us-east-1", path))


@pytest.mark.usefixtures("s3_environment")
@pytest.mark.filterwarnings(ALONE)
def test_a_killed_rank_leaves_the_checkpoint_that_was_there(home: str, jobs: Jobs) -> None:
    path, count = f"{home}/many/saved over", rows_of(SMALL)
    assert "Signal 9 (SIGKILL)" in jobs.killed[1]
    state = {f"layer {number}": torch.zeros(count, 1024, dtype=torch.int32) for number in range(TENSORS)}
    load(state, storage_reader=S3StorageReader("us-east-1", path))
    assert all(torch.equal(state[f"layer {number}"], rows(number, 0, count)) for number in range(TENSORS))
