"""Stand-ins for the services that hand out credentials, on loopback, and a clock that tests set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from ..servers.loopback import Handler, listening

Answer = Callable[[str, str], tuple[int, str]]
"""From a request's method and path to a status and a body."""


@dataclass
class FakeService:
    """A server's address and the requests it got, as `METHOD path`."""

    url: str
    requests: list[str] = field(default_factory=list)


@contextmanager
def serving(answer: Answer) -> Iterator[FakeService]:
    """A loopback HTTP server that answers with `answer` while the block runs."""

    class Service(Handler):
        def _answer(self) -> None:
            self.body()
            service.requests.append(f"{self.command} {self.path}")
            status, body = answer(self.command, self.path)
            self.answer(status, body.encode())

        do_GET = do_PUT = do_POST = _answer

    with listening(Service) as url:
        service = FakeService(url)
        yield service


def hence(seconds: float) -> str:
    """The moment `seconds` from now, as AWS writes it."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Clock:
    """POSIX seconds that pass when a test says so."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
