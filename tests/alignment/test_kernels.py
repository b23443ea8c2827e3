"""Every kernel that this machine can run, and numpy, against the plain twin, AWS's code and published vectors."""

from __future__ import annotations

import functools
from collections.abc import Callable

import awscrt.checksums
import llvmlite.binding as llvm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir

from s3dlio.alignment import kernels
from s3dlio.alignment.checksum import kernel_for
from s3dlio.alignment.compiled import Kernel
from s3dlio.alignment.polynomial import CRC32, CRC32C, CRC64NVME, Polynomial

from ..interpreter import run_python
from . import naive

WAYS = ["rows", *(f"crc{lanes}" for lanes in (0, 1, 2, 4) if lanes <= kernels.host_lanes())]
"""numpy's, and the kernels by their numbers of lanes."""
NAIVE: dict[Polynomial, Callable[[bytes, int], int]] = {
    CRC32: naive.crc32,
    CRC32C: naive.crc32c,
    CRC64NVME: naive.crc64nvme,
}
ORACLE: dict[Polynomial, Callable[[bytes, int], int]] = {
    CRC32: awscrt.checksums.crc32,
    CRC32C: awscrt.checksums.crc32c,
    CRC64NVME: awscrt.checksums.crc64nvme,
}
CHECK_VALUES = {CRC32: 0xCBF43926, CRC32C: 0xE3069283, CRC64NVME: 0xAE8B14860A799888}
RANDOM = np.random.default_rng(1).bytes(3 << 20)

every_way = pytest.mark.parametrize("way", WAYS)
every_polynomial = pytest.mark.parametrize("polynomial", CHECK_VALUES, ids=lambda polynomial: polynomial.name)


@pytest.fixture(autouse=True)
def numba_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_DISABLE_JIT", raising=False)


@functools.cache
def _computing(polynomial: Polynomial, way: str) -> Callable[[memoryview, int], int]:
    kernel = Kernel("s3dlio.alignment.kernels" if way != "rows" else "absent", way)
    kernel.address()
    assert kernel.wait(100) is (way != "rows")
    return kernel_for(polynomial, kernel)


@every_way
@every_polynomial
def test_check_value(polynomial: Polynomial, way: str) -> None:
    assert _computing(polynomial, way)(memoryview(b"123456789"), 0) == CHECK_VALUES[polynomial]


@every_way
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (
            bytes.fromhex(
                "01c000000000000000000000000000001400000000000400000000140000001828000000000000000200000000000000"
            ),
            0xD9963A56,
        ),
    ],
    ids=["zeros", "ones", "increasing", "decreasing", "iscsi-read"],
)
def test_vectors_of_rfc_3720_b4(data: bytes, expected: int, way: str) -> None:
    assert _computing(CRC32C, way)(memoryview(data), 0) == expected


@every_way
@every_polynomial
def test_every_length_across_the_first_blocks(polynomial: Polynomial, way: str) -> None:
    kernel = _computing(polynomial, way)
    data = RANDOM[:1100]
    value = 0
    for length in range(1, len(data) + 1):
        value = NAIVE[polynomial](data[length - 1 : length], value)
        assert kernel(memoryview(data)[:length], 0) == value, length


@every_way
@every_polynomial
@settings(deadline=None)
@given(data=st.binary(max_size=700), offset=st.integers(0, 70), value=st.integers(0, 2**32 - 1))
def test_any_bytes_at_any_address_from_any_value(
    polynomial: Polynomial, way: str, data: bytes, offset: int, value: int
) -> None:
    view = memoryview(bytearray(b"\xaa" * offset + data + b"\x55" * 9))[offset : offset + len(data)]
    assert _computing(polynomial, way)(view, value) == NAIVE[polynomial](data, value)


@every_way
@every_polynomial
@settings(deadline=None)
@given(start=st.integers(0, 100), length=st.integers(0, len(RANDOM) - 100))
def test_megabytes_against_the_oracle(polynomial: Polynomial, way: str, start: int, length: int) -> None:
    data = RANDOM[start : start + length]
    assert _computing(polynomial, way)(memoryview(data), 0) == ORACLE[polynomial](data, 0)


@every_way
@every_polynomial
def test_lengths_about_whole_rows(polynomial: Polynomial, way: str) -> None:
    computing = _computing(polynomial, way)
    for length in (8 * n + extra for n in (4095, 4096, 4097, 8192, 12288) for extra in (-1, 0, 1)):
        assert computing(memoryview(RANDOM)[3 : 3 + length], 7) == ORACLE[polynomial](RANDOM[3 : 3 + length], 7), length


@pytest.mark.parametrize(
    ("variable", "value", "lanes"),
    [("NUMBA_CPU_NAME", "generic", 0), ("NUMBA_ENABLE_AVX", "0", min(1, kernels.host_lanes()))],
)
def test_narrower_machines(variable: str, value: str, lanes: int) -> None:
    program = """if True:
        from s3dlio.alignment import checksum, kernels
        from tests.alignment import naive
        data = bytes(range(256)) * 5
        for by_kernel in (False, True):
            for length in (1, 7, 8, 9, 31, 257, 1280):
                assert checksum.crc32c(data[:length]) == naive.crc32c(data[:length]), length
                assert checksum.crc64nvme(data[:length]) == naive.crc64nvme(data[:length]), length
                rest = memoryview(data)[length:]  # at odd addresses, too
                assert checksum.crc64nvme(rest, checksum.crc64nvme(data[:length])) == naive.crc64nvme(data), length
            assert checksum.KERNEL.wait(100)
        print(kernels.host_lanes())
    """
    done = run_python(program, NUMBA_DISABLE_JIT="0", **{variable: value})
    assert (done.stdout.strip(), done.stderr) == (str(lanes), "")


def test_another_compiled_function_folds_in_passing() -> None:
    program = """if True:
        import awscrt.checksums
        import numpy as np
        from numba import njit
        from s3dlio.alignment import kernels
        from s3dlio.alignment.polynomial import CRC64NVME, addresses
        folding = kernels.crc_function(kernels.host_lanes())

        @njit(error_model="numpy")
        def copy(source, target, crc, table, constants):
            target[:] = source
            return folding(target.ctypes.data, target.size, crc, table, constants)

        source, target = np.arange(5000, dtype=np.uint8), np.empty(5000, np.uint8)
        crc = copy(source, target, np.uint64(CRC64NVME.ones), *addresses(CRC64NVME))
        print(crc ^ CRC64NVME.ones == awscrt.checksums.crc64nvme(source.tobytes()))
    """
    done = run_python(program, NUMBA_DISABLE_JIT="0")
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_fold_for_aarch64_uses_its_multiplier() -> None:
    module = ir.Module()
    word, pointer = ir.IntType(64), ir.IntType(8).as_pointer()
    pair = ir.LiteralStructType([word, word])
    function = ir.Function(module, ir.FunctionType(pair, [pointer, word, word, pointer]), "fold")
    builder = ir.IRBuilder(function.append_basic_block())
    words = kernels.FoldWriter(builder, 1, "aarch64").write(*function.args)
    builder.ret(builder.insert_value(builder.insert_value(ir.Constant(pair, ir.Undefined), words[0], 0), words[1], 1))

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple("aarch64-linux-gnu")
    machine = target.create_target_machine(features="+aes", opt=3)
    assembly = machine.emit_assembly(llvm.parse_assembly(str(module)))
    # 8 accumulators in the loop, 7 folded into the last after it, two multiplications each
    assert assembly.count("pmull") == 2 * (8 + 7)
