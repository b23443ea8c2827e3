"""Compare distributed checkpoints with s3torchconnector's: `python -m benchmarks.checkpoints --help`.

Four ranks under torchrun save a state of 1 GiB, sharded by rows, and load it into tensors that have their memory
already. Every measurement is a fresh job on a SeaweedFS of its own, and the libraries take turns. The server shares the
processors with the ranks and costs more than they do, most of all when it is written to; where there is a file system
in memory (`--folder /dev/shm`), its disk is at least no part of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from tqdm import tqdm

from tests.servers.process import without_cloud_variables
from tests.servers.seaweedfs import SeaweedFS, seaweedfs

from .checkpoint_ranks import CheckpointCase, Phase
from .servers import ROOT

LIBRARIES = {"s3dlio": "s3dlio.compat.s3torchconnector", "s3torchconnector": "s3torchconnector"}
RANKS = 4
MiB = 1 << 20
TIME_LIMIT = 300.0
BUCKET = "checkpoints"


@dataclass(frozen=True)
class Job:
    """One measurement: what each rank did."""

    library: str
    case: str
    save: tuple[Phase, ...]
    load: tuple[Phase, ...]

    @property
    def seconds(self) -> float:
        """Of saving and loading."""
        return seconds(self.save) + seconds(self.load)


def seconds(phases: Sequence[Phase]) -> float:
    """Of the slowest rank."""
    return max(each.seconds for each in phases)


def cases(mebibytes: int) -> list[CheckpointCase]:
    """The same bytes in many tensors and in few."""
    return [
        CheckpointCase(f"{mebibytes // 16} tensors of 16 MiB", mebibytes // 16, 16 * MiB),
        CheckpointCase("4 large tensors", 4, mebibytes * MiB // 4),
    ]


def measure(library: str, case: CheckpointCase, server: SeaweedFS) -> Job:
    """One job. Errors: `subprocess.SubprocessError`; what went wrong is on stderr."""
    settings = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment = without_cloud_variables(os.environ) | server.environment() | settings
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    with tempfile.TemporaryDirectory() as results:
        rank = ["-m", "benchmarks.checkpoint_ranks", LIBRARIES[library], f"s3://{BUCKET}/checkpoint"]
        command = [*launcher, *rank, json.dumps(asdict(case)), results]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=TIME_LIMIT)
        found = [json.loads((Path(results) / f"{rank}.json").read_text()) for rank in range(RANKS)]
    phases = {name: tuple(Phase(**each[name]) for each in found) for name in ("save", "load")}
    return Job(library, case.title, **phases)


def run(plan: Sequence[CheckpointCase], rounds: int, folder: Path | None) -> list[Job]:
    """Round by round, case by case, the libraries in turn."""
    turns = [(library, case) for _ in range(rounds) for case in plan for library in LIBRARIES]
    if folder is not None:
        tempfile.tempdir = str(folder)
    jobs: list[Job] = []
    for library, case in tqdm(turns, desc="measuring", disable=None):
        with seaweedfs() as server:  # what it holds in memory grows with all that was ever written
            server.create_bucket(BUCKET)
            jobs.append(measure(library, case, server))
    return jobs


def table(case: CheckpointCase, jobs: Sequence[Job]) -> Iterator[str]:
    """Lines of Markdown."""
    yield f"| {case.title} | save s | load s | both s | x s3torchconnector | CPU s, save | load | peak MiB, load |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    medians = {library: _medians([job for job in jobs if job.library == library]) for library in LIBRARIES}
    for library, found in medians.items():
        ratio = medians["s3torchconnector"]["both"] / found["both"]
        row = f"{found['save']:.2f} | {found['load']:.2f} | {found['both']:.2f} | {ratio:.2f}"
        cost = f"{found['save cpu']:.2f} | {found['load cpu']:.2f} | {found['peak'] / MiB:.0f}"
        yield f"| {library} | {row} | {cost} |"


def _medians(jobs: Sequence[Job]) -> Mapping[str, float]:
    """CPU time is that of all ranks, memory that of one."""
    return {
        "save": median(seconds(job.save) for job in jobs),
        "load": median(seconds(job.load) for job in jobs),
        "both": median(job.seconds for job in jobs),
        "save cpu": median(sum(each.cpu_seconds for each in job.save) for job in jobs),
        "load cpu": median(sum(each.cpu_seconds for each in job.load) for job in jobs),
        "peak": median(max(each.peak_bytes for each in job.load) for job in jobs),
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="jobs of each kind (3)")
    parser.add_argument(
        "--size", type=int, default=1024, metavar="MIB", help="the state's size, all ranks together (1024)"
    )
    parser.add_argument("--folder", type=Path, help="where the server keeps its data for the while")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements there")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    plan = cases(options.size)
    jobs = run(plan, options.rounds, options.folder)
    print(f"{RANKS} ranks, {os.cpu_count()} cores, Python {platform.python_version()}. Medians of {options.rounds}.")
    for case in plan:
        print("", *table(case, [job for job in jobs if job.case == case.title]), sep="\n")
    if options.json:
        options.json.write_text(json.dumps([asdict(job) for job in jobs], indent=1))


if __name__ == "__main__":
    main()
