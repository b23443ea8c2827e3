"""Directories as stores, past the page cache: `direct:///directory/`."""

from __future__ import annotations

from typing import ClassVar

from ...alignment.direct import BLOCK, BounceBuffers, BufferedFile, DirectFile, DirectStats
from ...config import Config
from .store import LocalStore


class DirectStore(LocalStore):
    """`direct:///directory`: a :class:`LocalStore` of the directory `root` that moves bodies with `O_DIRECT`.

    Up to `config.parts_in_flight` blocks of a file are under way at once, and up to `config.file_threads` of all files.
    What is read into, or written from, page-aligned memory (a lease of a `BufferPool`) is not copied. `stats` counts
    what went through the page cache after all; the first file for which the file system refuses direct I/O also warns.
    A copy is made by the kernel, through the cache.
    """

    scheme: ClassVar[str] = "direct"
    _block: ClassVar[int] = BLOCK

    def __init__(self, root: str, config: Config | None = None) -> None:
        super().__init__(root, config)
        self.direct_stats = DirectStats()
        self._bounce = BounceBuffers()
        self._reads_cache = False
        self._lanes = min(self._config.parts_in_flight, self._config.file_threads)

    def _open_file(self, fd: int) -> BufferedFile:
        return DirectFile(fd, stats=self.direct_stats, bounce=self._bounce)
