"""Directories and the plain model, given the same work: the same answers, errors and listings."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from s3dlio.config import Config
from s3dlio.model import ListOptions
from s3dlio.stores.local.direct import DirectStore
from s3dlio.stores.local.store import LocalStore
from s3dlio.stores.memory import MemoryStore
from s3dlio.stores.store import ObjectStore

from ..test_agreement import Work, copy, create, head, outcome, put, replace, upload

_SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
_KEYS = st.sampled_from(["a", "a b", "b/b", "b/c/d", "b+c%20?", "é/漢", "z&<>"])
_DATA = st.binary(max_size=40)
_WORK = st.one_of(
    st.builds(put, _KEYS, _DATA),
    st.builds(create, _KEYS, _DATA),
    st.builds(replace, _KEYS, _DATA, stale=st.just(False)),  # the model's etags are of contents, not of versions
    st.builds(upload, _KEYS, _DATA, finish=st.booleans()),
    st.builds(head, _KEYS),
    st.builds(lambda *wanted: lambda store: _pages(store, *wanted), st.just("b"), st.just("/"), _KEYS, st.just(2)),
    st.builds(copy, _KEYS, _KEYS),
    st.builds(lambda key: lambda store: store.get(key), _KEYS),
    st.builds(lambda key: lambda store: store.delete(key), _KEYS),
)


@pytest.mark.parametrize("kind", [LocalStore, DirectStore])
@_SETTINGS
@given(script=st.lists(_WORK, min_size=1, max_size=25))
async def test_files_and_the_model_agree(disk: Path, kind: type[LocalStore], script: list[Work]) -> None:
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        async with kind(folder, Config(durable="none")) as real:
            model = MemoryStore()
            for work in script:
                assert await outcome(real, work) == await outcome(model, work)
            assert await _pages(real, "", "", "", 1000) == await _pages(model, "", "", "", 1000)
        assert _files(folder) == [meta.key async for page in model.list() for meta in page.objects]


def _files(folder: str) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def _make(folder: str, names: list[str]) -> None:
    for name in names:
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (Path(folder) / "empty" / "too").mkdir(parents=True)
    (Path(folder) / ".s3dlio-0123456789abcdef.tmp").touch()


_TREE = st.lists(st.text(st.sampled_from("ab-.é~/\U0001f600"), min_size=1, max_size=8), max_size=25)
_TEXT = st.text(st.sampled_from("ab-.é~/\U0001f600"), max_size=5)


def _possible(names: list[str]) -> list[str]:
    """Those of the names that files can have, side by side."""
    chosen: list[str] = []
    for name in names:
        apart = all(not f"{other}/".startswith(f"{name}/") and not name.startswith(f"{other}/") for other in chosen)
        if apart and not {"", ".", ".."} & {*name.split("/")}:
            chosen.append(name)
    return chosen


async def _pages(store: ObjectStore, prefix: str, delimiter: str, start_after: str, limit: int) -> list[object]:
    found: list[object] = []
    token: str | None = None
    while True:
        page = await store.list_page(prefix, ListOptions(delimiter, start_after, token, limit))
        found.append(([meta.key for meta in page.objects], page.prefixes, page.token))
        token = page.token
        if token is None:
            return found


@_SETTINGS
@given(
    names=_TREE,
    prefix=_TEXT,
    delimiter=st.sampled_from(["", "/", "/", "-", "a", "//", "b/"]),
    start_after=_TEXT,
    limit=st.integers(1, 6),
)
@example(names=["a--"], prefix="a-", delimiter="--", start_after="", limit=1)  # which begins inside the prefix
async def test_listings_are_those_of_the_model_page_by_page(
    disk: Path, names: list[str], prefix: str, delimiter: str, start_after: str, limit: int
) -> None:
    model = MemoryStore()
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        _make(folder, _possible(names))
        for name in _possible(names):
            await model.put(name, b"")
        store = LocalStore(folder)
        wanted = (prefix, delimiter, start_after, limit)
        assert await _pages(store, *wanted) == await _pages(model, *wanted)
