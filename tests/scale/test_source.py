"""The source for Ray, whose tasks are called here as Ray's workers call them, after a pickle."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

import s3dlio
from s3dlio import manifest

from ..test_public import faults

pytestmark = pytest.mark.filterwarnings("default")  # of Ray's imports
COUNT = 20


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for number in range(COUNT):
        s3dlio.put(f"file://{tmp_path}/objects/{number:02}", b"x" * number)
    return f"file://{tmp_path}/objects/"


def source(objects: Any) -> Any:
    from s3dlio.ray import ObjectDatasource

    return ObjectDatasource(objects)


def rows(tasks: list[Any]) -> list[tuple[str, int]]:
    """What they give: the URI of each object, and its size."""
    sent = pickle.loads(pickle.dumps(tasks))
    found = [row for task in sent for block in task() for row in block.to_pylist()]
    return [(row["uri"], len(row["bytes"])) for row in found]


@pytest.mark.parametrize("by_manifest", [False, True])
def test_tasks_have_all_objects_between_them(folder: str, tmp_path: Path, by_manifest: bool) -> None:
    if by_manifest:
        manifest.create(folder, tmp_path / "manifest")
    found = source(manifest.load(tmp_path / "manifest") if by_manifest else folder)
    tasks = found.get_read_tasks(6)
    assert [task.metadata.num_rows for task in tasks] == [3, 3, 4, 3, 3, 4]
    assert found.estimate_inmemory_data_size() == sum(range(COUNT))
    assert rows(tasks) == [(f"{folder}{number:02}", number) for number in range(COUNT)]


def test_there_are_no_more_tasks_than_objects(folder: str, tmp_path: Path) -> None:
    assert len(source(folder).get_read_tasks(1000)) == COUNT
    assert source("memory://nothing/").get_read_tasks(8) == []


def test_a_block_is_handed_over_when_it_is_large_enough(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = source(folder).get_read_tasks(1)
    monkeypatch.setattr("s3dlio.ray._BLOCK", 100)
    assert [len(block) for block in task()] == [15, 5]


def test_reads_are_held_to_what_was_listed(folder: str) -> None:
    tasks = source(folder).get_read_tasks(4)
    s3dlio.put(f"{folder}07", b"another")
    with pytest.raises(s3dlio.ObjectChangedError, match="07"):
        rows(tasks)


def test_the_source_is_described() -> None:
    assert list(faults("s3dlio.ray", "ObjectDatasource")) == []
