"""File systems around a file system, for two moments of a save that PyTorch would get wrong on a store."""

from __future__ import annotations

import io
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


class Around:
    """A file system around `inner`: what a subclass does not change is as there."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Watched(Around):
    """While files are written: remembers how streams failed. PyTorch drops the errors of the threads it starts."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.failures: list[BaseException] = []

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Generator[Any, None, None]:
        try:
            with self._inner.create_stream(path, mode) as stream:
                yield stream
        except BaseException as error:
            self.failures.append(error)
            raise


class OneStep(Around):
    """While a checkpoint is published: what is written under a temporary name appears at once under its own.

    PyTorch writes a temporary file, removes the old one and renames; in between there is neither. Here the temporary
    file is memory, and the rename is the one write, which replaces the old object whole.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self._written: dict[str, io.BytesIO] = {}

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Generator[io.BytesIO, None, None]:
        yield self._written.setdefault(str(path), io.BytesIO())

    def exists(self, path: Any) -> bool:
        return False  # PyTorch removes what exists before it renames

    def rename(self, old_path: Any, new_path: Any) -> None:
        with self._inner.create_stream(new_path, "wb") as stream:
            stream.write(self._written.pop(str(old_path)).getbuffer())
