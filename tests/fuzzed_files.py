"""What :mod:`.fuzzing` makes of files: weights, arrays, archives, and their indexes, each read beside what others read.

However much a file promises, it is given no more memory, and read no more often, than its own length allows.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy

from s3dlio import stored
from s3dlio.alignment.allocator import CachingAllocator
from s3dlio.archives import Member, Window, content_of, tar_members, zip_members
from s3dlio.blocking.store import BlockingStore
from s3dlio.config import Config
from s3dlio.errors import ChecksumError, ErrorContext, FormatError, UnsupportedError
from s3dlio.model import ObjectMeta
from s3dlio.numpy import npz
from s3dlio.numpy.arrays import find_header, read_array
from s3dlio.numpy.npz import NpzFile
from s3dlio.safetensors import header as weights
from s3dlio.shards.members import Index, parse_index
from s3dlio.shards.samples import find_samples
from s3dlio.urls import Uri

from .arrays.content import facts, file_of

CONTEXT = ErrorContext("load", "bucket", "file")
_INFLATED = 1100
"""Times as long as what it was made of, at most."""
_LEAST = 64 << 10
_ARRAYS = [
    np.arange(6, dtype="<f4").reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3)),
    np.array([(1, 2.0)], [("a", "u1"), ("b\xe9", "<f8")]),
    np.array(True),
]
_FILES = [("a/0.txt", b"hello"), ("a/0.json", b"{}" * 300), ("b/\xe9.bin", b""), ("b/1.txt", b"12345678")]


def _npy(array: Any, version: tuple[int, int]) -> bytes:
    return file_of(lambda file: np.lib.format.write_array(file, array, version))


def _tar(kind: int) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=kind) as archive:
        for name, content in [*_FILES, (f"{'c' * 60}/{'d' * 60}", b"long")]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def _zip(method: int) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as archive:
        for name, content in _FILES:
            archive.writestr(name, content)
        with archive.open("long", "w", force_zip64=True) as member:
            member.write(b"x" * 50)
    return data.getvalue()


NPY = [_npy(array, version) for array, version in zip(_ARRAYS, [(1, 0), (2, 0), (3, 0), (1, 0)], strict=True)]
NPZ = [file_of(write, *_ARRAYS[:2], named=_ARRAYS[2]) for write in (np.savez, np.savez_compressed)]
TARS = [_tar(kind) for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)]
ZIPS = [_zip(method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]
WEIGHTS = [
    safetensors.numpy.save({"a": _ARRAYS[0], "b.\xe9": np.arange(5, dtype="u1")}, {"format": "pt"}),
    safetensors.numpy.save({"scalar": np.array(3.0), "none": np.zeros((0, 4), "f2")}),
    safetensors.numpy.save({}),
]
WEIGHTS_HEADERS = [each[weights.LENGTH : weights.header_end(each, len(each), CONTEXT)] for each in WEIGHTS]
WEIGHTS_INDEXES = [
    b'{"metadata": {"total_size": 3}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
]
_ETAG = '"e"'
_SHARDS = TARS[0], ZIPS[1]


def _window(data: bytes) -> Window:
    reads = []

    def fetch(start: int, end: int) -> bytes:
        reads.append(start)
        assert len(reads) <= 20 + len(data) // tarfile.BLOCKSIZE, "read again and again"
        return data[start:end]

    return Window(fetch, len(data), CONTEXT)


SHARD_INDEXES = [
    Index.of(find(_window(shard)), _ETAG, len(shard)).to_json()
    for find, shard in zip((tar_members, zip_members), _SHARDS, strict=True)
]


class _Bounded(CachingAllocator):
    def __init__(self, most: int) -> None:
        super().__init__(0)
        self._most = most

    def allocate(self, size: int) -> Any:
        assert size <= self._most, "more than the file can hold"
        return super().allocate(size)


def _object(data: bytes) -> stored.StoredObject:
    """One that is in memory as a whole: nothing is asked for."""
    return stored.StoredObject(
        BlockingStore(Uri("memory", "fuzzed", ""), Config()), ObjectMeta("file", len(data)), data
    )


def _found_by(model: Callable[[], Any]) -> Any:
    """`None` where it refuses a file: both compare what the other does not."""
    try:
        return model()
    except Exception:  # of a stranger's bytes it may raise anything
        return None


def _agree(found: Any, model: Callable[[], Any]) -> None:
    expected = _found_by(model)
    assert expected is None or found == expected


def read_weights(data: bytes) -> None:
    """What is taken, the original takes, too, and finds the same in it."""
    end = weights.header_end(data, len(data), CONTEXT)
    found = weights.parse_header(data[weights.LENGTH : end], len(data), CONTEXT)
    tensors = {name: (each.dtype, [*each.shape], data[each.start : each.end]) for name, each in found.tensors.items()}
    original = safetensors.deserialize(data)
    assert tensors == {name: (each["dtype"], each["shape"], bytes(each["data"])) for name, each in original}


def read_weights_header(text: bytes) -> None:
    """The same of an object that has this header, and as many bytes after it as the first of `WEIGHTS`."""
    read_weights(len(text).to_bytes(weights.LENGTH, "little") + text + bytes(29))


def read_weights_index(data: bytes) -> None:
    """Names of tensors, and of objects beside the index."""
    for name, place in weights.parse_index(data, CONTEXT).items():
        assert b"/" not in place.encode()
        name.encode()


def read_npy(data: bytes) -> None:
    """The array that numpy finds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "allocator", lambda: _Bounded(len(data)))
        found = _object(data)
        if not find_header(found, allow_pickle=False).dtype.hasobject:
            array = facts(read_array(found, allow_pickle=False))
            _agree(array, lambda: facts(np.lib.format.read_array(io.BytesIO(data))))


