"""Which files of a checkpoint that is replaced have to go, by their names alone.

What its `.metadata` says of them is a pickle, and whoever can write to the bucket may have put it there. Names are
looked for where the prefix strategy puts files, and nowhere else, so that none can lead out of the checkpoint's folder.
The old checkpoint may be of more ranks: they are gone through until one has no files.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import count, takewhile

_AFTER_PREFIX = re.compile(r"([0-9a-f]{8}_)?(?:small_)?[0-9]+\.distcp")
_NOTES = re.compile(r"__([0-9]+)\.sums")


def replaced_files(
    prefix_of: Callable[[int], str], ranks: int, names_in: Callable[[str], Iterable[str]], tag: str
) -> set[str]:
    """The files, relative to the checkpoint's path, that are not those of the save that tags its files with `tag`.

    The names of each rank's files begin with what `prefix_of` gives; `ranks` are saving. `names_in` lists a folder,
    which is relative as well, and empty for the checkpoint's own.
    """
    listed = cache(lambda folder: sorted(names_in(folder)))
    replaced: set[str] = set()
    for rank in count():
        folder, slash, beginning = prefix_of(rank).rpartition("/")
        found = {f"{folder}{slash}{name}" for name in _files(listed(folder), beginning, tag)}
        if rank >= ranks and found <= replaced:
            break
        replaced |= found
    return replaced


def replaced_notes(names: Iterable[str], ranks: int) -> list[str]:
    """Of the `names` in a checkpoint's folder the notes (:mod:`.reusing`) of others than the first `ranks` ranks."""
    return [name for name in names if (found := _NOTES.fullmatch(name)) and int(found[1]) >= ranks]


def _files(names: Sequence[str], beginning: str, tag: str) -> Iterator[str]:
    following = (names[at] for at in range(bisect_left(names, beginning), len(names)))
    for name in takewhile(lambda each: each.startswith(beginning), following):
        rest = _AFTER_PREFIX.fullmatch(name.removeprefix(beginning))
        if rest is not None and rest[1] != tag:
            yield name
