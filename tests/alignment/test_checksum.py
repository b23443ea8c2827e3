from __future__ import annotations

import array
import base64
import ctypes
import os
import threading
import weakref
import zlib
from collections.abc import Callable
from typing import Any

import awscrt.checksums
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3dlio.alignment import ALGORITHMS, Checksum, combine, crc32c, crc64nvme
from s3dlio.alignment.checksum import KERNEL, RELEASE_FROM, ZLIB_BELOW, Fold
from s3dlio.alignment.polynomial import Polynomial, addresses, constants, table
from s3dlio.errors import UnsupportedError

from ..interpreter import run_python
from . import naive

ORACLE: dict[str, Callable[[bytes], int]] = {
    "CRC32": zlib.crc32,
    "CRC32C": awscrt.checksums.crc32c,
    "CRC64NVME": awscrt.checksums.crc64nvme,
}

every_algorithm = pytest.mark.parametrize("algorithm", ORACLE)


def test_algorithms_are_spelled_as_s3_spells_them() -> None:
    assert list(ALGORITHMS) == ["CRC32", "CRC32C", "CRC64NVME"]


def test_one_shot() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc64nvme(b"123456789") == 0xAE8B14860A799888
    assert crc32c(b"") == crc64nvme(b"") == 0
    assert crc32c(b"6789", crc32c(b"12345")) == 0xE3069283
    assert crc64nvme(b"6789", crc64nvme(b"12345")) == 0xAE8B14860A799888


def test_digest_and_base64_are_big_endian() -> None:
    checksum = Checksum("CRC32C", b"123456789")
    assert checksum.value == 0xE3069283
    assert checksum.digest() == bytes.fromhex("e3069283")
    assert checksum.base64 == "4waSgw=="
    assert repr(checksum) == "<Checksum CRC32C 4waSgw== of 9 bytes>"
    assert Checksum("CRC64NVME", b"123456789").digest() == bytes.fromhex("ae8b14860a799888")
    assert base64.b64decode(Checksum("CRC32").base64) == bytes(4)


@every_algorithm
@settings(deadline=None)
@given(pieces=st.lists(st.binary(max_size=400), max_size=6))
def test_updates_split_anywhere(algorithm: str, pieces: list[bytes]) -> None:
    checksum = Checksum(algorithm)
    for piece in pieces:
        checksum.update(piece)
    whole = b"".join(pieces)
    assert checksum.value == ORACLE[algorithm](whole) == getattr(naive, algorithm.lower())(whole)
    assert checksum.length == len(whole)


@every_algorithm
@settings(deadline=None)
@given(left=st.binary(max_size=400), right=st.binary(max_size=400), more=st.binary(max_size=40))
def test_combine(algorithm: str, left: bytes, right: bytes, more: bytes) -> None:
    joined = Checksum(algorithm, left).combine(Checksum(algorithm, right))
    joined.update(more)
    assert joined.value == ORACLE[algorithm](left + right + more)
    assert joined.length == len(left + right + more)


@every_algorithm
@settings(deadline=None)
@given(crcs=st.tuples(*[st.integers(0, 2**32 - 1)] * 3), lengths=st.tuples(*[st.integers(0, 2**50)] * 2))
def test_combine_is_associative_up_to_any_length(
    algorithm: str, crcs: tuple[int, int, int], lengths: tuple[int, int]
) -> None:
    (a, b, c), (len_b, len_c) = crcs, lengths
    left_first = combine(algorithm, combine(algorithm, a, b, len_b), c, len_c)
    assert left_first == combine(algorithm, a, combine(algorithm, b, c, len_c), len_b + len_c)


def test_combine_of_multipart_upload() -> None:
    part = np.random.default_rng(2).bytes(8 << 20)
    whole = Checksum("CRC64NVME")
    for _ in range(3):
        whole = whole.combine(Checksum("CRC64NVME", part))
    assert whole.value == awscrt.checksums.crc64nvme(part * 3)


@pytest.mark.parametrize(
    "data",
    [
        b"123456789",
        bytearray(b"123456789"),
        memoryview(b"..123456789")[2:],
        memoryview(bytearray(b"123456789")).toreadonly(),
        np.frombuffer(b"123456789", np.uint8),
        array.array("b", b"123456789"),
        memoryview(b"123456789").cast("B", (3, 3)),
    ],
    ids=["bytes", "bytearray", "slice", "readonly", "numpy", "array", "two-dimensional"],
)
@pytest.mark.parametrize("algorithm", ORACLE)
def test_any_contiguous_buffer(algorithm: str, data: Any) -> None:
    assert Checksum(algorithm, data).value == ORACLE[algorithm](b"123456789")


