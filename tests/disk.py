"""Directories for tests of files: one on whatever the system has, one where O_DIRECT has rules to obey."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def enforces_alignment(directory: Path) -> bool:
    """Whether direct reads work in a directory, and unaligned ones do not: a tmpfs takes both, and proves nothing."""
    path, memory = directory / "probe", mmap.mmap(-1, mmap.PAGESIZE)
    path.write_bytes(bytes(mmap.PAGESIZE))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    try:
        os.preadv(fd, [memory], 0)
        os.preadv(fd, [memoryview(memory)[:100]], 0)
    except OSError as error:
        return error.errno == errno.EINVAL
    else:
        return False
    finally:
        os.close(fd)
        path.unlink()


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory on a disk: the temporary one, or one beside the checkout's files, or the test fails."""
    folder = tmp_path_factory.mktemp("disk")
    if enforces_alignment(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".disk-") as name:
        if not enforces_alignment(Path(name)):
            pytest.fail(f"neither {folder} nor {name} is on a file system that enforces the rules of O_DIRECT")
        yield Path(name)


@pytest.fixture
def folder(disk: Path) -> Iterator[Path]:
    """A fresh directory on a disk."""
    with tempfile.TemporaryDirectory(dir=disk) as name:
        yield Path(name)


@pytest.fixture
def descriptors() -> Iterator[None]:
    """The test leaves as many descriptors open as it found."""
    before = open_files()
    yield
    assert open_files() == before


def open_files() -> list[str]:
    """What this process has open on disks, by name."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.append(os.readlink(entry))
        except FileNotFoundError:  # that of the listing itself
            continue
    return sorted(name for name in found if name.startswith("/") and not name.startswith(("/dev/", "/proc/")))


def leftovers(folder: Path) -> list[Path]:
    """Temporary files."""
    return [path for path in folder.rglob("*") if path.name.startswith(".s3dlio-")]
