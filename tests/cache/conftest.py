from __future__ import annotations

import pytest

from s3dlio.cache import chunks, folder

CHUNK, BLOCK = 64, 16


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of a few bytes; and files of up to one of them are read at once, larger ones by their blocks."""
    monkeypatch.setattr(chunks, "CHUNK", CHUNK)
    monkeypatch.setattr(chunks, "BLOCK", BLOCK)
    monkeypatch.setattr(folder, "_AT_ONCE", 40)
