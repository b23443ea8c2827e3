"""The page of blocking calls: its Python runs as printed, from top to bottom, and shows every verb."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s3dlio
from s3dlio import blocking

from .servers.seaweedfs import SeaweedFS

PAGE = (Path(__file__).parents[1] / "docs" / "blocking.md").read_text()
PIECES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_runs_as_printed(
    s3_bucket: SeaweedFS, s3_environment: SeaweedFS, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for piece in PIECES:
        exec(compile(piece, "docs/blocking.md", "exec"), names)
    assert np.array_equal(names["weights"], np.arange(1000, dtype="f4"))
    shown = capsys.readouterr().out
    assert "s3://bucket/guide/train/009 b'sample 9'" in shown
    assert "[('s3://bucket/guide/greeting', b'hello, world')]" in shown
    assert "; 100 the same" in shown
    assert s3dlio.get("memory://scratch/greeting") == b"hello, world"
    assert not s3dlio.list("s3://bucket/guide/")


def test_the_page_shows_every_verb() -> None:
    verbs = {name for name in (*blocking.__all__, "list", "open") if name.islower()}
    shown = set(re.findall(r"s3dlio\.(\w+)\(", "\n".join(PIECES)))
    assert verbs - shown == {"get_range", "put_bytes"}  # which are others by other names
    assert all(f"`{name}" in PAGE for name in ("get_range", "put_bytes"))
