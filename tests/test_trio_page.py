"""The page about Trio: its programs run as printed, one after the other, and show every public method of a store."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import s3dlio

from .servers.seaweedfs import SeaweedFS

PAGE = (Path(__file__).parents[1] / "docs" / "trio.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
INSIDE = {"aclose", "begin_copy", "copy_part", "get_pieces", "look_up_checksum", "stats", "pages_from"}
INSIDE |= {"open_reusing_writer"}
"""What the end of the block, `copy` and checkpoints do with a store, and what has a page of its own."""


def test_its_programs_run_as_printed(
    s3_bucket: SeaweedFS, s3_environment: SeaweedFS, capfd: pytest.CaptureFixture[str]
) -> None:
    for program in PROGRAMS:
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(program, "docs/trio.md", "exec", dont_inherit=True), names)
    shown, said = capfd.readouterr()
    assert shown.startswith("b'hello, world'\n4000 ")
    assert "bytes\n" in shown
    assert "somebody" not in shown
    assert said == ""


def test_it_shows_every_method() -> None:
    methods = {
        name
        for name in dir(s3dlio.ParallelStore)
        if not name.startswith("_") and callable(getattr(s3dlio.ParallelStore, name))
    }
    shown = set(re.findall(r"store\.(\w+)\(", PAGE))
    assert methods - shown <= INSIDE
    assert "store.stats()" in PAGE
