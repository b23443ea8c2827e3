"""A client whose one bucket is in memory, for programs' own tests."""

from __future__ import annotations

from uuid import uuid4

from ....blocking.store import BlockingStore
from .._user_agent import UserAgent
from ..errors import BUCKET_ABSENT, S3NotFoundError
from ._s3client import S3Client
from .s3client_config import S3ClientConfig


class MockS3Client(S3Client):
    """A client that sends nothing: `bucket` is in this process's memory, is empty, and is this client's alone.

    `region`, `user_agent` and `s3client_config` as for :class:`S3Client`; here they change nothing.
    """

    def __init__(
        self,
        region: str | None,
        bucket: str,
        user_agent: UserAgent | None = None,
        s3client_config: S3ClientConfig | None = None,
    ) -> None:
        super().__init__(region, user_agent=user_agent, s3client_config=s3client_config)
        self._bucket = bucket
        self._memory = f"{bucket}-{uuid4()}"

    def add_object(self, key: str, data: bytes) -> None:
        """Put an object into the bucket: `data`, named `key`."""
        self.store(self._bucket).put(key, data)

    def remove_object(self, key: str) -> None:
        """Remove the object `key` from the bucket."""
        self.store(self._bucket).delete(key)

    def store(self, bucket: str, scheme: str = "s3") -> BlockingStore:
        """The bucket in memory. Errors: `S3Exception` for a bucket of another name."""
        if bucket != self._bucket:
            raise S3NotFoundError(BUCKET_ABSENT)
        return super().store(self._memory, "memory")
