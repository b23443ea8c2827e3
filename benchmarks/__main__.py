"""Compare this library with its peers: `make bench`, or `python -m benchmarks --help`.

Every measurement is a fresh process, and the clients take turns, so that what else the machine does meets all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from compileall import compile_dir
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tqdm import tqdm

from tests.servers.process import HOST, without_cloud_variables

from .cases import Case, Measurement, cases
from .clients import CLIENTS
from .objects import write_objects
from .plots import draw
from .report import Results, document
from .servers import ROOT, Server, fast_server, sink_server, slow_server

TIME_LIMIT, SHORT_LIMIT = 120.0, 20.0
"""Seconds for one measurement; most take a few, and what takes longer is reported as not done."""

_OF_MANY_CORES = ("large", "load", "small", "large, TLS", "small, TLS", "large, busy", "workers", "write")

SETTINGS = {
    "AWS_ALLOW_HTTP": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
    "NO_PROXY": HOST,
}


def installed(rust: str | None) -> dict[str, str]:
    """Versions of the clients that can be measured, by the clients' names."""
    found = {}
    for name, client in CLIENTS.items():
        try:
            if not client.apart:
                found[name] = version(client.package)
            elif rust is not None:
                found[name] = _version_in(rust, client.package)
        except PackageNotFoundError:
            print(f"{client.package} is not installed: not measured", file=sys.stderr)
    return found


def _version_in(interpreter: str, package: str) -> str:
    program = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([interpreter, "-c", program], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def measure(client: str, case: Case, server: Server, rust: str | None, limit: float) -> Measurement:
    """One measurement in a fresh process; an empty one where it fails, or takes `limit` s, and why is on stderr."""
    interpreter = rust if CLIENTS[client].apart and rust is not None else sys.executable
    command = [interpreter, "-m", "benchmarks.measure", client, json.dumps(asdict(case))]
    found = server.encrypted if case.tls else server.environment
    environment = without_cloud_variables(os.environ) | SETTINGS | found
    run = partial(subprocess.run, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    try:
        return Measurement(**json.loads(run(command, timeout=limit).stdout))
    except subprocess.SubprocessError as error:
        print(f"{client}, {case.name}: {type(error).__name__}", file=sys.stderr)
        return Measurement(client, case.name, "")


def all_measurements(
    clients: Sequence[str], servers: dict[Case, Server], rounds: int, rust: str | None, limit: float
) -> Iterator[Measurement]:
    """Round by round, case by case, client by client."""
    turns = [
        (client, case, server, rust, limit)
        for case, server in servers.items()
        for client in clients
        if _takes_part(client, case, server)
    ]
    for turn in tqdm(turns * rounds, desc="measuring", disable=None):
        yield measure(*turn)


def _takes_part(client: str, case: Case, server: Server) -> bool:
    able = CLIENTS[client]
    if case.tls and not (able.trusts and server.encrypted):
        return False
    return able.takes_part(case)


def run(
    plan: Sequence[Case], clients: Sequence[str], rounds: int, rust: str | None, limit: float = TIME_LIMIT
) -> Iterator[tuple[str, Measurement]]:
    """The name of the server, and a measurement, as they are made."""
    with tempfile.TemporaryDirectory(prefix="s3dlio-bench-") as name:
        near, far = Path(name) / "near", Path(name) / "far"
        stored = list({case.bucket: case for case in plan if case.reads}.values())
        for case in stored:
            write_objects(far if case.slow else near, case)
        with fast_server(near, stored) as fast, slow_server(far) as slow, sink_server(near) as sink:
            servers = {case: slow if case.slow else fast if case.reads else sink for case in plan}
            for measurement in all_measurements(clients, servers, rounds, rust, limit):
                yield fast.name, measurement


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names of cases (all)")
    parser.add_argument("--rounds", type=int, metavar="N", help="measurements of each kind (3, or 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="one round, large objects of 64 MiB")
    parser.add_argument("--short", action="store_true", help="one round of what many cores or a GPU change, in minutes")
    parser.add_argument("--rust", metavar="PYTHON", help="the interpreter of an environment with s3dlio in Rust")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write a page, plots and all measurements there")
    return parser.parse_args()


def report(page: str, plan: Sequence[Case], measurements: Sequence[Measurement], folder: Path | None) -> None:
    """Print the page, and write it to `folder` beside plots and all measurements."""
    print(page)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(page)
        (folder / "measurements.json").write_text(json.dumps([asdict(one) for one in measurements], indent=1))
        draw(plan, Results(measurements), folder)


def main() -> None:
    options = arguments()
    compile_dir(ROOT / "s3dlio", quiet=1)  # as an installer does with the others
    wanted = options.cases or (_OF_MANY_CORES if options.short else [])
    plan = [case for case in cases(quick=options.quick) if not wanted or case.name in wanted]
    rounds = options.rounds or (1 if options.quick or options.short else 3)
    limit = SHORT_LIMIT if options.short else TIME_LIMIT
    versions = installed(options.rust)
    found = list[tuple[str, Measurement]]()
    try:
        found.extend(run(plan, list(versions), rounds, options.rust, limit))
    finally:  # an interrupt leaves what was measured
        measurements = [measurement for _, measurement in found]
        server = found[0][0] if found else "none"
        report(document(plan, Results(measurements), versions, server, rounds), plan, measurements, options.write)


if __name__ == "__main__":
    main()
