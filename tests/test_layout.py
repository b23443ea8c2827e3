"""Rooms that all clouds use: nothing in them is named after one. What imports what is checked by import-linter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import s3dlio

PACKAGE = Path(s3dlio.__file__).parent
SHARED = [
    *(PACKAGE / "transport").glob("*.py"),
    *(PACKAGE / "stores" / name for name in ("http.py", "xml.py")),
    *(PACKAGE / "auth" / name for name in ("signer.py", "refreshing.py", "bearer.py")),
]
_CLOUDS = re.compile(r"\bs3\b|amazon|aws|x-amz|azure|\baz\b|x-ms|google|\bgcs\b|x-goog|minio", re.IGNORECASE)


@pytest.mark.parametrize("path", SHARED, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_shared_room_names_no_cloud(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert [line for line in lines if _CLOUDS.search(line)] == []


def test_the_largest_module_is_small_enough_to_read() -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert max(sizes.values()) < 500
