"""A bucket in memory is one for the process, by whatever face it is reached: there is no other place it could be in."""

from __future__ import annotations

import s3dlio
from s3dlio.compat.s3torchconnector import S3Checkpoint, S3IterableDataset, S3MapDataset
from s3dlio.config import Config


def test_data_sets_find_what_verbs_have_put() -> None:
    s3dlio.put("memory://faces/data/one", b"abc")
    prefix, region = "memory://faces/data/", "us-east-1"
    assert [item.read() for item in S3IterableDataset.from_prefix(prefix, region=region)] == [b"abc"]
    assert S3MapDataset.from_prefix(prefix, region=region)[0].read() == b"abc"


def test_verbs_find_what_a_checkpoint_has_written() -> None:
    with S3Checkpoint(region="us-east-1").writer("memory://faces/checkpoint") as writer:
        writer.write(b"state")
    assert s3dlio.get("memory://faces/checkpoint", config=Config(part_size=10 << 20)) == b"state"
