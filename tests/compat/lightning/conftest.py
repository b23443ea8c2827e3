"""The training data in a bucket, and s3fs, by which Lightning looks at folders, without what it knew before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import s3fs

from s3dlio.compat.s3torchconnector.lightning import S3LightningCheckpoint

from ...servers.seaweedfs import SeaweedFS
from .training import fill


@pytest.fixture(autouse=True)
def fresh_s3fs() -> Iterator[None]:
    """s3fs keeps its clients, with their endpoint and credentials, and listings, for as long as the process lives."""
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def data(s3_environment: SeaweedFS, bucket: str) -> str:
    """A folder that holds the examples."""
    folder = f"s3://{bucket}/data/"
    fill(folder)
    return folder


@pytest.fixture
def plugin(s3_environment: SeaweedFS) -> S3LightningCheckpoint:
    return S3LightningCheckpoint("us-east-1")
