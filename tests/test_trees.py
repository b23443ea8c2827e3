"""Plans of trees: which keys a pattern means, which objects differ, and how two listings are walked side by side."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.mirror import pairs
from s3dlio.model import ObjectMeta
from s3dlio.trees import differs, fixed_prefix, is_folder_marker, matches

_NAMES = st.lists(st.text("ab", min_size=1, max_size=2), min_size=1, max_size=4).map("/".join)
_PATTERNS = st.lists(st.sampled_from(["*", "?", "a*", "[ab]", "b", "[!a]b"]), min_size=1, max_size=4).map("/".join)
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


@given(pattern=_PATTERNS, key=_NAMES)
def test_a_pattern_without_stars_for_folders_means_what_pathlib_says(pattern: str, key: str) -> None:
    alike = len(key.split("/")) == len(pattern.split("/"))
    assert matches(pattern, key) == (alike and PurePosixPath(key).match(pattern))


@given(before=_NAMES, between=st.lists(st.sampled_from("ab"), max_size=3), after=_NAMES)
def test_two_stars_are_any_number_of_folders(before: str, between: list[str], after: str) -> None:
    assert matches(f"{before}/**/{after}", "/".join([before, *between, after]))
    assert matches(f"{before}/**", "/".join([before, *between, after]))
    assert not matches(f"{before}/**", before)


@given(pattern=_PATTERNS, key=_NAMES)
def test_all_that_match_begin_with_what_is_fixed(pattern: str, key: str) -> None:
    assert not matches(pattern, key) or key.startswith(fixed_prefix(pattern))


def meta(size: int = 1, etag: str | None = None, age: float | None = None) -> ObjectMeta:
    return ObjectMeta("key", size, etag, None if age is None else _NOW - timedelta(seconds=age))


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (meta(), None, True),
        (meta(1, "e", 9), meta(2, "e", 0), True),
        (meta(1, "e", 0), meta(1, "e", 9), False),
        (meta(1, "e", 9), meta(1, "f", 0), False),
        (meta(1, "e", 0), meta(1, "f", 9), True),
        (meta(1, "e", 0), meta(1, "f", 0), False),
        (meta(1, None, 9), meta(1, None, 0), False),
        (meta(), meta(), True),
    ],
)
def test_what_differs_is_sent(source: ObjectMeta, target: ObjectMeta | None, expected: bool) -> None:
    assert differs(source, target) == expected


def test_a_part_of_a_second_makes_no_difference() -> None:
    later = ObjectMeta("key", 1, "e", _NOW + timedelta(milliseconds=900))
    assert not differs(later, meta(1, "f", 0))


def test_only_an_empty_object_with_a_slash_stands_for_a_folder() -> None:
    assert is_folder_marker(ObjectMeta("a/", 0))
    assert not is_folder_marker(ObjectMeta("a/", 1))
    assert not is_folder_marker(ObjectMeta("a", 0))


_TREES = st.dictionaries(st.text("ab/\uffff\U00010000", min_size=1, max_size=3), st.integers(0, 3), max_size=8)


@given(source=_TREES, target=_TREES)
def test_two_trees_are_walked_side_by_side(source: dict[str, int], target: dict[str, int]) -> None:
    async def listed(tree: dict[str, int]) -> AsyncGenerator[tuple[str, ObjectMeta]]:
        for name in sorted(tree):
            yield name, ObjectMeta(name, tree[name])

    async def walk() -> list[tuple[str, int | None, int | None]]:
        found = pairs(listed(source), listed(target))
        return [(name, here.size if here else None, there.size if there else None) async for name, here, there in found]

    names = sorted({*source, *target})
    assert trio.run(walk) == [(name, source.get(name), target.get(name)) for name in names]
