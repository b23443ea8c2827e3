"""Trees of objects: patterns of keys, folders, and what brings one tree to the state of another. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from .model import ObjectMeta

_SPECIAL = re.compile(r"[*?\[]")


def fixed_prefix(pattern: str) -> str:
    """What all keys that match `pattern` begin with: as far as it has no special letter."""
    found = _SPECIAL.search(pattern)
    return pattern[: found.start()] if found else pattern


def matches(pattern: str, key: str) -> bool:
    """Whether `key` is of the `pattern`: between slashes, `*`, `?`, `[a-c]` and `[!a-c]` as :mod:`fnmatch` has them.

    `**` between slashes is any number of folders, also none; at the end, whatever lies below.
    """
    return _match(pattern.split("/"), key.split("/"))


def _match(pattern: Sequence[str], names: Sequence[str]) -> bool:
    if not pattern:
        return not names
    if pattern[0] == "**":
        return any(_match(pattern[1:] or ["*"], names[passed:]) for passed in range(len(names)))
    return bool(names) and fnmatchcase(names[0], pattern[0]) and _match(pattern[1:], names[1:])


def is_folder_marker(meta: ObjectMeta) -> bool:
    """Whether this empty object stands for a folder, as consoles of object stores make them: no file can."""
    return meta.key.endswith("/") and not meta.size


def differs(source: ObjectMeta, target: ObjectMeta | None) -> bool:
    """Whether `source` has to be sent, where `target` is there in its place.

    Not if both are of one size, and of one etag or the target is not older, by the second, as some stores tell no more.
    So an object that was replaced by one of its size in the second of its copy passes for the same, as with rsync.
    """
    if target is None or source.size != target.size:
        return True
    if source.etag is not None and source.etag == target.etag:
        return False
    if source.last_modified is None or target.last_modified is None:
        return True
    return target.last_modified.replace(microsecond=0) < source.last_modified.replace(microsecond=0)
