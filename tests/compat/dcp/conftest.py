"""What every test of checkpoints has: a place in a bucket, and notes of what was asked of the server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from s3dlio.model import BoundedRange, GetOptions, GetResult, Sink
from s3dlio.stores.s3.store import S3Store
from s3dlio.transport.connection import Answer
from s3dlio.transport.download import Download
from s3dlio.transport.upstream import Request

from ...servers.seaweedfs import SeaweedFS

ALONE = "ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning"
"""PyTorch says so whenever one process saves or loads."""

REPLACING = "ignore:Detected an existing checkpoint in:UserWarning"


@dataclass
class Notes:
    """Requests in order: (operation, key); and the ranges of bodies that were asked for: (key, start, end)."""

    requests: list[tuple[str, str | None]] = field(default_factory=list)
    ranges: list[tuple[str, int, int]] = field(default_factory=list)

    def of(self, operation: str) -> list[str | None]:
        """The keys of all requests of one kind."""
        return [key for name, key in self.requests if name == operation]


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Notes:
    """Notes of all requests to S3 from here on."""
    taken = Notes()
    send, fetch = S3Store._send, S3Store.fetch

    async def noted_send(self: S3Store, request: Request, download: Download | None = None) -> Answer:
        taken.requests.append((request.operation, request.key))
        return await send(self, request, download)

    async def noted_fetch(self: S3Store, key: str, sink: Sink, options: GetOptions = GetOptions()) -> GetResult:
        asked = options.byte_range
        if isinstance(asked, BoundedRange):
            taken.ranges.append((key, asked.start, asked.end))
        return await fetch(self, key, sink, options)

    monkeypatch.setattr(S3Store, "_send", noted_send)
    monkeypatch.setattr(S3Store, "fetch", noted_fetch)
    return taken


@pytest.fixture
def path(s3_environment: SeaweedFS, bucket: str) -> str:
    """Where a checkpoint may go."""
    return f"s3://{bucket}/checkpoints/step 1"


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of one rank."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=HashStore())
    yield
    dist.destroy_process_group()
