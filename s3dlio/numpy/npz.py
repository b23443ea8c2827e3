"""Several arrays in one `.npz`: a zip whose members are `.npy`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from ..archives import Member, Window, content_of, zip_members
from ..blocking.memory import allocator
from ..stored import StoredObject
from .arrays import find_header, unpickled
from .header import MAGIC

_ALIGNED = 64
_LOCAL_HEADER = 30 + 20
"""Bytes before an array that numpy writes, without its name: with the lengths of zip64, APPNOTE 4.5.3."""


class NpzFile(Mapping[str, Any]):
    """The arrays of an `.npz`, by their names, with or without `.npy`; a member that is no array is bytes.

    Each is fetched when it is looked at, by one read, held to the version that was there at first, and compared with
    the zip's CRC-32. Nothing is kept: who looks twice fetches twice. It can be pickled; one is made by
    :func:`s3dlio.numpy.load`, of what is `stored`; arrays of Python objects are loaded where `allow_pickle` is true.

    Errors: `KeyError`; `ChecksumError`, `FormatError`, and `UnsupportedError` for encrypted members and those that are
    neither stored nor deflated; `ObjectChangedError`; `StoreError`.
    """

    def __init__(self, stored: StoredObject, *, allow_pickle: bool) -> None:
        window = Window(stored.read, stored.meta.size, stored.context)
        self._stored = stored.without_head()
        self._allow_pickle = allow_pickle
        self._members = {member.name: member for member in zip_members(window)}

    @property
    def files(self) -> list[str]:
        """The names, without `.npy`."""
        return [name.removesuffix(".npy") for name in self._members]

    def __getitem__(self, name: str, /) -> Any:
        return self._array(self._members.get(name) or self._members[f"{name}.npy"])

    def _array(self, member: Member) -> Any:
        content = content_of(member, self._received(member), self._stored.context, _allocate)
        if content[: len(MAGIC)] != MAGIC:
            return bytes(content)
        unpacked = replace(self._stored, meta=replace(self._stored.meta, size=len(content)), head=content)
        header = find_header(unpacked, allow_pickle=self._allow_pickle)
        if header.dtype.hasobject:
            return unpickled(content, allow_pickle=self._allow_pickle)
        return header.array(content)

    def _received(self, member: Member) -> memoryview:
        """Its bytes, so placed that an array is aligned where the header before it is numpy's own."""
        unaligned = -(_LOCAL_HEADER + len(member.name.encode())) % _ALIGNED
        return self._stored.received(member.start, member.end, skip=unaligned).data

    def __contains__(self, name: object) -> bool:
        return name in self._members or f"{name}.npy" in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self._members)

    def close(self) -> None:
        """Do nothing, as nothing is held: for programs that close what they load."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<NpzFile {self._stored.uri} with keys: {', '.join(self.files[:5])}{', ...' * (len(self) > 5)}>"


def _allocate(size: int) -> memoryview:
    return allocator().allocate(size).data
