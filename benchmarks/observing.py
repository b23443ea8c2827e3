"""What it costs to be observed: `python -m benchmarks.observing --help`.

Fresh processes in turn read small objects with the swapped class: with nobody looked for (lines of the engine are
replaced by ones that find nobody), as it is when nobody observes, with a trace, with a hook that does nothing, and with
the log at DEBUG in a file. What one costs is compared with what it costs nobody, in the same round: a machine may be
busy for a while.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median

from tqdm import tqdm

import s3dlio
from s3dlio.observers import observe, observer_of
from s3dlio.transport import batch, service
from tests.servers.process import without_cloud_variables

from .__main__ import SETTINGS
from .cases import Case, Measurement, cases
from .measure import measure
from .objects import write_objects
from .servers import ROOT, Server, fast_server

PASSES = 10


def _bare(folder: Path) -> None:
    for module, name in ((batch, "witnesses"), (batch, "recording"), (service, "observers")):
        setattr(module, name, lambda *own: ())


def _trace(folder: Path) -> None:
    s3dlio.trace(str(folder / "trace.json")).__enter__()


def _hook(folder: Path) -> None:
    observe(observer_of(lambda event, info: None))


def _debug(folder: Path) -> None:
    logging.basicConfig(filename=folder / "log", level=logging.DEBUG)


MODES: dict[str, Callable[[Path], None]] = {
    "nobody looked for": _bare,
    "nobody": lambda folder: None,
    "a trace": _trace,
    "a hook": _hook,
    "the log at DEBUG": _debug,
}


def run(mode: str, case: Case, server: Server) -> Measurement:
    """One measurement, by a process of its own."""
    command = [sys.executable, "-m", "benchmarks.observing", "--mode", mode, "--case", json.dumps(asdict(case))]
    environment = without_cloud_variables(os.environ) | SETTINGS | server.environment
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=120
    )
    return Measurement(**json.loads(done.stdout))


def table(found: dict[str, list[Measurement]], per_process: int) -> list[str]:
    """Lines of Markdown: medians, also of the ratios to nobody's in the same round."""
    lines = ["| observed by | per second | CPU µs each | CPU | time |", "| --- | ---: | ---: | ---: | ---: |"]
    for mode, ones in found.items():
        pairs = [*zip(ones, found["nobody"], strict=True)]
        cpu = median(one.cpu_seconds / other.cpu_seconds for one, other in pairs)
        wall = median(one.seconds / other.seconds for one, other in pairs)
        each = median(one.cpu_seconds for one in ones) / per_process * 1e6
        rate = per_process / median(one.seconds for one in ones)
        lines.append(f"| {mode} | {rate:,.0f} | {each:.1f} | {cpu:.3f} | {wall:.3f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, metavar="N")
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="s3dlio-bench-") as name:
        if options.mode:
            MODES[options.mode](Path(name))
            print(json.dumps(asdict(measure("read", Case(**json.loads(options.case))))), flush=True)
            os._exit(0)
        (small,) = [case for case in cases(quick=False) if case.name == "small"]
        case = Case(**asdict(small) | {"passes": PASSES})
        write_objects(Path(name) / "near", case)
        found: dict[str, list[Measurement]] = {mode: [] for mode in MODES}
        with fast_server(Path(name) / "near", [case]) as server:
            for mode in tqdm([*MODES] * options.rounds, disable=None):
                found[mode].append(run(mode, case, server))
    print(*table(found, case.count * case.passes), sep="\n")


if __name__ == "__main__":
    main()
