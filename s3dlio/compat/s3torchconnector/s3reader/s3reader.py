"""What every reader is: a read-only binary file over one object."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class S3Reader(ABC, io.BufferedIOBase):
    """A read-only file over one object. Nothing is requested before the first read or seek.

    Every error in accessing S3 is an `S3Exception`.
    """

    @property
    @abstractmethod
    def bucket(self) -> str:
        """Name of the bucket."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Name of the object in its bucket."""

    @abstractmethod
    def read(self, size: int | None = None) -> bytes:
        """At most `size` bytes, everything that is left where it is `None` or negative; `b""` at the end."""

    @abstractmethod
    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position and return it. A position beyond the end is the end."""

    @abstractmethod
    def tell(self) -> int:
        """The position. No request is made."""

    @abstractmethod
    def readinto(self, buf: WriteableBuffer) -> int:
        """Fill `buf`, a writable buffer, and return the count of bytes; 0 at the end."""

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def writable(self) -> bool:
        """False."""
        return False