def read_npz(data: bytes) -> None:
    """The arrays that numpy finds; none is a pickle."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (stored, npz):
            patch.setattr(module, "allocator", lambda: _Bounded(_LEAST + _INFLATED * len(data)))
        patch.setattr(stored.StoredObject, "without_head", lambda found: found)
        opened = NpzFile(_object(data), allow_pickle=False)
        try:
            found = {name: _told(opened[name]) for name in opened}
        except ValueError as error:
            if isinstance(error, FormatError) or "allow_pickle" not in str(error):
                raise
            return
    _agree(found, lambda: {name: _told(each) for name, each in np.load(io.BytesIO(data)).items()})


def _told(content: Any) -> Any:
    return content if isinstance(content, bytes) else facts(content)


def _contents(members: list[Member], data: bytes) -> list[tuple[str, bytes]]:
    def allocate(size: int) -> memoryview:
        assert size <= _INFLATED * len(data), "more than the file can hold"
        return memoryview(bytearray(size))

    view = memoryview(data)
    return [(each.name, bytes(content_of(each, view[each.start : each.end], CONTEXT, allocate))) for each in members]


def read_tar(data: bytes) -> None:
    """The files that tarfile finds."""

    def model() -> list[tuple[str, bytes]]:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            read = archive.extractfile
            return [(info.name, read(info).read()) for info in archive if info.isreg()]  # type: ignore[union-attr]

    _agree(_contents(tar_members(_window(data)), data), model)


def read_zip(data: bytes) -> None:
    """The files that zipfile finds."""

    def model() -> list[tuple[str, bytes]]:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = [info for info in archive.infolist() if not info.filename.endswith("/")]
            return [(info.filename, archive.read(info)) for info in sorted(infos, key=lambda info: info.header_offset)]

    _agree(_contents(zip_members(_window(data)), data), model)


def read_shard_index(data: bytes) -> None:
    """Members that lie in the shard one after the other, or nothing; their content, or an error."""
    for shard in _SHARDS:
        index = parse_index(data, _ETAG, len(shard))
        if index is None:
            continue
        kept = parse_index(index.to_json(), _ETAG, len(shard))
        assert kept is not None
        assert [*kept] == [*index]
        assert all(0 <= each.start <= each.end <= len(shard) for each in index)
        find_samples(index.names, CONTEXT)
        _contents([*index], shard)


_REFUSED = FormatError, ChecksumError, UnsupportedError
FILES: dict[str, tuple[Callable[[bytes], None], list[bytes], tuple[type[Exception], ...]]] = {
    "weights": (read_weights, WEIGHTS, (FormatError,)),
    "weights header": (read_weights_header, WEIGHTS_HEADERS[:1], (FormatError,)),
    "weights index": (read_weights_index, WEIGHTS_INDEXES, (FormatError,)),
    "npy": (read_npy, NPY, (FormatError,)),
    "npz": (read_npz, NPZ, _REFUSED),
    "tar": (read_tar, TARS, _REFUSED),
    "zip": (read_zip, ZIPS, _REFUSED),
    "shard index": (read_shard_index, SHARD_INDEXES, _REFUSED),
}
"""Of each kind of file: what reads it, some that are sound, and by which errors one may be refused."""
