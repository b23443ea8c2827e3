"""Tables and targets out of measurements. Medians throughout."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from .cases import Case, Measurement, MiB
from .clients import CLIENTS, PEERS

REFERENCE = "s3torchconnector"
_UNNAMED = ("raw", "pooled", "many", "unchecked")
"""Those whose package is named with another client."""


def speed(case: Case, measurement: Measurement) -> float:
    """GB a second of large objects, else objects or keys a second; 0 where it was not done."""
    done = measurement.bytes / 1e9 if case.is_large else measurement.objects
    return done / measurement.seconds if measurement.seconds else 0.0


def first_speed(case: Case, measurement: Measurement) -> float:
    """That of the first pass of a process."""
    done = case.count * case.size / 1e9 if case.is_large else case.warm_up
    return done / measurement.first_seconds if measurement.first_seconds else 0.0


@dataclass(frozen=True)
class Target:
    """A client is to be `factor` times as fast as the best of `others` with a case."""

    case: str
    client: str
    others: tuple[str, ...]
    factor: float


TARGETS = (
    Target("large", "read", PEERS, 2),
    Target("large", "pooled", PEERS, 2.5),
    Target("large", "pooled", ("raw",), 0.85),
    Target("checked", "read", ("unchecked",), 0.95),
    Target("small", "read", PEERS, 1.5),
    Target("small", "read", (REFERENCE,), 3),
    Target("small", "pooled", ("aiobotocore",), 10),
    Target("large", "pooled", ("aiobotocore",), 5),
    Target("slow", "read", PEERS, 1),
    Target("slow, many", "read", PEERS, 1),
    Target("large, TLS", "read", PEERS, 2),
    Target("small, TLS", "read", PEERS, 1.5),
    Target("large, busy", "read", PEERS, 1),
    Target("small, busy", "read", PEERS, 1),
    Target("large, TLS, busy", "read", PEERS, 1),
    Target("small, TLS, busy", "read", PEERS, 1),
    Target("workers", "read", (REFERENCE,), 2),
    Target("list", "read", ("obstore",), 1),
    Target("list, long", "read", ("obstore",), 1),
    Target("write", "read", PEERS, 1),
    Target("write", "read", (REFERENCE,), 2),
    Target("save", "read", (REFERENCE,), 1.5),
)


class Results:
    """All measurements of a run."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self._measurements = measurements

    def of(self, case: Case, client: str) -> list[Measurement]:
        """What was measured, also where it was not done."""
        return [found for found in self._measurements if (found.case, found.client) == (case.name, client)]

    def speed(self, case: Case, client: str) -> float:
        """See :func:`speed`; 0 where it was not done, or not measured."""
        found = [speed(case, one) for one in self.of(case, client)]
        return median(found) if found else 0.0

    def table(self, case: Case) -> Iterator[str]:
        """Lines of Markdown."""
        unit, per = ("GB/s", "CPU s/GB") if case.is_large else ("per second", "CPU µs")
        yield f"| {case.title} | {unit} | from - to | first pass | {per} | peak MiB | x {REFERENCE} |"
        yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
        reference = self.speed(case, REFERENCE)
        for name, client in CLIENTS.items():
            if found := self.of(case, name):
                yield f"| {client.title} | {_row(case, found, reference)} |"

    def verdicts(self, plan: Sequence[Case]) -> Iterator[str]:
        """One line for each target of the cases in `plan`."""
        by_name = {case.name: case for case in plan}
        return (self._verdict(target, by_name[target.case]) for target in TARGETS if target.case in by_name)

    def _verdict(self, target: Target, case: Case) -> str:
        name = f"{case.title}, {CLIENTS[target.client].title}"
        own = self.speed(case, target.client)
        others = {other: found for other in target.others if (found := self.speed(case, other))}
        if not own or not others:
            return f"{name}: {'no other was measured' if own else 'not done'}"
        best = max(others, key=others.__getitem__)
        ratio = own / others[best]
        outcome = "met" if ratio >= target.factor else "missed"
        return f"{name}: {ratio:.2f} x {CLIENTS[best].title}, target {target.factor:g} x: {outcome}"


def _row(case: Case, measured: Sequence[Measurement], reference: float) -> str:
    found = [one for one in measured if one.objects]
    if not found:
        return "not done | | | | |"
    speeds = sorted(speed(case, one) for one in found)
    shown = ".2f" if case.is_large else ",.0f"
    first = f"{median(first_speed(case, one) for one in found):{shown}}" if case.warm_up >= case.count else ""
    done = [one.bytes / 1e9 if case.is_large else one.objects / 1e6 for one in found]
    cpu = median(one.cpu_seconds / much for one, much in zip(found, done, strict=True))
    return " | ".join(
        (
            f"{median(speeds):{shown}}",
            f"{speeds[0]:{shown}} - {speeds[-1]:{shown}}",
            first,
            f"{cpu:{'.2f' if case.is_large else '.0f'}}",
            f"{median(one.peak_bytes for one in found) / MiB:,.0f}",
            f"{median(speeds) / reference:.2f}" if reference else "",
        )
    )


def document(plan: Sequence[Case], results: Results, versions: Mapping[str, str], server: str, rounds: int) -> str:
    """The page, in Markdown."""
    packages = {CLIENTS[name].title: found for name, found in versions.items() if name not in _UNNAMED}
    lines = [
        "# Benchmarks",
        "",
        f"What `make bench` printed on a machine of {os.cpu_count()} cores, with Python {platform.python_version()}:",
        f"medians of {rounds}, each a fresh process, the clients in turn. The server is {server}, on the same cores.",
        "",
        "Clients: " + ", ".join(f"{title} ({found})" for title, found in packages.items()) + ".",
        "",
        "The first pass is that of a fresh process, the figures before it those of the passes that follow. CPU is that",
        "of the client alone, peak is by how much its memory grew.",
        "",
        "## Targets, as ratios of medians",
        "",
        *(f"- {line}" for line in results.verdicts(plan)),
        "",
        "![Speeds, as ratios to the best of the others](ratios.svg)",
    ]
    for case in plan:
        lines += ["", *results.table(case)]
    return "\n".join(lines) + "\n"
