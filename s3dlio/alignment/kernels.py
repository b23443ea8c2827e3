"""Cyclic redundancy checks at memory speed, compiled by numba.

One kernel serves CRC32, CRC32C and CRC64NVME: all are reflected, so all need the same steps with other constants, and
those come in as arguments (:mod:`.polynomial` computes them).

Theory of operation. A message is a polynomial over GF(2) and its CRC is the remainder modulo P. A 128-bit piece may be
replaced by any piece of the same remainder, so *folding* multiplies it by x^D mod P (two carry-less multiplications,
one per 64-bit half) and adds it to the piece D bits further on. Several accumulators hide the multiplier's latency:
each steps over the whole block, then they are folded into one another. The last 16 bytes and the tail shorter than a
block go through a table (slicing-by-8). See Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
Instruction", Intel 2009, and Kounavis and Berry, "A Systematic Approach to Building High Performance Software-Based CRC
Generators", ISCC 2005.

A piece is two little-endian words. Bit i of a word stands for x^(63-i), so the 127-bit product of two such words,
read as a piece, is their product times x: the constants are one power of x lower than the distance suggests.

The multiplier is chosen from the features numba compiles for: 512, 256 or 128 bits on x86-64, 64 bits on aarch64, else
the table alone. Importing this module imports numba and compiles nothing; :mod:`.compiled` has its kernel compiled
elsewhere, and other kernels can call the same function.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from .polynomial import DISTANCES

PIECE = 16
"""Bytes one carry-less multiplier lane holds."""

_ACCUMULATORS = {1: 8, 2: 4, 4: 4}
_ARM = ("aarch64", "arm64")
_LOW_BYTE = np.uint64(0xFF)
_I32 = ir.IntType(32)
_I64 = ir.IntType(64)
_SIGNATURE = types.uint64(types.int64, types.int64, types.uint64, types.int64, types.int64)


def host_lanes() -> int:
    """Pieces one multiply instruction takes in the code numba makes here: 4, 2, 1, or 0 where there is none."""
    features = set(cpu_target.target_context.codegen().magic_tuple()[2].split(","))
    if platform.machine() in _ARM:
        return int(not features.isdisjoint({"+aes", "+crypto"}))
    if "+pclmul" not in features:
        return 0
    if not features >= {"+vpclmulqdq", "+avx2"}:
        return 1
    return 4 if "+avx512f" in features else 2


def block_size(lanes: int) -> int:
    """Bytes one turn of the folding loop takes."""
    return _ACCUMULATORS[lanes] * lanes * PIECE


def _multiply_x86(builder: ir.IRBuilder, left: ir.Value, right: ir.Value, half: int) -> ir.Value:
    """Per piece, the carry-less product of the low words (`half` 0) or of the high words (1)."""
    name = "llvm.x86.pclmulqdq" + {2: "", 4: ".256", 8: ".512"}[left.type.count]
    signature = ir.FunctionType(left.type, (left.type, left.type, ir.IntType(8)))
    function = cgutils.get_or_insert_function(builder.module, signature, name)
    return builder.call(function, (left, right, ir.Constant(ir.IntType(8), 0x11 * half)))


def _multiply_arm(builder: ir.IRBuilder, left: ir.Value, right: ir.Value, half: int) -> ir.Value:
    """The same on aarch64, whose instruction takes one pair of words."""
    signature = ir.FunctionType(ir.VectorType(ir.IntType(8), PIECE), (_I64, _I64))
    function = cgutils.get_or_insert_function(builder.module, signature, "llvm.aarch64.neon.pmull64")
    words = [builder.extract_element(vector, ir.Constant(_I32, half)) for vector in (left, right)]
    return builder.bitcast(builder.call(function, words), left.type)


class FoldWriter:
    """Writes the folding loop as LLVM IR, since numba has no vector type to say it in Python.

    `data` and `constants` are byte pointers, `size` and `crc` 64-bit integers.
    """

    def __init__(self, builder: ir.IRBuilder, lanes: int, machine: str) -> None:
        self.builder = builder
        self.lanes = lanes
        self.vector = ir.VectorType(_I64, 2 * lanes)
        self.multiply = _multiply_arm if machine in _ARM else _multiply_x86

    def write(self, data: ir.Value, size: ir.Value, crc: ir.Value, constants: ir.Value) -> list[ir.Value]:
        """The two words of the last piece, once `size` bytes (a positive multiple of the block) are folded into it."""
        distances = (block_size(self.lanes), self.lanes * PIECE, PIECE)
        over_block, over_register, over_piece = (self._constants(constants, distance) for distance in distances)
        accumulators = self._loop(data, size, crc, over_block)
        register = accumulators[0]
        for accumulator in accumulators[1:]:
            register = self._fold(register, over_register, accumulator)
        pieces = [self._piece(register, lane) for lane in range(self.lanes)]
        last, over_piece = pieces[0], self._piece(over_piece, 0)
        for piece in pieces[1:]:
            last = self._fold(last, over_piece, piece)
        return [self.builder.extract_element(last, ir.Constant(_I32, half)) for half in (0, 1)]

    def _loop(self, data: ir.Value, size: ir.Value, crc: ir.Value, over_block: ir.Value) -> list[ir.Value]:
        builder, block, count = self.builder, block_size(self.lanes), _ACCUMULATORS[self.lanes]
        first = self._load(data, count)
        seed = builder.insert_element(ir.Constant(self.vector, [0] * self.vector.count), crc, ir.Constant(_I32, 0))
        first[0] = builder.xor(first[0], seed)
        before, body, after = builder.block, builder.append_basic_block("fold"), builder.append_basic_block("folded")
        builder.cbranch(builder.icmp_unsigned("<", ir.Constant(_I64, block), size), body, after)

        builder.position_at_end(body)
        offset = builder.phi(_I64)
        ahead = [builder.phi(self.vector) for _ in range(count)]
        behind = self._load(builder.gep(data, [offset]), count)
        folded = [self._fold(left, over_block, right) for left, right in zip(ahead, behind, strict=True)]
        following = builder.add(offset, ir.Constant(_I64, block))
        builder.cbranch(builder.icmp_unsigned("<", following, size), body, after)

        builder.position_at_end(after)
        result = [builder.phi(self.vector) for _ in range(count)]
        incoming = [(offset, ir.Constant(_I64, block), following)]
        incoming += [(phi, *values) for phi, *values in zip([*ahead, *result], first * 2, folded * 2, strict=True)]
        for phi, at_start, at_turn in incoming:
            phi.add_incoming(at_start, before)
            phi.add_incoming(at_turn, body)
        return result

    def _fold(self, ahead: ir.Value, constants: ir.Value, behind: ir.Value) -> ir.Value:
        low, high = (self.multiply(self.builder, ahead, constants, half) for half in (0, 1))
        return self.builder.xor(self.builder.xor(low, high), behind)

    def _constants(self, constants: ir.Value, distance: int) -> ir.Value:
        """The pair that bridges `distance` bytes, in every lane."""
        pair = ir.VectorType(_I64, 2)
        place = self.builder.gep(constants, [ir.Constant(_I64, DISTANCES.index(distance) * PIECE)])
        loaded = self.builder.load(self.builder.bitcast(place, pair.as_pointer()), align=1)
        mask = ir.Constant(ir.VectorType(_I32, 2 * self.lanes), [0, 1] * self.lanes)
        return self.builder.shuffle_vector(loaded, loaded, mask)

    def _load(self, pointer: ir.Value, count: int) -> list[ir.Value]:
        vectors = self.builder.bitcast(pointer, self.vector.as_pointer())
        places = (self.builder.gep(vectors, [ir.Constant(_I64, index)]) for index in range(count))
        return [self.builder.load(place, align=1) for place in places]

    def _piece(self, register: ir.Value, lane: int) -> ir.Value:
        mask = ir.Constant(ir.VectorType(_I32, 2), [2 * lane, 2 * lane + 1])
        return self.builder.shuffle_vector(register, register, mask)


@functools.cache
def _fold_intrinsic(lanes: int) -> Any:
    def fold(typing_context: Any, data: Any, size: Any, crc: Any, constants: Any) -> Any:
        def lower(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            data, size, crc, constants = arguments
            start, pairs = (builder.inttoptr(address, cgutils.voidptr_t) for address in (data, constants))
            words = FoldWriter(builder, lanes, platform.machine()).write(start, size, crc, pairs)
            return context.make_tuple(builder, signature.return_type, words)

        return types.UniTuple(types.uint64, 2)(types.int64, types.int64, types.uint64, types.int64), lower

    return intrinsic(fold)


def _loader(bits: int) -> Any:
    """The number of so many bits at an address, as a word."""

    def load(typing_context: Any, address: Any) -> Any:
        def lower(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            place = builder.inttoptr(arguments[0], ir.IntType(bits).as_pointer())
            return builder.zext(builder.load(place, align=1), _I64)

        return types.uint64(types.int64), lower

    return intrinsic(load)


_word, _byte = _loader(64), _loader(8)


@njit(error_model="numpy")
def _row(table: Any, row: Any, byte: Any) -> Any:
    return _word(table + 8 * (256 * row + np.int64(byte & _LOW_BYTE)))


@njit(error_model="numpy")
def _step(word: Any, table: Any) -> Any:
    """Eight bytes through the table: the register after `word`, which already has the register before it mixed in."""
    crc = np.uint64(0)
    for index in range(8):
        crc ^= _row(table, 7 - index, word >> np.uint64(8 * index))
    return crc


@njit(error_model="numpy")
def _by_table(data: Any, size: Any, crc: Any, table: Any, constants: Any) -> Any:
    """The register after `size` bytes, eight at a time."""
    even = size // 8 * 8
    for place in range(0, even, 8):
        crc = _step(crc ^ _word(data + place), table)
    for place in range(even, size):
        crc = _row(table, 0, crc ^ _byte(data + place)) ^ crc >> np.uint64(8)
    return crc


@functools.cache
def crc_function(lanes: int) -> Any:
    """The compiled function (data, size, crc, table, constants) -> crc with this many lanes, for others to call.

    - `data`, `size`: int64, address and number of the bytes
    - `crc`: uint64, the register before `data` (all ones at the beginning of a message, not inverted at its end)
    - `table`, `constants`: int64, what :func:`~s3dlio.alignment.polynomial.addresses` gives for the polynomial

    The register after `b"123456789"`, inverted, is 0xE3069283 for CRC32C and 0xAE8B14860A799888 for CRC64NVME. With no
    lanes the table does it all, and the constants are not looked at.
    """
    if lanes == 0:
        return _by_table
    fold, block = _fold_intrinsic(lanes), block_size(lanes)

    def by_folding(data: Any, size: Any, crc: Any, table: Any, constants: Any) -> Any:
        folded = size // block * block
        if folded > 0:
            first, second = fold(data, folded, crc, constants)
            crc = _step(_step(first, table) ^ second, table)
        return _by_table(data + folded, size - folded, crc, table, constants)

    return njit(error_model="numpy")(by_folding)


def build(name: str) -> tuple[Callable[..., Any], Any]:
    """Function and signature of a kernel for :mod:`.compiled`: `crc` for this machine, or `crc0` to `crc4` by lanes."""
    lanes = name.removeprefix("crc")
    return crc_function(int(lanes) if lanes else host_lanes()).py_func, _SIGNATURE
