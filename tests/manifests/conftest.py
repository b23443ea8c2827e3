"""A cache of the test's own, and manifests of whatever a test has listed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

import pytest

from s3dlio.alignment.compiled import directory
from s3dlio.blocking.store import locate_prefix
from s3dlio.manifest import Manifest, load
from s3dlio.manifest.writing import _Listed
from s3dlio.model import ObjectColumns, ObjectMeta


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where manifests of buckets are kept; compiled code is there as it is in the user's."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    for compiled in (directory() or tmp_path).glob("*.o"):
        (folder / compiled.name).symlink_to(compiled)
    monkeypatch.setenv("S3DLIO_CACHE_DIR", str(folder))
    return folder


def written(path: Path, uri: str, pages: Iterable[Sequence[ObjectMeta]]) -> Manifest:
    """The manifest at `path` of what a listing of `uri` gave."""
    store, prefix = locate_prefix(uri, None)
    listed = _Listed(store, prefix, [BytesIO() for _ in range(5)])
    for page in pages:
        listed.add(ObjectColumns.of(page))
    path.write_bytes(b"".join(listed.pieces()))
    return load(path)
