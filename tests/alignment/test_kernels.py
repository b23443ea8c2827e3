"""Every kernel that this machine can run, against the plain twin, AWS's implementation and published vectors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import awscrt.checksums
import llvmlite.binding as llvm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite import ir

from s3dlio.alignment import kernels
from s3dlio.alignment.checksum import CRC32, CRC32C, CRC64NVME, Polynomial, kernel_for

from . import naive

WIDTHS = [lanes for lanes in (0, 1, 2, 4) if lanes <= kernels.host_lanes()]
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

every_kernel = pytest.mark.parametrize("lanes", WIDTHS)
every_polynomial = pytest.mark.parametrize("polynomial", CHECK_VALUES, ids=lambda polynomial: polynomial.name)


@every_kernel
@every_polynomial
def test_check_value(polynomial: Polynomial, lanes: int) -> None:
    assert kernel_for(polynomial, lanes)(memoryview(b"123456789"), 0) == CHECK_VALUES[polynomial]


@every_kernel
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
def test_vectors_of_rfc_3720_b4(data: bytes, expected: int, lanes: int) -> None:
    assert kernel_for(CRC32C, lanes)(memoryview(data), 0) == expected


@every_kernel
@every_polynomial
def test_every_length_across_the_first_blocks(polynomial: Polynomial, lanes: int) -> None:
    kernel = kernel_for(polynomial, lanes)
    data = RANDOM[:1100]
    value = 0
    for length in range(1, len(data) + 1):
        value = NAIVE[polynomial](data[length - 1 : length], value)
        assert kernel(memoryview(data)[:length], 0) == value, length


@every_kernel
@every_polynomial
@settings(deadline=None)
@given(data=st.binary(max_size=700), offset=st.integers(0, 70), value=st.integers(0, 2**32 - 1))
def test_any_bytes_at_any_address_from_any_value(
    polynomial: Polynomial, lanes: int, data: bytes, offset: int, value: int
) -> None:
    view = memoryview(bytearray(b"\xaa" * offset + data + b"\x55" * 9))[offset : offset + len(data)]
    assert kernel_for(polynomial, lanes)(view, value) == NAIVE[polynomial](data, value)


@every_kernel
@every_polynomial
@settings(deadline=None)
@given(start=st.integers(0, 100), length=st.integers(0, len(RANDOM) - 100))
def test_megabytes_against_the_oracle(polynomial: Polynomial, lanes: int, start: int, length: int) -> None:
    data = RANDOM[start : start + length]
    assert kernel_for(polynomial, lanes)(memoryview(data), 0) == ORACLE[polynomial](data, 0)


@pytest.mark.parametrize(
    ("settings", "lanes"),
    [
        ({"NUMBA_DISABLE_JIT": "1"}, 0),
        ({"NUMBA_CPU_NAME": "generic"}, 0),
        ({"NUMBA_ENABLE_AVX": "0"}, min(1, kernels.host_lanes())),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_narrower_machines(settings: dict[str, str], lanes: int) -> None:
    program = """if True:
        import os
        from s3dlio.alignment import crc32c, crc64nvme, kernels
        from tests.alignment import naive
        data = bytes(range(256)) * 5
        for length in (0, 1, 7, 8, 9, 31, 257, 1280):
            assert crc32c(data[:length]) == naive.crc32c(data[:length]), length
            assert crc64nvme(data[:length]) == naive.crc64nvme(data[:length]), length
            rest = memoryview(data)[length:]  # at odd addresses, too
            assert crc64nvme(rest, crc64nvme(data[:length])) == naive.crc64nvme(data), length
        print(kernels.host_lanes())
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == (str(lanes), "")


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
