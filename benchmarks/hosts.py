"""Clients on several hosts, endpoints on others, one of which is cut off: `python -m benchmarks.hosts --help`.

Each host is a network namespace, and between them is a line with latency, loss and a rate of each (:mod:`.delay_line`),
where the machine has namespaces and this is root's; else endpoints are gateways on loopback, which have a rate, and one
of which is killed. Each endpoint serves the same objects. Each client is a process that reads them in an order of its
own, over all endpoints, and compares them. In the middle one endpoint is cut off, without a word to anybody, and joined
again later.

Printed are the bytes of each second, by endpoint and by client; how far apart they are; what failed; and how long it
took until what is left was used, and until the endpoint that is back had its share again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from tests.servers.gateway import Gateway
from tests.servers.process import LIFELINE, free_ports, without_cloud_variables

from . import delay_line
from .cases import Case, KiB
from .host_client import STEP, Sample
from .objects import write_objects
from .servers import ROOT, without_signatures

CLIENTS, ENDPOINTS = 4, 4
_CASE = Case("hosts", "", "hosts", 400, 128 * KiB, warm_up=0)
_PORT = 9000
_LIMIT = 300.0
"""Seconds in which a process has to have begun."""
_USED = 0.9
"""Of what the endpoints could give: from here on they count as used."""


@dataclass(frozen=True)
class Run:
    """The samples of each client, and when it happened, by the same clock."""

    clients: Sequence[Sequence[Sample]]
    cut_at: float
    joined_at: float
    victim: str
    endpoints: Sequence[str]

    @property
    def span(self) -> tuple[float, float]:
        """All clients read in it."""
        return max(samples[0].at for samples in self.clients), min(samples[-1].at for samples in self.clients)

    def rate(self, count: Callable[[Sample], int], start: float, end: float, client: int | None = None) -> float:
        """What `count` grew by in a second, of all clients or of one."""
        clients = self.clients if client is None else [self.clients[client]]
        return sum(_at(each, count, end) - _at(each, count, start) for each in clients) / (end - start)

    def of_endpoint(self, endpoint: str, start: float, end: float) -> float:
        """Bytes a second that it gave."""
        return self.rate(lambda sample: sample.received.get(endpoint, 0), start, end)


def _at(samples: Sequence[Sample], count: Callable[[Sample], int], when: float) -> float:
    """What it was at `when`, between two samples as if it had grown evenly."""
    for before, after in pairwise(samples):
        if before.at <= when < after.at:
            part = (when - before.at) / (after.at - before.at)
            return count(before) + part * (count(after) - count(before))
    return count(samples[0] if when < samples[0].at else samples[-1])


def all_read(sample: Sample) -> int:
    return sample.read


def seconds_until(run: Run, rate: Callable[[float, float], float], enough: float, start: float, end: float) -> float:
    """Seconds from `start` until `rate` of a second is `enough` for the first time; infinite where it never is."""
    moments = (start + 0.25 * number for number in range(int((end - start - STEP) / 0.25) + 1))
    return next((when - start for when in moments if rate(when, when + STEP) >= enough), float("inf"))


class Network(Protocol):
    """What lies between clients and endpoints; `endpoints` are their URLs."""

    endpoints: Sequence[str]

    def inside(self, client: int) -> Sequence[str]:
        """What a command of that client begins with."""

    def cut(self, number: int) -> None:
        """Cut that endpoint off."""

    def join(self, number: int) -> None:
        """Have it back."""


class Namespaces:
    """Hosts in namespaces: clients first, then endpoints. `orders` goes to the line between them."""

    def __init__(self, names: Sequence[str], orders: Callable[[str], None]) -> None:
        self.names = names
        self.addresses = [f"198.18.0.{number}" for number in range(1, len(names) + 1)]
        self.endpoints: Sequence[str] = [f"http://{address}:{_PORT}" for address in self.addresses[CLIENTS:]]
        self._orders = orders

    def inside(self, client: int) -> Sequence[str]:
        return enter(self.names[client])

    def cut(self, number: int) -> None:
        self._orders(f"cut {self.addresses[CLIENTS + number]}\n")

    def join(self, number: int) -> None:
        self._orders(f"join {self.addresses[CLIENTS + number]}\n")


class Loopback:
    """Endpoints that are gateways, all to one server."""

    def __init__(self, gateways: Sequence[Gateway]) -> None:
        self.endpoints: Sequence[str] = [gateway.endpoint for gateway in gateways]
        self._gateways = gateways

    def inside(self, client: int) -> Sequence[str]:
        return ()

    def cut(self, number: int) -> None:
        self._gateways[number].stop()

    def join(self, number: int) -> None:
        self._gateways[number].start()


def enter(namespace: str) -> tuple[str, ...]:
    return ("ip", "netns", "exec", namespace)


def has_namespaces() -> bool:
    """Whether hosts can be namespaces here."""
    return os.geteuid() == 0 and Path("/dev/net/tun").exists() and _makes_a_namespace()


def _makes_a_namespace() -> bool:
    name = f"s3dlio-{os.getpid()}"
    with contextlib.suppress(OSError):
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        return made.returncode == 0
    return False


@contextlib.contextmanager
def begun(command: Sequence[str], word: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said `word`, ended with the block, or with this process. Errors: `RuntimeError`."""
    environment = without_cloud_variables(os.environ) | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != word:
            raise RuntimeError(f"it did not begin: {' '.join(command)}")
        yield process
    finally:
        process.communicate()  # ends its standard input


