"""Compare the stores of files with fio and with other readers of files: `python -m benchmarks.files --help`.

`direct://` is compared with fio, which does nothing but the same system calls, with blocks of the same size and as many
of them under way: one thread for each. `file://` is compared with obstore's LocalStore, and with plain `open().read()`,
on files in the page cache. Every measurement is a fresh process that does the work once to warm up and once more while
the clock runs; the programs take turns. Whole objects are read one after another into one reused buffer where a title
says "into", else as `bytes`. Writes are to new files, and end when these are on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    from s3dlio.stores import LocalStore

ROOT = Path(__file__).parents[1]
KiB, MiB = 1 << 10, 1 << 20
DEPTH = 4
"""Blocks of 1 MiB, or small files, under way at once."""
TARGET = 0.95
"""Of fio's speed, for direct I/O."""
TIME_LIMIT = 300.0


@dataclass(frozen=True)
class Job:
    """`count` files of `size` bytes, called 0, 1, 2, ... in `folder`, to be read, or to be written to `target`."""

    folder: str
    count: int
    size: int

    @property
    def names(self) -> list[str]:
        return [str(number) for number in range(self.count)]

    @property
    def target(self) -> Path:
        """A directory that is empty at first."""
        return Path(self.folder, "written")

    def renew_target(self) -> None:
        shutil.rmtree(self.target, ignore_errors=True)
        self.target.mkdir()


@dataclass(frozen=True)
class Result:
    """What one program took; CPU time is that of all its threads."""

    seconds: float
    cpu_seconds: float


