from __future__ import annotations

import pytest

from s3dlio import parts
from s3dlio.transfer import ParallelStore

from .recorder import PART, Recorder


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def store(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> ParallelStore:
    """Parts of ten bytes, for writes too, four at once."""
    monkeypatch.setattr(parts, "MIN_PART", PART)
    monkeypatch.setattr(parts, "MiB", 1)
    return ParallelStore(recorder, part_size=PART, parts_in_flight=4)
