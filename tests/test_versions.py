"""Objects that are replaced: every reader gets the bytes of one version, on a real server."""

from __future__ import annotations

from itertools import cycle

import pytest
import trio

import s3dlio
from s3dlio.compat.s3torchconnector import S3Checkpoint, S3Exception, S3MapDataset
from s3dlio.config import MiB
from s3dlio.errors import ObjectChangedError

from .servers.seaweedfs import SeaweedFS

SIZES = [40 * MiB, 70 * MiB, 36 * MiB]


def _version(number: int, size: int) -> bytes:
    return bytes([number]) * size


def test_an_object_that_grows_and_shrinks(s3_environment: SeaweedFS, bucket: str) -> None:
    """Nothing that was learned of the old version is believed of the new one, in this process or in a dataset."""
    uri = f"s3://{bucket}/latest.pt"
    s3dlio.put(uri, _version(9, SIZES[0]))
    listed = S3MapDataset.from_prefix(f"s3://{bucket}/latest", region="us-east-1")
    assert len(listed) == 1
    for number, size in enumerate(SIZES):
        body = _version(number, size)
        s3dlio.put(uri, body)
        assert s3dlio.get(uri) == body
        assert s3dlio.stat(uri).size == size
        assert listed[0].read() == body
        with S3Checkpoint("us-east-1").reader(uri) as reader:
            assert reader.read() == body


async def test_an_object_overwritten_during_reads(s3_environment: SeaweedFS, bucket: str) -> None:
    """Reads in small ranges, while two versions of one size replace each other as fast as they can."""
    size = 12 * MiB
    versions = [_version(number, size) for number in (1, 2)]
    async with s3dlio.open_store(f"s3://{bucket}", part_size=MiB) as store:
        await store.inner.put("key", versions[0])
        outcomes: list[str] = []
        async with trio.open_nursery() as nursery:

            async def overwrite() -> None:
                for version in cycle(versions):
                    await store.inner.put("key", version)

            nursery.start_soon(overwrite)
            while len(outcomes) < 30 or ("changed" not in outcomes and len(outcomes) < 300):
                try:
                    data = await store.get("key")
                except ObjectChangedError:
                    outcomes.append("changed")
                else:
                    assert data in versions
                    outcomes.append("whole")
            nursery.cancel_scope.cancel()
    assert "changed" in outcomes


@pytest.mark.parametrize("start", [0, 5 * MiB])
def test_a_reader_half_read_is_held_to_its_version(s3_environment: SeaweedFS, bucket: str, start: int) -> None:
    uri = f"s3://{bucket}/key"
    s3dlio.put(uri, _version(1, 20 * MiB))
    reader = S3Checkpoint("us-east-1").reader(uri)
    reader.seek(start)
    assert reader.read(10) == bytes([1]) * 10
    s3dlio.put(uri, _version(2, 20 * MiB))
    with pytest.raises(S3Exception, match="replaced"):
        reader.read()
