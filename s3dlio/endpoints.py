"""How several endpoints of one store are spelled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

from .errors import ConfigError

_RANGE = re.compile(r"\{([0-9]{1,9})\.\.\.([0-9]{1,9})\}")
_MOST_ENDPOINTS = 1024


def joined(given: object) -> object:
    """Several texts in a list or a tuple, as one with commas; anything else as it is."""
    several = isinstance(given, list | tuple) and all(isinstance(url, str) for url in given)
    return ",".join(cast("Iterable[str]", given)) if several else given


def endpoint_urls(text: str) -> list[str]:
    """The endpoints that `text` names: URLs with commas between them, ranges in them, or a file that lists them.

    `http://10.0.0.{1...8}:9000` is eight of them, also `{01...08}` with its zeros. `@path` is a file with one of these
    a line; empty lines and what follows a `#` count for nothing. Errors: `ConfigError`.
    """
    urls = [url for piece in text.split(",") if piece.strip() for url in _listed(piece.strip())]
    if len(urls) > _MOST_ENDPOINTS:
        raise ConfigError(f"{len(urls)} endpoints are more than the {_MOST_ENDPOINTS} that can be looked after")
    return list(dict.fromkeys(urls))


def _listed(piece: str) -> Iterator[str]:
    if not piece.startswith("@"):
        yield from _spelled_out(piece)
        return
    try:
        lines = Path(piece[1:]).expanduser().read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"the file of endpoints cannot be read: {error}") from None
    found = [line.partition("#")[0].strip() for line in lines]
    if not any(found):
        raise ConfigError(f"the file of endpoints names none: {piece[1:]!r}")
    for line in filter(None, found):
        if line.startswith("@"):
            raise ConfigError(f"a file of endpoints cannot name another file: {line!r}")
        yield from endpoint_urls(line)


def _spelled_out(url: str) -> Iterator[str]:
    """`url` once for each number of its first range, and so on."""
    match = _RANGE.search(url)
    if match is None:
        yield url
        return
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + _MOST_ENDPOINTS:
        raise ConfigError(f"a range of endpoints must lead upwards, by less than {_MOST_ENDPOINTS}: {match[0]}")
    for number in range(first, last + 1):
        yield from _spelled_out(f"{url[: match.start()]}{number:0{len(match[1])}}{url[match.end() :]}")