def served(
    folder: Path, latency: float, address: str, port: int, *inside: str
) -> contextlib.AbstractContextManager[object]:
    """A server of the objects, which answers after `latency`."""
    server = (sys.executable, "-m", "benchmarks.slow_server", str(folder), str(port), str(latency), address)
    return begun(["setsid", "sh", "-c", LIFELINE, "sh", *inside, *server], "listening")


@contextlib.contextmanager
def namespaces(folder: Path, delay: float, loss: float, rate: float) -> Iterator[Namespaces]:
    """All hosts, and the endpoints' servers on theirs."""
    names = [f"s3dlio-{os.getpid()}-{number}" for number in range(CLIENTS + ENDPOINTS)]
    with contextlib.ExitStack() as made:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            made.callback(subprocess.run, ["ip", "netns", "delete", name], check=True)
        network = Namespaces(names, lambda order: _order(line, order))
        settings = delay_line.Settings(dict(zip(names, network.addresses, strict=True)), delay, loss, rate)
        command = [sys.executable, "-m", "benchmarks.delay_line", json.dumps(asdict(settings))]
        line = made.enter_context(begun(command, "up"))
        for name, address in list(zip(names, network.addresses, strict=True))[CLIENTS:]:
            made.enter_context(served(folder, 0.0, address, _PORT, *enter(name)))
        yield network


def _order(line: subprocess.Popen[str], text: str) -> None:
    assert line.stdin is not None
    line.stdin.write(text)
    line.stdin.flush()


@contextlib.contextmanager
def loopback(folder: Path, delay: float, rate: float) -> Iterator[Loopback]:
    """The same on loopback, without loss; the server is as late as the way there and back is long."""
    (port,) = free_ports(1)
    with served(folder, 2 * delay, "127.0.0.1", port), contextlib.ExitStack() as running:
        logs = Path(running.enter_context(tempfile.TemporaryDirectory()))
        gateways = [Gateway(port, logs / f"{number}", "--rate", str(rate)) for number in range(ENDPOINTS)]
        for gateway in gateways:
            gateway.start()
            running.callback(gateway.stop)
        yield Loopback(gateways)


