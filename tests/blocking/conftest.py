from __future__ import annotations

import pytest

from s3dlio.blocking import portal, prefetch


@pytest.fixture(autouse=True)
def no_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits do not look up by themselves, or a lost wake-up would only be a second lost."""
    for module in (portal, prefetch):
        monkeypatch.setattr(module, "LOOK_UP", 3600.0)
