"""Which members of a shard make one sample, as webdataset names them. Pure.

Source: "The WebDataset Format", https://github.com/webdataset/webdataset: what precedes the first dot of a file's name,
with its folders, is the sample's key; what follows it tells the parts of a sample from each other.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from ..errors import ErrorContext, FormatError, shown


class Samples(NamedTuple):
    """Where samples begin and end, as numbers of members: columns."""

    firsts: Sequence[int]
    stops: Sequence[int]


def split_name(name: str) -> tuple[str, str] | None:
    """The key and the extension, in lower case, of the member `name`; `None` for one that is of no sample."""
    folder, slash, base = name.rpartition("/")
    key, _, extension = base.partition(".")
    return (f"{folder}{slash}{key}", extension.lower()) if key and extension else None


def find_samples(names: Sequence[str], context: ErrorContext) -> Samples:
    """The samples of members with these `names`: neighbours of one key. Errors: `FormatError` where a part is twice."""
    parts = ((number, split) for number, name in enumerate(names) if (split := split_name(name)) is not None)
    firsts, stops = array("Q"), array("Q")
    for key, group in groupby(parts, lambda part: part[1][0]):
        numbers, extensions = zip(*((number, split[1]) for number, split in group), strict=True)
        if len(set(extensions)) < len(extensions):
            raise FormatError(f"sample {shown(key, 100)!r} has a part twice", context)
        firsts.append(numbers[0])
        stops.append(numbers[-1] + 1)
    return Samples(firsts, stops)


def place_of(number: int, ends: Sequence[int]) -> tuple[int, int]:
    """The shard that sample `number` of all is in, and its number there; the samples of each end at `ends`.

    Errors: `IndexError`.
    """
    count = ends[-1] if ends else 0
    if not -count <= number < count:
        raise IndexError(f"there are {count} samples, and no number {number}")
    number %= count
    shard = bisect_right(ends, number)
    return shard, number - (ends[shard - 1] if shard else 0)