@contextlib.contextmanager
def reading(
    network: Network, number: int, seconds: float, checksums: Path, place: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A client, whose samples go to `place`; ended with the block."""
    settings = {"S3DLIO_STALL_TIMEOUT": os.environ["S3DLIO_STALL_TIMEOUT"]}
    environment = without_cloud_variables(os.environ) | without_signatures(",".join(network.endpoints)) | settings
    options = [_CASE.bucket, str(number), str(checksums), str(seconds)]
    command = [*network.inside(number), sys.executable, "-m", "benchmarks.host_client", *options]
    with place.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def measure(network: Network, folder: Path, before: float, without: float, after: float) -> Run:
    """Have all clients read for these seconds. Errors: `RuntimeError` where one of them does not."""
    places = [folder / f"client-{number}" for number in range(CLIENTS)]
    victim = ENDPOINTS - 1
    with contextlib.ExitStack() as running:
        seconds = before + without + after
        processes = [
            running.enter_context(reading(network, number, seconds, folder / "checksums", place))
            for number, place in enumerate(places)
        ]
        _wait_for(lambda: all(place.stat().st_size for place in places) or _failed(processes), "a client did not begin")
        time.sleep(before)
        network.cut(victim)
        cut_at = time.monotonic()
        time.sleep(without)
        network.join(victim)
        joined_at = time.monotonic()
        _wait_for(lambda: all(process.poll() is not None for process in processes), "a client did not end", after)
        _failed(processes)
    clients = [[Sample(**json.loads(line)) for line in place.read_text().splitlines()] for place in places]
    return Run(clients, cut_at, joined_at, network.endpoints[victim], network.endpoints)


def _failed(processes: Sequence[subprocess.Popen[bytes]]) -> bool:
    """Whether there is one that ended badly, which is an error: `RuntimeError`."""
    if any(process.poll() for process in processes):
        raise RuntimeError("a client failed")
    return False


def _wait_for(what: Callable[[], bool], otherwise: str, longer: float = 0.0) -> None:
    end = time.monotonic() + _LIMIT + longer
    while not what():
        if time.monotonic() > end:
            raise RuntimeError(otherwise)
        time.sleep(0.05)


def table(run: Run) -> Iterator[str]:
    """Megabytes of each second, by endpoint and by client, in Markdown."""
    start, end = run.span
    names = [f"endpoint {number}" for number in range(1, ENDPOINTS + 1)]
    clients = [f"client {number}" for number in range(1, CLIENTS + 1)]
    yield f"| second | all | {' | '.join([*names, *clients])} | |"
    yield "| --- " * (3 + ENDPOINTS + CLIENTS) + "|"
    for second in range(int(end - start)):
        begin = start + second
        rates = [run.rate(all_read, begin, begin + 1)]
        rates += [run.of_endpoint(endpoint, begin, begin + 1) for endpoint in run.endpoints]
        rates += [run.rate(all_read, begin, begin + 1, number) for number in range(CLIENTS)]
        said = {int(run.cut_at - start): "cut off", int(run.joined_at - start): "back"}.get(second, "")
        yield f"| {second} | {' | '.join(f'{rate / 1e6:.1f}' for rate in rates)} | {said} |"


def summary(run: Run, rate: float) -> Iterator[str]:
    """Balance, failures and recovery; `rate` is what an endpoint can give, in bytes a second."""
    start, end = run.span
    last = [samples[-1] for samples in run.clients]
    yield f"read: {sum(each.read for each in last) / 1e6:,.0f} MB, wrong: {sum(each.wrong for each in last)}"
    yield f"operations that failed: {sum(each.failed for each in last)}"
    kinds = {kind for each in last for kind in each.attempts}
    made_up = ", ".join(f"{sum(each.attempts.get(kind, 0) for each in last)} {kind}" for kind in sorted(kinds))
    yield f"attempts that were made up for: {made_up or 'none'}"
    yield from _shares("before, by endpoint", [run.of_endpoint(each, start, run.cut_at) for each in run.endpoints])
    yield from _shares("before, by client", [run.rate(all_read, start, run.cut_at, each) for each in range(CLIENTS)])
    usual = run.rate(all_read, start, run.cut_at)
    yield f"of what the endpoints could give: {usual / (ENDPOINTS * rate):.2f} before"
    rest = _USED * usual * (ENDPOINTS - 1) / ENDPOINTS
    wait = seconds_until(run, lambda *span: run.rate(all_read, *span), rest, run.cut_at, run.joined_at)
    yield f"cut off: {wait:.1f} s until the others gave {_USED:.0%} of what they could"
    share = _USED * run.of_endpoint(run.victim, start, run.cut_at)
    wait = seconds_until(run, lambda *span: run.of_endpoint(run.victim, *span), share, run.joined_at, end)
    yield f"back: {wait:.1f} s until it gave {_USED:.0%} of what it had given before"


def _shares(name: str, rates: Sequence[float]) -> Iterator[str]:
    mean = sum(rates) / len(rates)
    yield f"{name}: {min(rates) / mean:.2f} to {max(rates) / mean:.2f} of the mean, {mean / 1e6:.1f} MB/s"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hosts", description=__doc__)
    parser.add_argument("--delay", type=float, default=10, metavar="MS", help="one way takes so long (10)")
    parser.add_argument("--loss", type=float, default=0.1, metavar="PERCENT", help="of packets (0.1)")
    parser.add_argument("--rate", type=float, default=20, metavar="MB", help="megabytes a second of an endpoint (20)")
    phases = "before, while an endpoint is cut off, and after (15 30 45)"
    parser.add_argument("--phases", type=float, nargs=3, default=(15, 30, 45), metavar="SECONDS", help=phases)
    parser.add_argument("--stall", type=float, default=60, metavar="SECONDS", help="the clients' stall_timeout (60)")
    parser.add_argument("--loopback", action="store_true", help="gateways on loopback, also where namespaces are")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    return parser.parse_args()


def prepare(folder: Path) -> Path:
    """Write the objects, and what they have to be; return their folder."""
    write_objects(folder / "objects", _CASE)
    paths = {key: folder / "objects" / _CASE.bucket / key for key in _CASE.keys}
    (folder / "checksums").write_text(json.dumps({key: zlib.crc32(path.read_bytes()) for key, path in paths.items()}))
    return folder / "objects"


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # and all that was begun
    os.environ["S3DLIO_STALL_TIMEOUT"] = str(options.stall)
    delay, rate = options.delay / 1000, options.rate * 1e6
    with tempfile.TemporaryDirectory(prefix="s3dlio-hosts-") as name:
        objects = prepare(Path(name))
        apart = not options.loopback and has_namespaces()
        made: contextlib.AbstractContextManager[Network] = (
            namespaces(objects, delay, options.loss / 100, rate) if apart else loopback(objects, delay, rate)
        )
        with made as network:
            run = measure(network, Path(name), *options.phases)
    line = f"{options.delay:.0f} ms one way, {options.loss:.1f} % lost" if apart else f"{2 * options.delay:.0f} ms late"
    print(f"{CLIENTS} clients, {ENDPOINTS} endpoints {'in namespaces' if apart else 'on loopback'}, {line}")
    print("", *table(run), "", *summary(run, rate), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(asdict(run)))


if __name__ == "__main__":
    main()
