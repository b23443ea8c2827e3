"""How far a long call is: a bar in a terminal or notebook, lines of text elsewhere, nothing within the first second.

The waiting thread shows it, not the loop's: a terminal that takes no output holds up nobody but its own caller. The bar
is tqdm's; where that is not installed, there are lines of text.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TextIO, TypeVar

from .portal import BlockingPortal, Job

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

APPEARS = 1.0
"""Seconds after which a call is a long one."""
LINE_EVERY = 2.0
_LOOK = 0.1


@dataclass
class Tally:
    """What was done so far, and what there is to do as far as that is known; `done` and `total` are of one `unit`."""

    unit: str = "B"
    done: int = 0
    total: int | None = None
    objects: int = 0

    def add(self, done: int, objects: int = 0) -> None:
        """So much more was done; of any one thread."""
        self.done += done
        self.objects += objects

    def expect(self, more: int) -> None:
        """There is so much more to do."""
        self.total = (self.total or 0) + more


def line(verb: str, tally: Tally, seconds: float) -> str:
    """How far `verb` is after so many seconds, in one line."""
    rate = tally.done / seconds if seconds else 0.0
    if tally.unit != "B":
        of = f" of {tally.total:,}" if tally.total is not None else ""
        return f"s3dlio {verb}: {tally.done:,}{of} {tally.unit}, {rate:,.0f} a second"
    of = f" of {tally.total / 1e6:,.1f}" if tally.total is not None else ""
    return f"s3dlio {verb}: {tally.objects:,} objects, {tally.done / 1e6:,.1f}{of} MB, {rate / 1e6:,.1f} MB/s"


class Awaited(Protocol[T_co]):
    """What is under way, such as a :class:`.portal.Job`."""

    def wait(self, timeout: float) -> bool:
        """Whether it is over, now or after at most `timeout` seconds."""

    def result(self) -> T_co:
        """What came of it. Errors: it may have failed."""


class Display:
    """What is seen of the call `verb`, whose `tally` others keep; nothing unless `wanted`.

    `clock` tells seconds, `stream` is where lines of text go, `open_bar` makes a bar, `None` where there can be none.
    """

    def __init__(
        self,
        verb: str,
        tally: Tally,
        *,
        wanted: bool = True,
        clock: Callable[[], float] = time.monotonic,
        stream: TextIO | None = None,
        open_bar: Callable[[str, Tally], Any] | None = None,
    ) -> None:
        self._verb = verb
        self._tally = tally
        self._clock = clock
        self._stream = stream or sys.stderr
        self._wanted = wanted and self._stream is not None
        self._open_bar = open_bar or bar
        self._bar: Any = None
        self._begun = clock()
        self._next_line = self._begun + LINE_EVERY
        self._lines = False

    def wait(self, job: Awaited[T]) -> T:
        """The result of `job`, while the display moves. Errors: the job's."""
        while not job.wait(_LOOK):
            self.tick()
        self.tick()
        return job.result()

    def run(self, here: BlockingPortal, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` gives, which is awaited on the loop, while the display moves. Errors: its."""
        job = Job(here, work)
        try:
            here.post(job)
            return self.wait(job)
        except BaseException:
            job.let_go()
            raise

    def tick(self) -> None:
        """Show how far it is, if it is time to."""
        now = self._clock()
        if not self._wanted or now < self._begun + APPEARS:
            return
        if self._bar is None and not self._lines:
            self._bar = self._open_bar(self._verb, self._tally)
            self._lines = self._bar is None
        if self._lines and now >= self._next_line:
            self._next_line = now + LINE_EVERY
            self._say(now)
        elif self._bar is not None:
            move(self._bar, self._tally)

    def _say(self, now: float) -> None:
        with suppress(OSError, ValueError):  # nobody reads it, or it is closed: the work goes on
            print(line(self._verb, self._tally, now - self._begun), file=self._stream, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            move(self._bar, self._tally)
            self._bar.close()


def bar(verb: str, tally: Tally) -> Any:
    """A bar, where a person looks and tqdm is installed."""
    if not (sys.stderr.isatty() or in_notebook()):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # without ipywidgets it draws with letters, and says so
            from tqdm.auto import tqdm

            scaled = tally.unit == "B"
            return tqdm(
                desc=verb, total=tally.total, unit=tally.unit if scaled else f" {tally.unit}", unit_scale=scaled
            )
    except ImportError:
        return None


def move(shown: Any, tally: Tally) -> None:
    """Bring the bar `shown` to where `tally` is."""
    shown.total = tally.total
    if tally.unit == "B":
        shown.set_postfix_str(f"{tally.objects:,} objects", refresh=False)
    shown.update(tally.done - shown.n)


def in_notebook() -> bool:
    """Whether this is a kernel of Jupyter, whose output is a notebook's."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")
