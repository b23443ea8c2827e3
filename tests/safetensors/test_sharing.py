"""Two ranks load together: each reads its part, both have all of it, and what one cannot read is an error of both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import safetensors.torch
import torch

import s3dlio

PROGRAM = """
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

import s3dlio
from s3dlio import stored
from s3dlio.safetensors import load_file, reading, staging

rank, folder = int(sys.argv[1]), sys.argv[2]
uri = f"file://{folder}/model.safetensors"
dist.init_process_group("gloo", f"file://{folder}/meeting", timedelta(seconds=100), 2, rank)
staging.Staging.__init__.__kwdefaults__["block"] = 100_000
reads, begin = [], stored.StoredObject.begin


def noted(found, start, view):
    reads.append(len(view))
    return begin(found, start, view)


def lost(arrival):
    raise s3dlio.NotFoundError("it is lost")


def attempt(uri):
    try:
        found = load_file(uri, process_group=dist.group.WORLD)
    except s3dlio.StoreError as error:
        print(type(error).__name__, error.message)
    else:
        torch.save(found, f"{folder}/{rank}")
        print(len(reads), sum(reads))


stored.StoredObject.begin = noted
attempt(uri)
attempt(uri if rank else f"{uri}-absent")
reading.validators = lambda meta: rank
attempt(uri)
reading.validators = lambda meta: 0
if rank == 1:
    stored.Arrival.wait = lost
attempt(uri)
dist.destroy_process_group()
"""
TENSORS = {"a": torch.randn(300, 500), "b": torch.randn(90).bfloat16(), "c": torch.zeros(0, 2), "d": torch.tensor(5)}
SIZE = sum(tensor.nbytes for tensor in TENSORS.values())


def ranks(folder: Path) -> list[list[str]]:
    """The lines that each of two ranks says."""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(rank), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [each.communicate(timeout=200) for each in both]
    assert [each.returncode for each in both] == [0, 0], said
    return [output.splitlines() for output, _ in said]


def test_each_reads_its_part_both_have_all_and_what_fails_in_one_fails_in_both(tmp_path: Path) -> None:
    s3dlio.put(f"file://{tmp_path}/model.safetensors", safetensors.torch.save(TENSORS))
    first, second = ranks(tmp_path)
    assert [first[0], second[0]] == [f"4 {SIZE - 300_000}", "3 300000"]
    for rank in range(2):
        found = torch.load(tmp_path / str(rank))
        assert found.keys() == TENSORS.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    assert first[1].startswith("NotFoundError ")
    assert second[1].startswith("StoreError another rank of the group failed: NotFoundError")
    assert first[2] == second[2] == "ObjectChangedError the ranks of the group see different versions of the weights"
    assert first[3] == "StoreError rank 1 of the group could not read its part of the weights"
    assert second[3] == "NotFoundError it is lost"
