"""Compiles one kernel into the cache and prints it: `python -m s3dlio.alignment.compiling MODULE NAME`.

A process of its own, so that the one that wants the kernel neither imports numba nor shares its interpreter lock with
the compiler. Running it while an image of a machine is built spares that machine the compiling.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from .compiled import ENTRY, directory, file_name, identity, read, seal

KEPT = 100 * 24 * 3600
"""Seconds for which a file stays in the cache that is not read."""

_NICE = 5


def main(module: str, name: str) -> None:
    """Compile the kernel, unless another process has done so meanwhile, and print it, sealed."""
    os.nice(_NICE)
    key, cache = identity(module, name), directory()
    image = compile_kernel(module, name) if cache is None else _cached(cache, module, name, key)
    with suppress(BrokenPipeError):  # who asked may be gone
        sys.stdout.buffer.write(seal(image, key))
        sys.stdout.buffer.flush()


def _cached(cache: Path, module: str, name: str, key: bytes) -> bytes:
    with _locked(cache):
        image = read(cache, name, key)
        if image is None:
            image = compile_kernel(module, name)
            with suppress(OSError):  # a full disk: who asked gets it all the same
                write(cache, file_name(name, key), seal(image, key))
                remove_unread(cache, time.time() - KEPT)
    return image


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Alone among the processes that compile into `cache`. Where files cannot be locked, work may be done twice."""
    descriptor = os.open(cache, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write(cache: Path, name: str, content: bytes) -> None:
    """Let the file appear, whole. Errors: `OSError`."""
    descriptor, temporary = tempfile.mkstemp(dir=cache, prefix=name, suffix=".tmp")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, cache / name)
    except BaseException:
        os.unlink(temporary)
        raise


def remove_unread(cache: Path, since: float) -> None:
    """Remove files that nobody has read, nor written, `since` this moment (seconds of the epoch). Errors: `OSError`."""
    for pattern in ("*.o", "*.tmp"):
        for file in cache.glob(pattern):
            if max(file.stat().st_atime, file.stat().st_mtime) < since:
                file.unlink()


def compile_kernel(module: str, name: str) -> bytes:
    """The object file of `build(name)` of `module`, for this machine.

    Errors: `TypeError` where the function can raise: its caller could not be told.
    """
    from llvmlite import binding as llvm
    from numba import njit

    function, signature = import_module(module).build(name)
    alone: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # these call numba's own library
    compiled: Any = njit(signature, error_model="numpy", boundscheck=False, **alone)(function)
    arguments = compiled.signatures[0]
    text = compiled.inspect_llvm(arguments)
    if ".picklebuf" in text:
        raise TypeError(f"kernel {name!r} can raise")
    text = text.replace(f"@{compiled.overloads[arguments].fndesc.llvm_func_name}(", f"@{ENTRY}(")
    parsed = llvm.parse_assembly(text)
    parsed.get_function(ENTRY)  # NameError rather than an object file without it
    return bytes(_target_machine().emit_object(parsed))


def _target_machine() -> Any:
    """What numba generates code for. Sections are loaded anywhere, so addresses are whole words, as numba has them."""
    from llvmlite import binding as llvm
    from numba.core.registry import cpu_target

    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    relocation = "static" if triple.startswith("x86") else "default"
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features, opt=3, reloc=relocation, codemodel="jitdefault", jit=True
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