def twice(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> Result:
    """The second time counts."""
    for _ in range(2):
        before()
        cpu, begin = time.process_time(), time.perf_counter()
        work()
        result = Result(time.perf_counter() - begin, time.process_time() - cpu)
    return result


# The programs


def fio(job: Job, rw: str) -> Result:
    """One thread for each file."""
    folder = job.target if rw == "write" else Path(job.folder)
    command = [
        *(
            "fio",
            "--name=job",
            f"--directory={folder}",
            "--filename_format=$jobnum",
            f"--rw={rw}",
            f"--size={job.size}",
        ),
        *("--bs=1M", "--direct=1", "--ioengine=psync", f"--numjobs={job.count}", "--thread", "--group_reporting"),
        *("--fallocate=none", "--end_fsync=1", "--output-format=json"),
    ]
    for _ in range(2):
        if rw == "write":
            job.renew_target()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found: dict[str, Any] = json.loads(done.stdout)["jobs"][0][rw]
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Result(found["io_bytes"] / found["bw_bytes"], cpu)


Verb = Callable[["LocalStore", str, memoryview], Awaitable[object]]


def _store(scheme: str, folder: str, lanes: int = DEPTH) -> LocalStore:
    """With `lanes` blocks of a file under way at once, over all files :data:`DEPTH`."""
    from s3dlio import Config
    from s3dlio.stores import DirectStore, LocalStore

    config = Config(parts_in_flight=lanes, file_threads=DEPTH, durable="file")
    return DirectStore(folder, config) if scheme == "direct" else LocalStore(folder, config)


def _run(job: Job, store: LocalStore, verb: Verb, tasks: int = 1, *, writes: bool = False) -> Result:
    """Every file, by several tasks; one buffer serves all. Its pages are mapped by the first of the two times."""
    import trio

    from s3dlio.alignment import AlignedBuffer

    buffer = AlignedBuffer(job.size)

    async def work() -> None:
        names = iter(job.names)

        async def take() -> None:
            for name in names:
                await verb(store, name, buffer.view)

        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(take)

    return twice(lambda: trio.run(work), job.renew_target if writes else lambda: None)


async def _into(store: LocalStore, name: str, view: memoryview) -> None:
    await store.get_into(name, view)


async def _get(store: LocalStore, name: str, _: memoryview) -> None:
    await store.get(name)


async def _put(store: LocalStore, name: str, view: memoryview) -> None:
    await store.put(name, view)


def _obstore(job: Job, threads: int) -> Result:
    import obstore

    store = obstore.store.LocalStore(job.folder)
    with ThreadPoolExecutor(threads) as pool:
        return twice(lambda: sum(pool.map(lambda name: len(obstore.get(store, name).bytes()), job.names)))


def _plain(job: Job) -> Result:
    def read() -> None:
        for name in job.names:
            Path(job.folder, name).read_bytes()

    return twice(read)


def _plain_into(job: Job) -> Result:
    buffer = bytearray(job.size)

    def read() -> None:
        for name in job.names:
            with Path(job.folder, name).open("rb", buffering=0) as file:
                file.readinto(buffer)

    return twice(read)


@dataclass(frozen=True)
class Contest:
    """Programs that do the same; the first is the one the others are compared with."""

    title: str
    count: int
    size: int
    programs: dict[str, Callable[[Job], Result]]


def contests(*, quick: bool) -> dict[str, Contest]:
    """All of them."""
    large, many = (64 if quick else 256) * MiB, 1000
    whole = f"{DEPTH} files of {large // MiB} MiB"
    return {
        "direct read": Contest(
            f"`direct://`, read {whole}",
            DEPTH,
            large,
            {
                "fio": lambda job: fio(job, "read"),
                "s3dlio, into": lambda job: _run(job, _store("direct", job.folder), _into),
                "s3dlio, as bytes": lambda job: _run(job, _store("direct", job.folder), _get),
            },
        ),
        "direct write": Contest(
            f"`direct://`, write {whole}",
            DEPTH,
            large,
            {
                "fio": lambda job: fio(job, "write"),
                "s3dlio, all at once": lambda job: _run(
                    job, _store("direct", str(job.target), 1), _put, DEPTH, writes=True
                ),
                "s3dlio, one by one": lambda job: _run(job, _store("direct", str(job.target)), _put, writes=True),
            },
        ),
        "large": Contest(
            f"`file://`, {whole}",
            DEPTH,
            large,
            {
                "open().read()": _plain,
                "open().readinto()": _plain_into,
                "obstore, 1 thread": lambda job: _obstore(job, 1),
                f"obstore, {DEPTH} threads": lambda job: _obstore(job, DEPTH),
                "s3dlio, as bytes": lambda job: _run(job, _store("file", job.folder), _get),
                "s3dlio, into": lambda job: _run(job, _store("file", job.folder), _into),
            },
        ),
        "small": Contest(
            f"`file://`, {many:,} files of 128 KiB",
            many,
            128 * KiB,
            {
                "open().read()": _plain,
                "obstore, 1 thread": lambda job: _obstore(job, 1),
                f"obstore, {DEPTH} threads": lambda job: _obstore(job, DEPTH),
                f"s3dlio, {DEPTH} tasks": lambda job: _run(job, _store("file", job.folder), _get, DEPTH),
            },
        ),
    }


# Measuring


def measure(name: str, program: str, folder: Path, *, quick: bool) -> Result:
    """One measurement in a fresh process. Errors: `subprocess.SubprocessError`; what went wrong is on stderr."""
    command = [sys.executable, "-m", "benchmarks.files", "--one", name, program, str(folder)]
    done = subprocess.run(
        [*command, *(["--quick"] if quick else [])],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        timeout=TIME_LIMIT,
    )
    return Result(**json.loads(done.stdout))


def write_files(folder: Path, contest: Contest) -> None:
    """Files of random bytes, on the disk."""
    folder.mkdir()
    data = os.urandom(contest.size)
    for name in range(contest.count):
        with (folder / str(name)).open("wb") as file:
            file.write(data)
            os.fsync(file.fileno())


def table(contest: Contest, results: dict[str, list[Result]]) -> list[str]:
    """Lines of Markdown. Medians."""
    large = contest.size >= MiB
    amount = contest.count * contest.size / 1e9 if large else contest.count
    cpu_per = amount if large else amount / 1e6
    reference = next(iter(results))
    lines = [
        f"| {contest.title} | {'GB/s' if large else 'files/s'} | from - to"
        f" | {'CPU s/GB' if large else 'CPU µs/file'} | x {reference} |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    base = median(result.seconds for result in results[reference])
    for program, found in results.items():
        speeds = sorted(amount / result.seconds for result in found)
        form = ".2f" if large else ",.0f"
        lines.append(
            f"| {program} | {median(speeds):{form}} | {speeds[0]:{form}} - {speeds[-1]:{form}}"
            f" | {median(result.cpu_seconds for result in found) / cpu_per:{'.2f' if large else '.0f'}}"
            f" | {base / median(result.seconds for result in found):.2f} |"
        )
    return lines


def run(folder: Path, rounds: int, *, quick: bool) -> None:
    """Print a table for every contest."""
    for number, (name, contest) in enumerate(contests(quick=quick).items()):
        programs = [program for program in contest.programs if program != "fio" or shutil.which("fio")]
        write_files(folder / str(number), contest)
        results: dict[str, list[Result]] = {program: [] for program in programs}
        for program in tqdm(programs * rounds, desc=name, disable=None):
            results[program].append(measure(name, program, folder / str(number), quick=quick))
        print("", *table(contest, results), sep="\n", flush=True)
        if "fio" in contest.programs:
            print(verdict(results))
        shutil.rmtree(folder / str(number))


def verdict(results: dict[str, list[Result]]) -> str:
    """Whether direct I/O is as fast as it should be."""
    if "fio" not in results:
        return "fio is not installed: not compared"
    times = {program: median(result.seconds for result in found) for program, found in results.items()}
    best = min(seconds for program, seconds in times.items() if program != "fio")
    ratio = times["fio"] / best
    return f"\n{ratio:.2f} x fio, target {TARGET} x: {'met' if ratio >= TARGET else 'missed'}"


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.files", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT, help="work in a new directory in this one, on a disk")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="measurements of each kind (5)")
    parser.add_argument("--quick", action="store_true", help="large files of 64 MiB")
    parser.add_argument("--one", nargs=3, metavar=("CONTEST", "PROGRAM", "FOLDER"), help=argparse.SUPPRESS)
    return parser.parse_args(given)


def main() -> None:
    options = arguments()
    if options.one:
        name, program, folder = options.one
        contest = contests(quick=options.quick)[name]
        result = contest.programs[program](Job(folder, contest.count, contest.size))
        print(json.dumps(asdict(result)))
        return
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {DEPTH} under way. Medians of {options.rounds}."
    )
    with tempfile.TemporaryDirectory(dir=options.folder, prefix=".bench-") as folder:
        run(Path(folder), options.rounds, quick=options.quick)


if __name__ == "__main__":
    main()
