"""Saves that have the server copy what an earlier checkpoint has as well, and staging in memory that is used again."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save

import s3dlio
from s3dlio.compat.s3torchconnector.dcp import NumericPrefixStrategy, PooledStager, S3StorageReader, S3StorageWriter
from s3dlio.compat.s3torchconnector.dcp import reusing as dcp_reusing
from s3dlio.errors import PermissionDeniedError
from s3dlio.model import BoundedRange, Part, PartCopy
from s3dlio.stores.s3.store import S3Store

from .conftest import ALONE, REPLACING, Notes

pytestmark = [pytest.mark.filterwarnings(ALONE), pytest.mark.filterwarnings(REPLACING)]

Writer = partial(S3StorageWriter, "us-east-1")
MiB = 1 << 20


def state(step: int = 1, layers: int = 2) -> dict[str, Any]:
    """Layers of a part each, the first of which is another one in each step, and what always changes."""
    generator = torch.Generator().manual_seed(0)
    made: dict[str, Any] = {
        f"layer {number:02}": torch.randint(0, 255, (5 * MiB,), dtype=torch.uint8, generator=generator)
        for number in range(layers)
    }
    made["layer 00"] += step
    return made | {"norm": torch.full((100,), float(step)), "step": 10**step}


def assert_saved(path: str, expected: dict[str, Any]) -> None:
    into: dict[str, Any] = {name: torch.zeros_like(value) if name != "step" else 0 for name, value in expected.items()}
    load(into, storage_reader=S3StorageReader("us-east-1", path))
    assert into.pop("step") == expected["step"]
    assert all(torch.equal(into[name], expected[name]) for name in into)


def bytes_sent() -> int:
    """Of bodies, by this process so far."""
    return sum(each.sent for each in s3dlio.stats().endpoints)


def names(path: str) -> list[str]:
    prefix = f"{path}/".split("/", 3)[3]
    return sorted(entry.key.removeprefix(prefix) for entry in s3dlio.list(f"{path}/"))


def test_a_save_sends_what_has_changed_and_little_more(path: str) -> None:
    save(state(layers=20), storage_writer=Writer(f"{path}/1", previous=None))
    before = bytes_sent()
    later = state(2, layers=20)
    save(later, storage_writer=Writer(f"{path}/2", previous=f"{path}/1"))
    assert 5 * MiB < bytes_sent() - before <= 1.05 * 5 * MiB
    assert_saved(f"{path}/2", later)


@pytest.mark.parametrize("options", [{}, {"thread_count": 2}, {"single_file_per_rank": False}])
def test_each_save_copies_from_the_one_before(path: str, notes: Notes, options: dict[str, Any]) -> None:
    writer = Writer(path, previous=None, **options)
    for step in range(3):
        notes.requests.clear()
        save(state(step=step), storage_writer=writer, checkpoint_id=f"{path}/{step}")
        assert bool(notes.of("UploadPartCopy")) == (step > 0)
        assert_saved(f"{path}/{step}", state(step=step))


def test_what_is_replaced_may_be_what_is_copied_from(path: str) -> None:
    for step in range(3):
        save(state(step=step), storage_writer=Writer(path, previous=path))
        assert_saved(path, state(step=step))
        assert len(names(path)) == 4
    assert "__0.sums" in names(path)
    s3dlio.put(f"{path}/__7.sums", b"of a rank that is no more")
    save(state(), storage_writer=Writer(path))
    assert len(names(path)) == 2


def test_files_are_found_by_another_strategy(path: str, notes: Notes) -> None:
    class Epochs(NumericPrefixStrategy):
        def _format_number(self, number: int, length: int) -> str:
            return f"{number:0{length}}"

    for epoch in range(2):
        strategy = Epochs(10, epoch_num=epoch)
        writer = Writer(f"{path}/{epoch}", prefix_strategy=strategy, previous=f"{path}/0" if epoch else None)
        save(state(step=epoch), storage_writer=writer)
    assert notes.of("UploadPartCopy")
    assert_saved(f"{path}/1", state(step=1))


def _removed(uri: str) -> None:
    s3dlio.delete(uri)


def _replaced(uri: str) -> None:
    s3dlio.put(uri, b"of somebody else")


@pytest.mark.parametrize("happens", [_removed, _replaced])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # PyTorch prints them and goes on
@pytest.mark.parametrize("threads", [1, 2])
def test_what_cannot_be_copied_is_sent(path: str, happens: Any, threads: int, caplog: pytest.LogCaptureFixture) -> None:
    save(state(), storage_writer=Writer(f"{path}/1", previous=None, thread_count=threads))
    happens(f"{path}/1/__0_{threads - 1}.distcp")  # the one that has not changed is in the last
    save(state(step=2), storage_writer=Writer(f"{path}/2", previous=f"{path}/1", thread_count=threads))
    assert "so everything is sent" in caplog.text
    assert_saved(f"{path}/2", state(step=2))


def test_a_server_that_copies_nothing_is_sent_everything(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refused(store: S3Store, copy: PartCopy, number: int, byte_range: BoundedRange) -> Part:
        raise PermissionDeniedError("no copies")

    monkeypatch.setattr(S3Store, "copy_part", refused)
    for step in (1, 2):
        save(state(step=step), storage_writer=Writer(f"{path}/{step}", previous=f"{path}/1" if step > 1 else None))
    assert "no copies" in caplog.text
    assert_saved(f"{path}/2", state(step=2))


GOOD = {"name": "__0_0.distcp", "etag": '"1"', "items": [[5, "0" * 16]]}
NO_NOTES: dict[str, Any] = {
    "none": None,
    "no JSON": b"\x80",
    "a list": [],
    "another version": {"version": 2, "piece": MiB, "files": {}},
    "another folder": {"version": 1, "piece": MiB, "files": {"0.distcp": GOOD | {"name": "../__0_0.distcp"}}},
    "another file": {"version": 1, "piece": MiB, "files": {"0.distcp": GOOD | {"name": "secret"}}},
    "no etag": {"version": 1, "piece": MiB, "files": {"0.distcp": GOOD | {"etag": None}}},
    "no sums": {"version": 1, "piece": MiB, "files": {"0.distcp": GOOD | {"items": [[5, "0"]]}}},
}


@pytest.mark.parametrize("case", NO_NOTES)
def test_notes_that_are_none_are_not_believed(path: str, case: str, caplog: pytest.LogCaptureFixture) -> None:
    found = NO_NOTES[case]
    if found is not None:
        s3dlio.put(f"{path}/__0.sums", found if isinstance(found, bytes) else json.dumps(found))
    assert dcp_reusing.noted(Writer(path).fs, path, 0) == {}  # type: ignore[arg-type]
    assert "nothing is copied from there" in caplog.text


def test_notes_are_read(path: str) -> None:
    s3dlio.put(f"{path}/__0.sums", json.dumps({"version": 1, "piece": MiB, "files": {"0.distcp": GOOD}}))
    found = dcp_reusing.noted(Writer(path).fs, path, 0)["0.distcp"]  # type: ignore[arg-type]
    assert (found.key.rpartition("/")[2], found.etag, found.sums.size) == ("__0_0.distcp", '"1"', 5)


def test_files_are_written_as_ever(tmp_path: Path) -> None:
    path = f"file://{tmp_path}/checkpoint"
    save(state(), storage_writer=Writer(path, previous=None))
    assert_saved(path, state())
    assert sorted(each.name for each in (tmp_path / "checkpoint").iterdir()) == [".metadata", "__0_0.distcp"]


def test_previous_is_a_uri() -> None:
    with pytest.raises(ValueError, match="step-1"):
        Writer("s3://bucket/step-2", previous="step-1")


# Staging


@pytest.mark.usefixtures("alone")
def test_what_is_staged_is_what_is_saved(path: str) -> None:
    stager = PooledStager()
    for step in (1, 2):
        being_saved = state(step=step)
        saving = async_save(being_saved, storage_writer=Writer(f"{path}/{step}"), async_stager=stager)
        for name, value in being_saved.items():
            if name != "step":
                value.zero_()
        saving.result()  # type: ignore[union-attr]
        assert_saved(f"{path}/{step}", state(step=step))
    stager.close()


def test_staging_takes_the_memory_of_what_is_no_longer_staged() -> None:
    stager = PooledStager()
    weight = torch.zeros(5 * MiB, dtype=torch.uint8)
    first = stager.stage({"weight": weight})
    weight += 1
    second = stager.stage({"weight": weight})  # while the first is being saved
    assert (int(first["weight"].max()), int(second["weight"].min())) == (0, 1)
    places = {each["weight"].data_ptr() for each in (first, second)}
    del first, second
    assert stager.stage({"weight": weight})["weight"].data_ptr() in places
    stager.close()
    assert stager._pool.kept == 0


def test_staging_keeps_what_is_shared_and_what_is_no_tensor() -> None:
    stager, weight = PooledStager(), torch.arange(10.0)
    staged = stager.stage({"a": [weight, {"b": weight[2:4]}], "text": "x"})
    weight.zero_()
    assert staged["a"][0].tolist() == [*range(10)]
    assert staged["a"][1]["b"].tolist() == [2, 3]
    assert staged["text"] == "x"
