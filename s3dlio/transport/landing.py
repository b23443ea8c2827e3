"""Where the body of an answer goes, as a connection sees it."""

from __future__ import annotations

from typing import Protocol

from ..alignment.checksum import Fold
from .http1 import Head


class Landing(Protocol):
    """Where the body of a successful answer goes."""

    filled: int
    """How many bytes have landed since :meth:`place`."""

    fold: Fold | None
    """A checksum of what lands, computed while it does; it may miss some of it: see there. Set by :meth:`place`."""

    skip: int
    """How many bytes of the body come before those that land. Set by :meth:`place`."""

    def place(self, head: Head, length: int) -> memoryview:
        """The view for what is wanted of the object in a body of `length` bytes."""


class Count:
    """A landing for bodies that are only counted."""

    filled = 0
    fold: Fold | None = None
