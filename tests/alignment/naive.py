"""CRCs as the textbooks have them: one bit at a time."""

from __future__ import annotations


def crc(data: bytes, width: int, polynomial: int, value: int = 0) -> int:
    """The CRC of `data` continuing from `value`; `polynomial` in normal order, without its leading term."""
    reflected = int(f"{polynomial:0{width}b}"[::-1], 2)
    ones = (1 << width) - 1
    register = value ^ ones
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (reflected if register & 1 else 0)
    return register ^ ones


def crc32(data: bytes, value: int = 0) -> int:
    return crc(data, 32, 0x04C11DB7, value)


def crc32c(data: bytes, value: int = 0) -> int:
    return crc(data, 32, 0x1EDC6F41, value)


def crc64nvme(data: bytes, value: int = 0) -> int:
    return crc(data, 64, 0xAD93D23594C93659, value)
