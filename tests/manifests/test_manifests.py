"""Manifests in every place: made, opened, fetched once, checked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import s3dlio
from s3dlio import manifest
from s3dlio.blocking.store import BlockingStore, locate
from s3dlio.manifest.comparing import changes
from s3dlio.manifest.copying import local_copy
from s3dlio.model import ObjectMeta

from ..cli.conftest import root as root


@pytest.fixture
def filled(root: str) -> str:
    s3dlio.put_many({f"{root}{name}": name for name in ("a", "b/é", "c")})
    return root


def test_in_every_place(filled: str) -> None:
    header = manifest.create(f"{filled}b", f"{filled}made.manifest")
    found = manifest.load(f"{filled}made.manifest")
    assert [(meta.key, meta.size, meta.etag) for meta in found] == [
        (meta.key, meta.size, meta.etag) for meta in s3dlio.list(f"{filled}b")
    ]
    assert s3dlio.get_many(found.uris) == [(f"{filled}b/é", "b/é".encode())]
    assert header == found.header
    assert list(manifest.check(f"{filled}made.manifest")) == []


METAS = st.dictionaries(st.text(max_size=2), st.tuples(st.integers(0, 2), st.sampled_from([None, '"a"', '"b"'])))


@given(METAS, METAS)
def test_changes_are_those_of_two_dictionaries(before: dict[str, Any], after: dict[str, Any]) -> None:
    def listed(objects: dict[str, Any]) -> list[ObjectMeta]:
        return [ObjectMeta(key, *objects[key]) for key in sorted(objects)]

    expected = {("removed", key) for key in before.keys() - after.keys()}
    expected |= {("added", key) for key in after.keys() - before.keys()}
    for key in before.keys() & after.keys():
        (size, etag), (now, tag) = before[key], after[key]
        if size != now or (etag and tag and etag != tag):
            expected.add(("changed", key))
    found = list(changes(listed(before), listed(after)))
    assert set(found) == expected
    assert [key for _, key in found] == sorted(key for _, key in expected)


def test_what_is_in_no_order_cannot_be_compared() -> None:
    with pytest.raises(s3dlio.UnsupportedError):
        list(changes([], [ObjectMeta("b", 1), ObjectMeta("a", 1)]))


@pytest.fixture
def kept() -> tuple[BlockingStore, ObjectMeta]:
    """A manifest in memory."""
    s3dlio.put("memory://kept/train/a", b"")
    manifest.create("memory://kept/train/", "memory://kept/manifest")
    store, key = locate("memory://kept/manifest", None)
    return store, store.head(key)


def test_one_of_many_fetches_it(kept: tuple[BlockingStore, ObjectMeta], monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    receive = BlockingStore.get_into

    def noted(store: BlockingStore, key: str, *given: Any, **more: Any) -> Any:
        fetched.append(key)
        return receive(store, key, *given, **more)

    monkeypatch.setattr(BlockingStore, "get_into", noted)
    with ThreadPoolExecutor(8) as threads:
        paths = set(threads.map(lambda _: local_copy(*kept), range(8)))
    assert fetched == ["manifest"]
    (path,) = paths
    assert Path(path).read_bytes() == s3dlio.get("memory://kept/manifest")


def test_one_that_was_replaced_meanwhile_is_not_kept(kept: tuple[BlockingStore, ObjectMeta], cache: Path) -> None:
    s3dlio.put("memory://kept/manifest", b"x" * kept[1].size)
    with pytest.raises(s3dlio.ObjectChangedError):
        local_copy(*kept)
    assert {path.suffix for path in cache.iterdir()} - {".o"} == {".lock"}


def test_without_a_private_place_the_error_names_the_setting(
    kept: tuple[BlockingStore, ObjectMeta], cache: Path
) -> None:
    cache.chmod(0o777)
    with pytest.raises(s3dlio.StoreError, match="S3DLIO_CACHE_DIR"):
        local_copy(*kept)


def test_a_listing_that_fails_leaves_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(s3dlio.BucketNotFoundError):
        manifest.create(f"file://{tmp_path}/absent/", tmp_path / "manifest")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
