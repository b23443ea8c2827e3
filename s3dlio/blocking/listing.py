"""Listings as sequences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import chain
from typing import overload

from ..endpoint_stats import size_text
from ..model import Decoded, ObjectMeta

_SHOWN = 20
_HEAD = ("key", "size", "last modified", "etag")


class Listing(Sequence[ObjectMeta]):
    """Objects of a bucket, whose URI is `root`, as a sequence that asks for them when they are looked at.

    Going through it asks for page after page, anew each time, and keeps none: a bucket of any size can be gone through.
    Its length, an index, a comparison or showing it ask for everything, once, and keep that. It is shown as a table,
    and `pandas.DataFrame(listing)` makes one of it. `pages` begins a new pass. Errors: `StoreError` of a page where it
    is asked for.
    """

    def __init__(self, root: str, pages: Callable[[], Iterator[Sequence[ObjectMeta]]]) -> None:
        self._root = root
        self._pages = pages
        self._objects: list[ObjectMeta] | None = None

    @property
    def uris(self) -> Sequence[str]:
        """Their URIs, for verbs that take many."""
        return Decoded(self, lambda meta: f"{self._root}/{meta.key}")

    def _all(self) -> list[ObjectMeta]:
        if self._objects is None:
            self._objects = [*chain.from_iterable(self._pages())]
        return self._objects

    def __iter__(self) -> Iterator[ObjectMeta]:
        return iter(self._objects) if self._objects is not None else chain.from_iterable(self._pages())

    def __len__(self) -> int:
        return len(self._all())

    def __bool__(self) -> bool:
        return next(iter(self), None) is not None

    @overload
    def __getitem__(self, i: int) -> ObjectMeta: ...
    @overload
    def __getitem__(self, i: slice) -> list[ObjectMeta]: ...
    def __getitem__(self, i: int | slice) -> ObjectMeta | list[ObjectMeta]:
        return self._all()[i]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._all() == [*other]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        rows = [_HEAD, *map(_row, self._all()[:_SHOWN])]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join([*lines, *self._more(), self._total()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in _HEAD)
        rows = ("".join(f"<td>{escape(cell)}</td>" for cell in _row(meta)) for meta in self._all()[:_SHOWN])
        table = f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
        return table + "".join(f"<p>{escape(text)}</p>" for text in (*self._more(), self._total()))

    def _more(self) -> list[str]:
        return [f"... and {len(self) - _SHOWN:,} more"] if len(self) > _SHOWN else []

    def _total(self) -> str:
        return f"{len(self):,} objects of {self._root}, {size_text(sum(meta.size for meta in self))}"


def _row(meta: ObjectMeta) -> tuple[str, ...]:
    when = f"{meta.last_modified:%Y-%m-%d %H:%M:%S}" if meta.last_modified is not None else ""
    return meta.key, size_text(meta.size), when, meta.etag or ""
