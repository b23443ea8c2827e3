"""Calling a compiled kernel."""

from __future__ import annotations

import ctypes

from s3dlio.alignment.compiled import Kernel


def call(kernel: Kernel, number: int) -> int:
    """The result of a kernel of one number that has one."""
    result, address = ctypes.c_int64(), kernel.address()
    assert address is not None
    types = (ctypes.c_int32, ctypes.POINTER(ctypes.c_int64), ctypes.c_void_p, ctypes.c_int64)
    assert ctypes.CFUNCTYPE(*types)(address)(result, None, number) == 0
    return result.value
