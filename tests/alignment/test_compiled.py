"""Kernels compiled by a process of their own, kept on disk, linked here: on real processes, files and forks."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from s3dlio.alignment import compiled, compiling, kernels, polynomial
from s3dlio.alignment.checksum import kernel_for
from s3dlio.alignment.compiled import Kernel
from s3dlio.alignment.polynomial import CRC64NVME

from ..interpreter import run_python
from . import naive
from .calling import call

TINY = "tests.alignment.tiny"
OTHERS = 12345
"""A user that this process is not."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("S3DLIO_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TINY_COMPILED", str(tmp_path / "compiled"))
    monkeypatch.delenv("NUMBA_DISABLE_JIT", raising=False)
    return tmp_path / "cache"


def _compiled() -> list[str]:
    file = Path(os.environ["TINY_COMPILED"])
    return file.read_text().split() if file.exists() else []


def _loaded(kernel: Kernel) -> bool:
    kernel.address()
    return kernel.wait(60)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """No compiler comes to an end in here."""
    directory.mkdir(mode=0o700)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


@pytest.fixture(scope="module")
def compiled_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the kernel `twice`, for tests of what is done with one."""
    directory = tmp_path_factory.mktemp("compiled") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("S3DLIO_CACHE_DIR", str(directory))
        patch.delenv("NUMBA_DISABLE_JIT", raising=False)
        assert _loaded(Kernel(TINY, "twice"))
    return directory


@pytest.fixture
def filled_cache(cache: Path, compiled_before: Path) -> Path:
    """The cache, with the kernel `twice` in it."""
    shutil.copytree(compiled_before, cache)
    return cache


def _in_a_child(check: Callable[[], bool]) -> bool:
    """Whether `check` holds in a forked child."""
    pid = os.fork()
    if not pid:
        signal.alarm(100)
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitpid(pid, 0)[1] == 0


def test_a_kernel_is_compiled_once_a_machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Kernel(TINY, "twice")
    assert _loaded(first)
    assert call(first, 21) == 42
    assert [file.suffix for file in cache.iterdir()] == [".o"]
    assert cache.stat().st_mode & 0o777 == 0o700

    monkeypatch.setattr(sys, "executable", "")
    second = Kernel(TINY, "twice")
    assert _loaded(second)
    assert (call(first, 1), call(second, -4)) == (2, -8)
    assert _compiled() == ["twice"]


def test_other_code_is_another_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [compiled.identity(TINY, "twice"), compiled.identity(TINY, "calling")]
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    keys.append(compiled.identity(TINY, "twice"))
    monkeypatch.setattr(compiled, "__version__", "0")
    keys.append(compiled.identity(TINY, "twice"))
    monkeypatch.setattr(compiled, "_what_is_compiled", lambda module: "another text")
    keys.append(compiled.identity(TINY, "twice"))
    assert len(set(keys)) == 5


def test_what_a_kernel_is_made_of() -> None:
    assert compiled._what_is_compiled("s3dlio.alignment.polynomial") == Path(polynomial.__file__).read_text("utf-8")
    assert compiled.sources("s3dlio.alignment.kernels") == [Path(kernels.__file__), Path(polynomial.__file__)]
    assert Path(compiled.__file__) in compiled.sources("s3dlio.alignment.checksum")  # named as `from . import` does
    with pytest.raises(ModuleNotFoundError, match=r"s3dlio\.alignment\.absent"):
        compiled.sources("s3dlio.alignment.absent")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:20],
        lambda content: content[:32],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
        lambda content: compiled.seal(content[32:], b"another kernel"),
    ],
    ids=["empty", "in the digest", "no code", "cut", "longer", "one bit", "of another kernel"],
)
def test_a_damaged_file_is_not_believed(damage: Callable[[bytes], bytes], cache: Path) -> None:
    key, cache = b"0123456789abcdef", cache.parent
    content = compiled.seal(bytes(range(256)), key)
    compiling.write(cache, compiled.file_name("k", key), content)
    assert compiled.read(cache, "k", key) == bytes(range(256))
    (cache / compiled.file_name("k", key)).write_bytes(damage(content))
    assert compiled.read(cache, "k", key) is None


def test_a_damaged_file_is_compiled_anew(filled_cache: Path) -> None:
    [file] = filled_cache.iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    kernel = Kernel(TINY, "twice")
    assert _loaded(kernel)
    assert call(kernel, 8) == 16
    assert _compiled() == ["twice"]
    assert compiled.read(filled_cache, "twice", compiled.identity(TINY, "twice")) is not None
    assert list(filled_cache.iterdir()) == [file]


@pytest.mark.parametrize(("owner", "mode"), [(OTHERS, 0o700), (None, 0o777), (None, 0o770), (None, 0o702)])
def test_a_directory_others_can_write_to_is_refused(
    owner: int | None, mode: int, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    cache.chmod(mode)
    if owner is not None:
        monkeypatch.setattr(os, "geteuid", lambda: owner)
    assert compiled.directory() is None
    cache.chmod(0o755)
    monkeypatch.undo()
    monkeypatch.setenv("S3DLIO_CACHE_DIR", str(cache))
    assert compiled.directory() == cache


def test_a_file_of_others_is_not_believed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, cache = b"0123456789abcdef", cache.parent
    compiling.write(cache, compiled.file_name("k", key), compiled.seal(b"code", key))
    file = cache / compiled.file_name("k", key)
    file.chmod(0o602)
    assert compiled.read(cache, "k", key) is None
    file.chmod(0o600)
    assert compiled.read(cache, "k", key) == b"code"
    monkeypatch.setattr(os, "geteuid", lambda: OTHERS)
    assert compiled.read(cache, "k", key) is None


def test_where_kernels_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3DLIO_CACHE_DIR", str(tmp_path / "chosen" / "deep"))
    assert compiled.directory() == tmp_path / "chosen" / "deep"
    monkeypatch.setenv("S3DLIO_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert compiled.directory() == tmp_path / "xdg" / "s3dlio"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert compiled.directory() == tmp_path / "home" / ".cache" / "s3dlio"
    monkeypatch.setenv("S3DLIO_CACHE_DIR", os.devnull)
    assert compiled.directory() is None
    monkeypatch.setenv("S3DLIO_CACHE_DIR", f"{os.devnull}/below")
    assert compiled.directory() is None


def test_without_a_place_for_it_a_kernel_is_compiled_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3DLIO_CACHE_DIR", os.devnull)
    for _ in range(2):
        kernel = Kernel(TINY, "twice")
        assert _loaded(kernel)
        assert call(kernel, 3) == 6
    assert _compiled() == ["twice", "twice"]


def test_nor_does_it_need_room_on_the_disk(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir(mode=0o700)
    monkeypatch.setattr(compiling, "compile_kernel", lambda module, name: b"code")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert compiling._cached(cache, TINY, "twice", b"key") == b"code"
    assert list(cache.iterdir()) == []


def test_many_processes_that_start_at_once_compile_once(cache: Path) -> None:
    program = """if True:
        from s3dlio.alignment.compiled import Kernel
        from tests.alignment.calling import call
        kernel = Kernel("tests.alignment.tiny", "twice")
        kernel.address()
        assert kernel.wait(100)
        print(call(kernel, 50))
    """
    command = [sys.executable, "-W", "error", "-c", program]
    starts = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(8)]
    assert [start.communicate()[0] for start in starts] == [b"100\n"] * 8
    assert _compiled() == ["twice"]
    assert len(list(cache.iterdir())) == 1


def test_files_that_nobody_reads_go(tmp_path: Path) -> None:
    for name, read, written in (("a.o", 10, 10), ("b.o", 90, 10), ("c.o", 10, 90), ("d.tmp", 9, 9), ("e.txt", 9, 9)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (read, written))
    compiling.remove_unread(tmp_path, 50)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b.o", "c.o", "e.txt"]


def test_functions_called_by_name(cache: Path) -> None:
    kernel = Kernel(TINY, "calling")
    kernel.address({"given_by_the_test": ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value or 0})
    assert kernel.wait(60)
    assert call(kernel, 5) == os.getpid() + 5
    assert not _loaded(Kernel(TINY, "calling"))  # nobody says where the function is


def test_a_kernel_that_can_raise_is_refused() -> None:
    done = run_python(f"from s3dlio.alignment import compiling; compiling.compile_kernel({TINY!r}, 'cautious')")
    assert done.stderr.endswith("TypeError: kernel 'cautious' can raise\n")
    assert not _loaded(Kernel(TINY, "cautious"))


def test_numba_switched_off(filled_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("1", False), ("0", True), ("", True)):
        monkeypatch.setenv("NUMBA_DISABLE_JIT", value)
        assert _loaded(Kernel(TINY, "twice")) is expected, value
    assert _compiled() == []


@pytest.mark.parametrize("executable", ["", "/absent", "/bin/false", "/bin/echo"])
def test_no_compiler(executable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    kernel = Kernel("s3dlio.alignment.kernels", "crc")
    assert not _loaded(kernel)
    assert kernel_for(CRC64NVME, kernel)(memoryview(b"123456789"), 0) == 0xAE8B14860A799888
    monkeypatch.undo()
    assert not _loaded(kernel)  # for good


def test_a_frozen_program_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert not _loaded(Kernel(TINY, "twice"))
    assert _compiled() == []


def test_no_llvmlite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    assert not _loaded(Kernel(TINY, "twice"))


def test_no_thread_to_load_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert not _loaded(Kernel(TINY, "twice"))


def test_the_first_checksum_does_not_wait_for_the_compiler(cache: Path) -> None:
    kernel = Kernel("s3dlio.alignment.kernels", "crc")
    checksum = kernel_for(CRC64NVME, kernel)
    data = bytes(range(251)) * 40
    with _locked(cache):
        before = checksum(memoryview(data), 0)
        assert kernel.soon() is kernel.address() is None
    assert kernel.wait(60)
    assert before == checksum(memoryview(data), 0) == naive.crc64nvme(data)


def test_a_fork_before_loading(cache: Path) -> None:
    kernel = Kernel(TINY, "twice")
    assert _in_a_child(lambda: _loaded(kernel) and call(kernel, 2) == 4)
    assert _loaded(kernel)
    assert _compiled() == ["twice"]


def test_a_fork_while_loading(cache: Path) -> None:
    kernel = Kernel(TINY, "twice")
    left, right = os.pipe()

    def in_the_child() -> bool:
        kernel.address()
        os.write(right, b".")
        return kernel.wait(60) and call(kernel, 2) == 4

    with _locked(cache):
        kernel.address()
        outcomes: list[bool] = []
        forking = threading.Thread(target=lambda: outcomes.append(_in_a_child(in_the_child)))
        forking.start()
        assert os.read(left, 1) == b"."
        assert kernel.address() is None
    forking.join()
    os.close(left)
    os.close(right)
    assert outcomes == [True]
    assert kernel.wait(60)
    assert _compiled() == ["twice"]


def test_a_fork_after_loading(filled_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(TINY, "twice")
    assert _loaded(kernel)
    monkeypatch.setattr(Kernel, "_load", None)  # nothing is loaded again
    assert _in_a_child(lambda: call(kernel, 2) == 4 and kernel.wait(60))


def test_a_fork_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    kernel = Kernel(TINY, "twice")
    assert not _loaded(kernel)
    monkeypatch.undo()
    assert _in_a_child(lambda: not _loaded(kernel))


def test_a_fork_waits_while_llvm_is_at_work() -> None:
    program = """if True:
        import os, threading
        from s3dlio.alignment import compiled
        inside, forking, done = threading.Event(), threading.Event(), []

        def link():
            with compiled._alone():
                inside.set()
                forking.wait()
                done.append(True)

        os.register_at_fork(before=forking.set)  # the one registered last is called first
        thread = threading.Thread(target=link)
        thread.start()
        inside.wait()
        pid = os.fork()
        if not pid:
            with compiled._alone():
                os._exit(0 if done else 1)
        thread.join()
        print(os.waitpid(pid, 0)[1])
    """
    done = run_python(program)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_the_process_ends_while_a_kernel_is_loaded(filled_cache: Path) -> None:
    program = """if True:
        import atexit, os
        from s3dlio.alignment.compiled import Kernel
        kernel = Kernel("tests.alignment.tiny", "twice")
        atexit.register(lambda: print("done"))
        kernel.address()
    """
    for _ in range(5):
        done = run_python(program)
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_after_its_end_a_process_loads_nothing(cache: Path) -> None:
    program = """if True:
        import atexit, os, sys
        @atexit.register
        def late():  # called after what the module has registered
            with_kernel = kernel.address(), kernel.wait(60)
            print(*with_kernel, "llvmlite" in sys.modules)
            pid = os.fork()
            if not pid:
                os._exit(0)
            print(os.waitpid(pid, 0)[1])
        from s3dlio.alignment.compiled import Kernel
        kernel = Kernel("tests.alignment.tiny", "twice")
    """
    done = run_python(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "None False False\n0\n", "")


def test_memory_that_must_not_become_executable(filled_cache: Path) -> None:
    """Linux 6.3 has a switch for that; before it, the kernel loads."""
    program = """if True:
        import ctypes
        from s3dlio.alignment.compiled import Kernel
        PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
        forbidden = ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) == 0
        kernel = Kernel("tests.alignment.tiny", "twice")
        kernel.address()
        print(kernel.wait(60) != forbidden)
    """
    done = run_python(program)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


def test_programs_import_and_print_nothing_of_the_compiler(cache: Path) -> None:
    program = """if True:
        import sys
        import s3dlio, s3dlio.alignment.compiled
        heavy = {"numba", "numpy", "llvmlite"}
        print(sorted(heavy & set(sys.modules)))
        from s3dlio.alignment import checksum
        print(hex(checksum.crc64nvme(b"123456789")), sorted({"numba"} & set(sys.modules)))
        print(checksum.KERNEL.wait(60), hex(checksum.crc64nvme(b"123456789")), sorted({"numba"} & set(sys.modules)))
    """
    for _ in range(2):  # the first of them compiles
        done = run_python(program)
        lines = ["[]", "0xae8b14860a799888 []", "True 0xae8b14860a799888 []"]
        assert (done.stdout.splitlines(), done.stderr) == (lines, "")


def test_a_program_whose_directory_has_a_module_named_like_one_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numba.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert _loaded(Kernel(TINY, "twice"))


def test_the_compiler_finds_modules_where_the_program_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere.py").write_text(Path(__file__).with_name("tiny.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    assert _loaded(Kernel("elsewhere", "twice"))


def test_compiling_by_hand_fills_the_cache(cache: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "s3dlio.alignment.compiling", TINY, "twice"], check=True, capture_output=True
    )
    key = compiled.identity(TINY, "twice")
    assert compiled.unseal(done.stdout, key) == compiled.read(cache, "twice", key)


def test_a_kernel_in_the_cache_computes_the_first_checksum(cache: Path) -> None:
    program = """if True:
        import sys
        from s3dlio.alignment import checksum
        print(hex(checksum.crc64nvme(b"123456789")), "numpy" in sys.modules, checksum.KERNEL.wait(100))
    """
    for numpy_is_needed in (True, False):  # for the first of them there is no kernel
        done = run_python(program)
        assert (done.stdout, done.stderr) == (f"0xae8b14860a799888 {numpy_is_needed} True\n", "")
