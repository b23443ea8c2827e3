"""Which outages are survived, beside s3torchconnector: `python -m benchmarks.outages --help`.

Both run with their defaults, each job in a fresh process, against one SeaweedFS behind a proxy that fails in the middle
of the job, or the process is stopped there, as by a laptop's lid, and continued.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import trio
from tqdm import tqdm

import s3dlio
from tests.servers.process import HOST, free_ports, without_cloud_variables
from tests.servers.seaweedfs import SeaweedFS, seaweedfs

from .checkpoints import LIBRARIES
from .faulty_proxy import FaultyProxy, faulty_proxy
from .outage_jobs import BUCKET, EPOCH, JOBS, LARGE, SMALL, content
from .servers import ROOT

TIME_LIMIT = 240.0
"""Seconds for one job. One that takes longer has failed."""


@dataclass(frozen=True)
class Outage:
    """`kind` is `refuse`, `slow down` or `stop`, for so many seconds."""

    kind: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind} {self.seconds:g} s"


OUTAGES = [
    *(Outage("refuse", seconds) for seconds in (0.1, 0.3, 1, 3, 15)),
    *(Outage("slow down", seconds) for seconds in (1, 3, 8)),
    Outage("stop", 70),
]


async def survives(library: str, job: str, outage: Outage, proxy: FaultyProxy, server: SeaweedFS) -> str:
    """Run one job: `ok` or the last line of what went wrong."""
    environment = without_cloud_variables(os.environ) | server.environment()
    environment["AWS_ENDPOINT_URL"] = f"http://{HOST}:{proxy.port}"
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.outage_jobs", LIBRARIES[library], job]
    run = partial(trio.run_process, command, cwd=ROOT, env=environment, check=False, stderr=subprocess.PIPE)
    with trio.move_on_after(TIME_LIMIT):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(run)
            nursery.start_soon(_strike, outage, JOBS[job][1], proxy, process)
            await process.wait()
            nursery.cancel_scope.cancel()
        errors = (await process.stderr.receive_some()) if process.stderr else b""
        return "ok" if process.returncode == 0 else errors.decode(errors="replace").strip()[-300:]
    return f"not done within {TIME_LIMIT:g} s"


async def _strike(outage: Outage, after: int, proxy: FaultyProxy, process: trio.Process) -> None:
    await proxy.passed(after)
    match outage.kind:
        case "refuse":
            await proxy.refuse(outage.seconds)
        case "slow down":
            await proxy.slow_down(outage.seconds)
        case "stop":
            process.send_signal(signal.SIGSTOP)
            await trio.sleep(outage.seconds)
            process.send_signal(signal.SIGCONT)


Results = dict[tuple[str, str, Outage], list[str]]


async def run(outages: list[Outage], jobs: list[str], rounds: int) -> Results:
    """All results, round by round."""
    results: Results = defaultdict(list)
    turns = [
        (library, job, outage) for _ in range(rounds) for outage in outages for job in jobs for library in LIBRARIES
    ]
    with seaweedfs() as server:
        await _fill(server)
        for library, job, outage in tqdm(turns, desc="measuring", disable=None):
            (port,) = free_ports(1)
            async with faulty_proxy(int(server.endpoint.rpartition(":")[2]), port) as proxy:
                results[library, job, outage].append(await survives(library, job, outage, proxy, server))
    return results


async def _fill(server: SeaweedFS) -> None:
    server.create_bucket(BUCKET)
    os.environ.update(server.environment())
    async with s3dlio.open_store(f"s3://{BUCKET}") as store:
        small = content(SMALL)
        for number in range(EPOCH):
            await store.put(f"train/{number:04}", small)
        await store.put("large", content(LARGE))


def table(results: Results, outages: list[Outage], jobs: list[str]) -> Iterator[str]:
    """Lines of Markdown: how many runs ended well, of s3dlio / of s3torchconnector."""
    yield f"| {' / '.join(LIBRARIES)} | {' | '.join(jobs)} |"
    yield f"| --- |{' --- |' * len(jobs)}"
    for outage in outages:
        cells = [" / ".join(_count(results[library, job, outage]) for library in LIBRARIES) for job in jobs]
        yield f"| {outage} | {' | '.join(cells)} |"


def _count(ends: list[str]) -> str:
    return f"{ends.count('ok')} of {len(ends)}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outages", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="runs of each kind (3)")
    parser.add_argument("--outage", action="append", metavar="TEXT", help="only those whose names begin so")
    parser.add_argument("--job", action="append", metavar="TEXT", help="only those whose names begin so")
    return parser.parse_args()


def chosen(names: list[str], beginnings: list[str] | None) -> list[str]:
    return [name for name in names if beginnings is None or name.startswith(tuple(beginnings))]


def main() -> None:
    options = arguments()
    wanted = chosen([str(outage) for outage in OUTAGES], options.outage)
    outages = [outage for outage in OUTAGES if str(outage) in wanted]
    jobs = chosen(list(JOBS), options.job)
    results = trio.run(run, outages, jobs, options.rounds)
    print(*table(results, outages, jobs), sep="\n")
    for (library, job, outage), ends in results.items():
        for end in sorted(set(ends) - {"ok"}):
            print(f"\n{library}, {job}, {outage}:\n{end}", file=sys.stderr)


if __name__ == "__main__":
    main()
