"""Compiled code in a process that imports no compiler.

A kernel is a function of whole numbers and addresses that numba compiles. Importing numba costs half a second and
compiling some more, but what comes out is an object file, which llvmlite alone links in milliseconds. So it is compiled
once a machine, by a process of its own (:mod:`.compiling`), and kept on disk.

Theory of operation. Nobody waits for a compiler: :meth:`Kernel.address` is None until a thread has got the object file,
from the cache or from the compiling process, and linked it. What is linked is never unloaded, as other threads may run
it until the process is gone. A failure, whatever its reason, leaves the kernel without an address for good, and its
callers with their way in Python.

The cache is machine code, so it is believed only in a directory, and from a file, that is this user's and that nobody
else can write to. A file is named for everything that the code depends on, so it never changes; it appears at once, by
a rename, and holds its own digest, so a damaged one is compiled anew. Who compiles holds a lock on the directory, and
whoever gets the lock next finds the file there.

A fork waits while LLVM is at work (it has locks of its own, which would stay locked in the child), and so does the end
of the process (whose exit would take LLVM's data away under it). A load that was under way in the parent is begun anew
in the child when it asks.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import importlib.util
import logging
import os
import re
import stat
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import MappingProxyType

from ..errors import UnsupportedError
from ..version import __version__

ENTRY = "kernel"
"""The name of the function in the object file."""

_log = logging.getLogger("s3dlio.alignment")
_NOTHING: Mapping[str, int] = MappingProxyType({})
_LLVM_CALLS = ("memcpy", "memmove", "memset")  # functions of libc that LLVM recognises in loops
_NUMBA_SETTINGS = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_ENABLE_AVX", "NUMBA_OPT")
_RELATIVE_IMPORT = re.compile(r"^ *from (\.+)([\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)  # quicker than a parser
_SEAL = 32

_undisturbed = threading.Lock()
_kernels: weakref.WeakSet[Kernel] = weakref.WeakSet()
_ending = False


class Kernel:
    """One compiled function: `build(name)` of `module` gives the Python function and its numba signature.

    The function takes and returns whole numbers and pointers, and cannot raise. Making a handle does nothing yet. Any
    thread may use it.
    """

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name
        self._address: int | None = None
        self._settled = False
        self.forget()
        _kernels.add(self)

    def address(self, symbols: Mapping[str, int] = _NOTHING) -> int | None:
        """Where the function is, or None where it is not there (yet). Never waits; the first call starts the loading.

        It is called as numba's functions are: an int32, always 0, of a pointer to the result, a null pointer, and the
        arguments. `symbols` are the addresses of the functions it calls by name; those of the first call count.
        """
        if self._loading is None:
            self._begin(symbols)
        return self._address

    def soon(self) -> int | None:
        """The same, but waits while one that is in the cache is linked, which takes less than importing numpy does."""
        address = self.address()
        if not self._settled:
            self._searched.wait()
            address = self._address
        return address

    def wait(self, seconds: float) -> bool:
        """Whether the kernel is there, after a load that was begun has had `seconds`: for benchmarks and tests."""
        if self._loading is not None and not self._settled:
            self._loading.join(seconds)
        return self._address is not None

    def forget(self) -> None:
        """Forget a load under way, whose thread is not in this process."""
        self._starting = threading.Lock()
        self._searched = threading.Event()
        if not self._settled:
            self._loading: threading.Thread | None = None

    def _begin(self, symbols: Mapping[str, int]) -> None:
        with self._starting:
            if self._loading is None:
                name = f"s3dlio loads {self.name}"
                self._loading = threading.Thread(target=self._load, args=(dict(symbols),), name=name, daemon=True)
                try:
                    self._loading.start()
                except RuntimeError:  # no more threads, or the process ends
                    self._settled = True
                    _log.debug("no thread to load %s in", self.name, exc_info=True)

    def _load(self, symbols: Mapping[str, int]) -> None:
        try:
            image = self._image()
            with _alone():
                self._address = _link(image, symbols)
                self._settled = True
        except Exception:
            _log.debug("%s is not compiled: its work is done in Python", self.name, exc_info=True)
            self._settled = True
        finally:
            self._searched.set()

    def _image(self) -> bytes:
        """The object file, from the cache or compiled."""
        if os.environ.get("NUMBA_DISABLE_JIT", "0") not in {"", "0"}:
            raise UnsupportedError("NUMBA_DISABLE_JIT is set")
        with _alone():
            key = identity(self.module, self.name)
        cache = directory()
        image = None if cache is None else read(cache, self.name, key)
        if image is None:
            self._searched.set()
            image = unseal(_compiled(self.module, self.name), key)
        return image


@contextmanager
def _alone() -> Iterator[None]:
    """A time with neither a fork nor the end of the process in it. Imports and calls of llvmlite are made in one."""
    with _undisturbed:
        if _ending:
            raise UnsupportedError("the process ends")
        yield


def _end() -> None:
    global _ending
    with _undisturbed:
        _ending = True


def _forked() -> None:
    _undisturbed.release()
    for kernel in _kernels:
        kernel.forget()


os.register_at_fork(before=_undisturbed.acquire, after_in_parent=_undisturbed.release, after_in_child=_forked)
atexit.register(_end)


def _compiled(module: str, name: str) -> bytes:
    """What the compiling process prints: the sealed object file, which it has put into the cache, too."""
    if not sys.executable or getattr(sys, "frozen", False):
        raise UnsupportedError("there is no Python interpreter to start")
    command = [sys.executable, "-P", "-W", "ignore", "-m", "s3dlio.alignment.compiling", module, name]
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    with _alone():  # a child forked meanwhile would keep the pipe open
        compiling = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is not for it
        )
    printed = compiling.communicate()[0]
    if compiling.returncode:
        raise UnsupportedError(f"{' '.join(command)} failed")
    return printed


def _link(image: bytes, symbols: Mapping[str, int]) -> int:
    """The address of the function in `image`, for as long as the process lives. Errors: `RuntimeError` from LLVM."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    linker = llvm.create_lljit_compiler(suppress_errors=True)
    library = llvm.JITLibraryBuilder().add_object_img(image).export_symbol(ENTRY)
    for symbol, address in (_libc(_LLVM_CALLS) | dict(symbols)).items():
        library.import_symbol(symbol, address)
    linked = library.link(linker, ENTRY)
    address = int(linked[ENTRY])
    linked.detach()
    linker.detach()
    return address


