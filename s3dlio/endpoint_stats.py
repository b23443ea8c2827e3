"""What was asked of the endpoints of a store, and what came of it, in numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from html import escape
from types import MappingProxyType

_NONE: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """Of one endpoint, since its store was opened."""

    endpoint: str
    """Its URL."""
    state: str = "in"
    """`in`; `out` where it is passed over for a while; `tried` where it may be back. One alone is always `in`."""
    requests: int = 0
    """How many were answered as asked."""
    failures: Mapping[str, int] = field(default_factory=lambda: _NONE)
    """Attempts that were not, by what became of them: `not sent`, `broken`, `stalled`, `late`, `throttled`,
    `transient`, `final`."""
    received: int = 0
    """Bytes of bodies, of objects and of all else."""
    sent: int = 0
    """Bytes of bodies."""
    connections_opened: int = 0
    connections_in_use: int = 0
    connections_idle: int = 0

    def __add__(self, other: EndpointStats) -> EndpointStats:
        """Both, of the same endpoint, by two stores."""
        numbers = {name: getattr(self, name) + getattr(other, name) for name in _NUMBERS}
        kinds = {**self.failures, **other.failures}
        failures = {kind: self.failures.get(kind, 0) + other.failures.get(kind, 0) for kind in kinds}
        return EndpointStats(
            self.endpoint, max(self.state, other.state, key=_STATES.index), failures=failures, **numbers
        )


_STATES = ("in", "tried", "out")
_NUMBERS = [each.name for each in fields(EndpointStats) if each.name not in ("endpoint", "state", "failures")]


@dataclass(frozen=True, slots=True)
class Stats:
    """Of all endpoints of one store, or of several. Shown as a table; in a notebook, as one of HTML."""

    endpoints: tuple[EndpointStats, ...] = ()

    @classmethod
    def of_all(cls, stores: Iterable[Stats]) -> Stats:
        """Those of several stores; an endpoint of more than one of them is there once."""
        found: dict[str, EndpointStats] = {}
        for stats in stores:
            for each in stats.endpoints:
                known = found.get(each.endpoint)
                found[each.endpoint] = each if known is None else known + each
        return cls(tuple(found.values()))

    def __str__(self) -> str:
        rows = [_HEAD, *map(_row, self.endpoints)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in _HEAD)
        rows = ("".join(f"<td>{escape(cell)}</td>" for cell in _row(each)) for each in self.endpoints)
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"


_HEAD = ("endpoint", "state", "requests", "failures", "received", "sent", "connections")


def _row(each: EndpointStats) -> tuple[str, ...]:
    failures = ", ".join(f"{count} {kind}" for kind, count in each.failures.items())
    connections = f"{each.connections_in_use} in use, {each.connections_idle} idle"
    return (
        *(each.endpoint, each.state, f"{each.requests:,}", failures or "none"),
        *(size_text(each.received), size_text(each.sent), connections),
    )


def size_text(count: float) -> str:
    """So many bytes, for a person to read."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
