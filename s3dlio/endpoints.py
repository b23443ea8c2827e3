"""How several endpoints of one store are spelled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice, product, zip_longest
from math import prod
from pathlib import Path
from typing import cast

from .errors import ConfigError

_RANGE = re.compile(r"\{([0-9]{1,9})\.\.\.([0-9]{1,9})\}")
_MOST_ENDPOINTS = 1024


def joined(given: object) -> object:
    """Several texts in a list or a tuple, as one with commas; anything else as it is."""
    several = isinstance(given, list | tuple) and all(isinstance(url, str) for url in given)
    return ",".join(cast("Iterable[str]", given)) if several else given


def separated(text: str) -> tuple[str, ...]:
    """What stands between the commas of `text`."""
    return tuple(filter(None, map(str.strip, text.split(","))))


def endpoint_urls(text: str) -> list[str]:
    """The endpoints that `text` names: URLs with commas between them, ranges in them, or a file that lists them.

    `http://10.0.0.{1...8}:9000` is eight of them, also `{01...08}` with its zeros. `@path` is a file with one of these
    a line; empty lines and what follows a `#` count for nothing. Errors: `ConfigError`.
    """
    named = chain.from_iterable(map(_listed, separated(text)))
    urls = list(islice(named, _MOST_ENDPOINTS + 1))
    if len(urls) > _MOST_ENDPOINTS:
        raise ConfigError(f"there are more endpoints than the {_MOST_ENDPOINTS} that can be looked after")
    return list(dict.fromkeys(urls))


def _listed(piece: str) -> Iterator[str]:
    if not piece.startswith("@"):
        yield from _spelled_out(piece)
        return
    try:
        lines = Path(piece[1:]).expanduser().read_text("utf-8").splitlines()
    except (OSError, ValueError, RuntimeError) as error:  # the last for the home of a user who has none
        raise ConfigError(f"the file of endpoints cannot be read: {error}") from None
    found = [line.partition("#")[0].strip() for line in lines]
    if not any(found):
        raise ConfigError(f"the file of endpoints names none: {piece[1:]!r}")
    for line in filter(None, found):
        if line.startswith("@"):
            raise ConfigError(f"a file of endpoints cannot name another file: {line!r}")
        yield from endpoint_urls(line)


def _spelled_out(url: str) -> Iterator[str]:
    """`url` once for each number of its ranges."""
    pieces = _RANGE.split(url)
    texts, spelled = pieces[::3], list(zip(pieces[1::3], pieces[2::3], strict=True))
    if not {"{", "}"}.isdisjoint("".join(texts)):
        raise ConfigError("a range of endpoints is spelled {1...8}")
    ranges = [range(int(first), int(last) + 1) for first, last in spelled]
    if not 1 <= prod(map(len, ranges)) <= _MOST_ENDPOINTS:
        raise ConfigError(f"the ranges of an endpoint must lead upwards, and name no more than {_MOST_ENDPOINTS}")
    numbers = ([f"{number:0{len(first)}}" for number in each] for each, (first, _) in zip(ranges, spelled, strict=True))
    for chosen in product(*numbers):
        yield "".join(chain.from_iterable(zip_longest(texts, chosen, fillvalue="")))