def _libc(names: tuple[str, ...]) -> dict[str, int]:
    process = ctypes.CDLL(None)
    return {name: ctypes.cast(process[name], ctypes.c_void_p).value or 0 for name in names}


def identity(module: str, name: str) -> bytes:
    """A digest of what the compiled code depends on: sources, versions, processor, numba's settings. Imports llvmlite.

    Errors: `ImportError` and its kin where one of the packages is not there.
    """
    import llvmlite.binding as llvm

    parts = [__version__, module, name, _what_compiles(), _what_is_compiled(module)]
    parts += [os.uname().machine, llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]
    parts += [os.environ.get(setting, "") for setting in _NUMBA_SETTINGS]
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).digest()


@cache
def _what_compiles() -> str:
    """A module's kernels are loaded one by one: what they share is looked up once."""
    from importlib.metadata import version

    return f"numba {version('numba')}, llvmlite {version('llvmlite')}"


@cache
def _what_is_compiled(module: str) -> str:
    return "\0".join(file.read_text("utf-8") for file in sources(module))


def sources(module: str) -> list[Path]:
    """The files of `module` and of the modules that it imports relatively, and so on: what it is made of."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"no module {module!r}")
    files = [Path(found.origin)]
    for file in files:
        files += [imported for imported in _imports(file) if imported not in files]
    return files


def _imports(file: Path) -> Iterator[Path]:
    for dots, module, names in _RELATIVE_IMPORT.findall(file.read_text("utf-8")):
        base = file.parents[len(dots) - 1].joinpath(*module.split("."))
        candidates = (base.with_suffix(".py"), *(base / f"{name}.py" for name in re.findall(r"\w+", names)))
        yield from filter(Path.is_file, candidates)


def directory() -> Path | None:
    """Where kernels are kept, made where it was not there, or None where there is no such place.

    It is `$S3DLIO_CACHE_DIR`, else `s3dlio` in `$XDG_CACHE_HOME`, else in `~/.cache`.
    """
    try:
        chosen = os.environ.get("S3DLIO_CACHE_DIR")
        place = Path(chosen) if chosen else _user_cache() / "s3dlio"
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        return place if stat.S_ISDIR(place.stat().st_mode) and is_private(place.stat()) else None
    except (OSError, RuntimeError):  # the latter where no home is known
        return None


def _user_cache() -> Path:
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return chosen if chosen.is_absolute() else Path.home() / ".cache"


def is_private(status: os.stat_result) -> bool:
    """Whether a file or directory is this user's, and nobody else can write to it."""
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def file_name(name: str, key: bytes) -> str:
    """How the file of a kernel is called."""
    return f"{name}-{key.hex()}.o"


def read(cache: Path, name: str, key: bytes) -> bytes | None:
    """The object file kept in `cache`, or None where there is none, or one that is not to be believed."""
    try:
        with open(cache / file_name(name, key), "rb") as file:
            return unseal(file.read(), key) if is_private(os.fstat(file.fileno())) else None
    except (OSError, ValueError):
        return None


def seal(image: bytes, key: bytes) -> bytes:
    """`image` behind its digest, which covers `key`, too."""
    return hashlib.blake2b(image, digest_size=_SEAL, key=key).digest() + image


def unseal(sealed: bytes, key: bytes) -> bytes:
    """What was sealed. Errors: `ValueError` where it is cut, damaged or another's."""
    image = sealed[_SEAL:]
    if not image or seal(image, key) != sealed:
        raise ValueError("a compiled kernel is damaged")
    return image
