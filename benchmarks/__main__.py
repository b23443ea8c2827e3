"""Compare this library with its peers: `make bench`, or `python -m benchmarks --help`.

Every measurement is a fresh process, and the clients take turns, so that what else the machine does meets all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tqdm import tqdm

from tests.servers.process import HOST, without_cloud_variables

from .cases import Case, Measurement, cases
from .clients import CLIENTS
from .objects import write_objects
from .report import Results
from .servers import ROOT, Server, fast_server, slow_server

TIME_LIMIT = 600.0
"""Seconds for one measurement; the slowest takes about thirty."""

_SETTINGS = {
    "AWS_ALLOW_HTTP": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    "NO_PROXY": HOST,
}


def installed() -> dict[str, str]:
    """Versions of the clients that can be measured, by the clients' names."""
    found = {}
    for name, client in CLIENTS.items():
        try:
            found[name] = version(client.package)
        except PackageNotFoundError:
            print(f"{client.package} is not installed: not measured", file=sys.stderr)
    return found


def measure(client: str, case: Case, server: Server) -> Measurement:
    """One measurement in a fresh process. Errors: `subprocess.SubprocessError`; what went wrong is on stderr."""
    command = [sys.executable, "-m", "benchmarks.measure", client, json.dumps(asdict(case))]
    found = server.encrypted if case.tls else server.environment
    environment = without_cloud_variables(os.environ) | _SETTINGS | found
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=TIME_LIMIT
    )
    return Measurement(**json.loads(done.stdout))


def all_measurements(clients: Sequence[str], servers: dict[Case, Server], rounds: int) -> list[Measurement]:
    """Round by round, case by case, client by client."""
    turns = [
        (client, case, server)
        for case, server in servers.items()
        for client in clients
        if _takes_part(client, case, server)
    ]
    return [measure(*turn) for turn in tqdm(turns * rounds, desc="measuring", disable=None)]


def _takes_part(client: str, case: Case, server: Server) -> bool:
    able = CLIENTS[client]
    return (able.iterates or not case.slow) and (not case.tls or (able.trusts and bool(server.encrypted)))


def run(plan: Sequence[Case], clients: Sequence[str], rounds: int) -> tuple[str, list[Measurement]]:
    """The name of the server, and all measurements."""
    with tempfile.TemporaryDirectory(prefix="s3dlio-bench-") as name:
        folder = Path(name) / "objects"
        folder.mkdir()
        stored = list({case.bucket: case for case in plan}.values())
        for case in stored:
            write_objects(folder, case)
        with fast_server(folder, stored) as fast, slow_server(folder) as slow:
            servers = {case: slow if case.slow else fast for case in plan}
            return fast.name, all_measurements(clients, servers, rounds)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, metavar="N", help="measurements of each kind (5, or 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="one round, large objects of 64 MiB")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements there")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    plan = cases(quick=options.quick)
    rounds = options.rounds or (1 if options.quick else 5)
    versions = installed()
    server, measurements = run(plan, list(versions), rounds)
    results = Results(measurements)
    packages = {CLIENTS[name].package: found for name, found in versions.items() if name != "raw"}
    print(f"Server: {server}, in its own process. {os.cpu_count()} cores, Python {platform.python_version()}.")
    print(f"Clients: {', '.join(f'{package} {found}' for package, found in packages.items())}. Medians of {rounds}.")
    for case in plan:
        print("", *results.table(case), sep="\n")
    print("", "Targets, as ratios of medians:", *(f"- {line}" for line in results.verdicts()), sep="\n")
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in measurements], indent=1))


if __name__ == "__main__":
    main()