def test_items_wider_than_a_byte() -> None:
    numbers: Any = np.arange(1000, dtype=np.float64).reshape(10, 100)
    checksum = Checksum("CRC32C", numbers)
    assert checksum.value == awscrt.checksums.crc32c(numbers.tobytes())
    assert checksum.length == 8000
    assert crc32c(numbers[:0]) == 0


@every_algorithm
def test_memory_with_gaps_is_refused(algorithm: str) -> None:
    with pytest.raises(ValueError, match=r"contiguous memory, not strides of \(2,\) bytes"):
        Checksum(algorithm, memoryview(b"123456789")[::2])
    by_columns: Any = np.asfortranarray(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="contiguous"):
        Checksum(algorithm, by_columns)


def test_wrong_arguments() -> None:
    with pytest.raises(UnsupportedError, match="unknown checksum algorithm 'SHA1'; known are CRC32, CRC32C, CRC64NVME"):
        Checksum("SHA1")
    with pytest.raises(UnsupportedError, match="crc32c"):
        combine("crc32c", 1, 2, 3)
    with pytest.raises(ValueError, match="cannot combine CRC32 with CRC32C"):
        Checksum("CRC32").combine(Checksum("CRC32C"))
    with pytest.raises(ValueError, match="negative: -1"):
        combine("CRC32", 1, 2, -1)
    with pytest.raises(ValueError, match="not a CRC32C value: 0x100000000"):
        combine("CRC32C", 1, 1 << 32, 1)
    with pytest.raises(ValueError, match="not a CRC64NVME value: -0x1"):
        crc64nvme(b"a", -1)


def test_threads_that_compute_at_once() -> None:
    data = np.random.default_rng(3).bytes(1 << 20)
    values: list[int] = []
    threads = [threading.Thread(target=lambda: values.append(crc64nvme(data))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == [awscrt.checksums.crc64nvme(data)] * 8


def test_numpy_is_imported_where_there_is_no_kernel_only() -> None:
    program = """if True:
        import sys
        import s3dlio.alignment as alignment
        heavy = {"numba", "numpy", "llvmlite", "torch"}
        alignment.AlignedBuffer(1), alignment.fresh_bytes(1), alignment.Checksum("CRC32", b"a"), alignment.crc32c(b"")
        alignment.DirectFile
        print(sorted(heavy & set(sys.modules)))
        alignment.checksum.KERNEL.address()
        alignment.checksum.KERNEL.wait(100)
        alignment.crc32c(b"a")
        print(sorted(heavy & set(sys.modules)))
    """
    done = run_python(program, NUMBA_DISABLE_JIT="0")
    assert (done.stdout.splitlines(), done.stderr) == (["[]", "['llvmlite']"], "")


def test_numba_switched_off() -> None:
    program = """if True:
        import awscrt.checksums
        from s3dlio.alignment import checksum
        data = bytes(range(256)) * 5000
        assert checksum.crc32c(data) == awscrt.checksums.crc32c(data)
        assert checksum.crc64nvme(data) == awscrt.checksums.crc64nvme(data)
        assert checksum.Checksum("CRC32", data).value == awscrt.checksums.crc32(data)
        print(checksum.KERNEL.wait(100))
    """
    done = run_python(program, NUMBA_DISABLE_JIT="1")
    assert (done.stdout, done.stderr) == ("False\n", "")


@every_algorithm
def test_with_and_without_the_interpreter_lock(algorithm: str) -> None:
    Checksum("CRC32C", b"a")
    assert KERNEL.wait(100) is ("NUMBA_DISABLE_JIT" not in os.environ)
    for size in (ZLIB_BELOW - 1, ZLIB_BELOW, RELEASE_FROM - 1, RELEASE_FROM):
        data = np.random.default_rng(size).bytes(size)
        assert Checksum(algorithm, data).value == ORACLE[algorithm](data)


@every_algorithm
@given(st.lists(st.binary(max_size=300), max_size=4))
def test_a_fold_is_gone_on_with_where_its_words_say(algorithm: str, pieces: list[bytes]) -> None:
    fold = Fold(algorithm)
    for piece in pieces:
        fold.add(memoryview(piece))
    data = b"".join(pieces)
    assert (fold.value, fold.length) == (ORACLE[algorithm](data), len(data))
    register, *places = (ctypes.c_uint64 * 3).from_address(fold.address)
    assert register ^ ALGORITHMS[algorithm].ones == fold.value
    assert tuple(places) == addresses(ALGORITHMS[algorithm])


def test_what_has_an_address_stays_where_another_thread_replaces_it_in_the_cache() -> None:
    polynomial = Polynomial("CRC-32D", 32, 0xD419CC15)
    kept = weakref.ref(table(polynomial)), weakref.ref(constants(polynomial))
    addresses(polynomial)
    for cached in (table, constants):
        cached.cache_clear()
    assert all(each() is not None for each in kept)
