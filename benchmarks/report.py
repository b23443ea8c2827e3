"""Tables and targets out of measurements. Medians throughout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from .cases import Case, Measurement, MiB
from .clients import CLIENTS, PEERS

REFERENCE = "s3torchconnector"


def rate(measurement: Measurement) -> float:
    """Bytes a second."""
    return measurement.bytes / measurement.seconds


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
    Target("small", "read", PEERS, 1.5),
    Target("small", "read", (REFERENCE,), 3),
    Target("slow", "read", (REFERENCE,), 20),
    Target("large, TLS", "read", PEERS, 2),
    Target("small, TLS", "read", PEERS, 1.5),
    Target("large, busy", "read", PEERS, 1),
    Target("small, busy", "read", PEERS, 1),
    Target("large, TLS, busy", "read", PEERS, 1),
    Target("small, TLS, busy", "read", PEERS, 1),
)


class Results:
    """All measurements of a run."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self._measurements = measurements

    def of(self, case: str, client: str) -> list[Measurement]:
        return [found for found in self._measurements if (found.case, found.client) == (case, client)]

    def rate(self, case: str, client: str) -> float | None:
        """Bytes a second, or None where it was not measured."""
        found = self.of(case, client)
        return median(map(rate, found)) if found else None

    def table(self, case: Case) -> Iterator[str]:
        """Lines of Markdown."""
        unit, per = ("GB/s", "CPU s/GB") if case.is_large else ("objects/s", "CPU µs/object")
        yield f"| {case.title} | {unit} | from - to | {per} | peak MiB | x {REFERENCE} |"
        yield "| --- | ---: | ---: | ---: | ---: | ---: |"
        reference = self.rate(case.name, REFERENCE)
        for name, client in CLIENTS.items():
            if found := self.of(case.name, name):
                yield f"| {client.title} | {_row(case, found, reference)} |"

    def verdicts(self) -> Iterator[str]:
        """One line for each target."""
        return (self._verdict(target) for target in TARGETS)

    def _verdict(self, target: Target) -> str:
        name = f"{target.case}, {CLIENTS[target.client].title}"
        own = self.rate(target.case, target.client)
        others = {other: speed for other in target.others if (speed := self.rate(target.case, other))}
        if own is None or not others:
            return f"{name}: not measured"
        best = max(others, key=others.__getitem__)
        ratio = own / others[best]
        outcome = "met" if ratio >= target.factor else "missed"
        return f"{name}: {ratio:.1f} x {best}, target {target.factor:g} x: {outcome}"


def _row(case: Case, found: list[Measurement], reference: float | None) -> str:
    scale = 1e9 if case.is_large else case.size
    speeds = sorted(rate(one) / scale for one in found)
    cpu = median(
        one.cpu_seconds / one.bytes * 1e9 if case.is_large else one.cpu_seconds / one.objects * 1e6 for one in found
    )
    speed = ".2f" if case.is_large else ",.0f"
    return " | ".join(
        (
            f"{median(speeds):{speed}}",
            f"{speeds[0]:{speed}} - {speeds[-1]:{speed}}",
            f"{cpu:{'.2f' if case.is_large else '.0f'}}",
            f"{median(one.peak_bytes for one in found) / MiB:,.0f}",
            f"{median(speeds) * scale / reference:.2f}" if reference else "",
        )
    )
