"""Where the keys below a prefix lie, judged by some of them: pure.

A listing can begin anywhere, but nobody tells where keys are. They are written alike, though: counters, hashes, dates.
So the letters that were seen at each place of a key make it a number, in the order of keys, and from the width of one
page in numbers follows what is some pages further. Where one letter has been seen at a place so far, such as the zeros
of a counter, it is taken for one of the largest set of letters that holds it and was seen at some place.

These are guesses, good enough to divide work by. Nothing may be taken for true because of them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from operator import mul

SPAN = 10
"""Pages of a span, about: the part of a listing that one chain of requests goes through."""

_BUDGET = 10
"""One request for so many pages may be more than these need."""
_FINE = 16
"""Keys are made up as exactly as this part of a page."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """The keys of a page, which has `count` of them: the `first` and the `last`."""

    first: str
    last: str
    count: int


class KeySpace:
    """The keys that start with `prefix`, as numbers. `learn` makes others of them."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._seen: list[set[str]] = []
        self._letters: Sequence[str] = ()
        self._weights: Sequence[int] = ()
        self.size = 1

    def learn(self, keys: Iterable[str]) -> None:
        """Look at `keys`, which start with the prefix."""
        start, news = len(self._prefix), False
        for place, letters in enumerate(zip_longest(*(key[start:] for key in keys), fillvalue="")):
            if place == len(self._seen):
                self._seen.append(set())
            known = len(self._seen[place])
            self._seen[place].update(filter(None, letters))
            news = news or len(self._seen[place]) > known
        if news:
            self._letters = _widest(self._seen)
            *self._weights, self.size = accumulate(map(len, reversed(self._letters)), mul, initial=1)
            self._weights = self._weights[::-1]

    def number(self, key: str) -> int:
        """Where `key` lies: of two keys, the later one is at no lower number."""
        total = 0
        for letter, letters, weight in zip(key[len(self._prefix) :], self._letters, self._weights, strict=False):
            place = bisect_left(letters, letter)
            total += place * weight
            if letter != letters[place : place + 1]:
                break
        return total

    def key_at(self, number: int, fine: int) -> str:
        """A key that lies at `number`, which is below `size`, or less than `fine` before it."""
        text = [self._prefix]
        for letters, weight in zip(self._letters, self._weights, strict=True):
            place, number = divmod(number, weight)
            text.append(letters[place])
            if weight <= fine:
                break
        return "".join(text)


def _widest(seen: Sequence[set[str]]) -> list[str]:
    """For each place, the largest set of letters that was seen anywhere and holds those seen there."""
    by_size = sorted(map(frozenset, {frozenset(letters) for letters in seen}), key=len, reverse=True)
    return ["".join(sorted(next(each for each in by_size if each >= letters))) for letters in seen]


def split_at(space: KeySpace, page: Stretch, end: str | None, full: int) -> str | None:
    """The key after which another span should begin, `SPAN` pages of `full` keys after `page`; `None` for nowhere.

    `end` is where the span of `page` ends, `None` where that is the end of all.
    """
    here = space.number(page.last)
    wide = (here - space.number(page.first)) * full // max(1, page.count - 1)
    left = (space.size if end is None else space.number(end)) - here
    if wide <= 0 or 2 * left < 3 * SPAN * wide:
        return None
    key = space.key_at(here + min(SPAN * wide, left // 2), wide // _FINE)
    return key if page.last < key and (end is None or key < end) else None


def may_split(answers: int, keys: int, spans: int, full: int) -> bool:
    """Whether one more span keeps to the budget, when so many `answers` have brought `keys`, `full` of them a page.

    The last answer to each of `spans` may yet turn out to be one too many.
    """
    return _BUDGET * (answers * full - keys + (spans + 1) * full) <= keys
