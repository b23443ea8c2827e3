"""Trees of small files to and from a bucket, beside s5cmd and obstore: `python -m benchmarks.sync --help`.

Each tree is sent by the command line of s3dlio and by that of s5cmd (both `sync`, to a place where nothing is yet), and
by a program of obstore's that gathers over as many requests as `--width` says. The programs take turns, each in a fresh
process, against one SeaweedFS, which checks signatures, and costs as much as they do. Then a `sync` is killed when half
the bytes are in the bucket, and started again; the bytes of both are counted on their way to the server.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import trio
from tqdm import tqdm

from tests.servers.process import HOST, free_ports, without_cloud_variables
from tests.servers.seaweedfs import SeaweedFS, seaweedfs

from .faulty_proxy import faulty_proxy
from .servers import ROOT

SIZE = 128 << 10
TIME_LIMIT = 600.0

_OBSTORE = """
import asyncio, sys
from pathlib import Path
from obstore.store import LocalStore, S3Store

source, target, width = sys.argv[1], sys.argv[2], int(sys.argv[3])

def opened(place):
    options = {"client_options": {"allow_http": True}} if place.startswith("s3://") else {}
    if not options:
        Path(place).mkdir(parents=True, exist_ok=True)
        return LocalStore(place)
    return S3Store.from_url(place, **options)

async def main():
    here, there = opened(source), opened(target)
    limit = asyncio.Semaphore(width)

    async def send(path):
        async with limit:
            await there.put_async(path, await (await here.get_async(path)).bytes_async())

    async for page in here.list():
        await asyncio.gather(*(send(meta["path"]) for meta in page))

asyncio.run(main())
"""


@dataclass(frozen=True)
class Taken:
    """What one program took: seconds, and those of the processors."""

    seconds: float
    cpu_seconds: float


def commands(source: str, target: str, s5cmd: str | None, width: int) -> dict[str, list[str]]:
    """By the names of the programs, how each sends the tree."""
    found = {
        "s3dlio": [sys.executable, "-m", "s3dlio.cli", "sync", source, target],
        "obstore": [sys.executable, "-c", _OBSTORE, source.removesuffix("/"), target.removesuffix("/"), str(width)],
    }
    pattern = f"{source}*" if source.startswith("s3://") else source
    return found | ({"s5cmd": [s5cmd, "--log", "error", "sync", pattern, target]} if s5cmd else {})


def timed(command: Sequence[str], environment: dict[str, str]) -> Taken:
    """Run it to its end. Errors: `CalledProcessError` where it fails, `TimeoutExpired`."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter()
    run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=TIME_LIMIT)
    run(command, cwd=ROOT, env=environment)
    seconds, after = perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Taken(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def write_tree(folder: Path, count: int) -> None:
    """`count` files, a hundred in a directory."""
    for number in range(count):
        (place := folder / f"{number // 100:03}").mkdir(parents=True, exist_ok=True)
        (place / f"{number:06}").write_bytes(os.urandom(SIZE))


def rounds(options: argparse.Namespace, server: SeaweedFS, tree: Path) -> dict[str, dict[str, list[Taken]]]:
    """What each program took, by direction."""
    taken: dict[str, dict[str, list[Taken]]] = {"up": defaultdict(list), "down": defaultdict(list)}
    environment = without_cloud_variables(os.environ) | server.environment()
    environment["S3_ENDPOINT_URL"] = server.endpoint  # the name that s5cmd reads
    for number in tqdm(range(options.rounds), disable=None):
        for name in commands("", "", options.s5cmd, 0):
            server.create_bucket(bucket := f"{name}-{number}")
            up = commands(f"{tree}/", f"s3://{bucket}/", options.s5cmd, options.width)[name]
            taken["up"][name].append(timed(up, environment))
            back = tree.parent / "back"
            down = commands(f"s3://{bucket}/", f"{back}/", options.s5cmd, options.width)[name]
            taken["down"][name].append(timed(down, environment))
            assert sum(1 for path in back.rglob("*") if path.is_file()) == options.count, f"{name} left files out"
            shutil.rmtree(back)
    return taken


async def killed(server: SeaweedFS, tree: Path, size: int) -> float:
    """How often the tree's bytes are sent by a `sync` that is killed at half of them, and started again."""
    server.create_bucket("killed")
    behind, (port,) = int(server.endpoint.rpartition(":")[2]), free_ports(1)
    environment = without_cloud_variables(os.environ) | server.environment()
    environment["AWS_ENDPOINT_URL"] = f"http://{HOST}:{port}"
    command = commands(f"{tree}/", "s3://killed/", None, 0)["s3dlio"]
    run = partial(trio.run_process, command, cwd=ROOT, env=environment, check=False, stdout=subprocess.DEVNULL)
    async with faulty_proxy(behind, port) as proxy, trio.open_nursery() as nursery:
        process = await nursery.start(run)
        await proxy.passed(size // 2)
        process.kill()
        await process.wait()
        done = await run()
        assert done.returncode == 0, "the second sync has failed"
        return proxy.sent / size


def lines(taken: dict[str, dict[str, list[Taken]]], count: int) -> Iterator[str]:
    """Medians, in Markdown."""
    yield f"{count:,} files of {SIZE >> 10} KiB"
    yield ""
    yield "| | program | files/s | s3dlio's speed to its | CPU s |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for direction, programs in taken.items():
        ours = median(one.seconds for one in programs["s3dlio"])
        for name, ones in programs.items():
            seconds, cpu = median(one.seconds for one in ones), median(one.cpu_seconds for one in ones)
            yield f"| {direction} | {name} | {count / seconds:,.0f} | {seconds / ours:.2f} | {cpu:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sync", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="how many files (10000)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--width", type=int, default=64, metavar="N", help="obstore's requests at a time (64)")
    parser.add_argument("--s5cmd", metavar="PATH", default=shutil.which("s5cmd"), help="the program, where it is there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="s3dlio-sync-") as name, seaweedfs() as server:
        write_tree(tree := Path(name) / "tree", options.count)
        print(*lines(rounds(options, server, tree), options.count), sep="\n")
        again = trio.run(killed, server, tree, options.count * SIZE)
        print(f"\nKilled at half and started again, s3dlio sent {again:.3f} times the bytes.")


if __name__ == "__main__":
    main()
