from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest


@pytest.fixture(params=["memory", "file", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URI of an empty folder, with a slash at its end: in memory, on disk, on a server."""
    if request.param == "memory":
        yield f"memory://{uuid4()}/"
    elif request.param == "file":
        yield f"file://{tmp_path}/"
    else:
        request.getfixturevalue("s3_environment")
        yield f"s3://{request.getfixturevalue('bucket')}/"
