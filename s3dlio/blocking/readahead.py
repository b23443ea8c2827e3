"""Bodies of a sequence of objects, fetched ahead of the consumer and handed over several at a time.

Theory of operation. The consumer's thread decides: it pulls wants from its source, keeps a window of positions that may
be under way, and posts new ones to the loop, several at a time. The loop's side (:mod:`.prefetch`) works them off and
puts outcomes into a dictionary, which the consumer empties without a lock or a call; it waits, on a queue, only for a
body that is not there yet.

When. Nothing is fetched before bodies are really read: the second read starts the window (in the group form, `eager`,
the first read starts the whole group), and has it at its full width where the consumer has to wait. The window shrinks
when it never does. Bodies nobody came for are dropped when the window has passed them by.

Nothing else changes: the source is pulled in order, its errors and those of each object come out where they would have
without reading ahead, and a position that was not fetched ahead is fetched when it is asked for. That holds for what
failed because the server was out, too: it is asked for again when somebody wants it, unless they have been waiting for
most of the time that it was tried.

Ownership: the reading-ahead owns its prefetcher, which ends with it. Cancellation: :meth:`ReadAhead.close`, or its
collection, cancels what is under way. Fork: a child keeps the positions and forgets the prefetcher.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator

from ..fetcher import MAX_OBJECTS, Outage
from ..observers import span_ended
from .portal import as_shown, portal
from .prefetch import Prefetcher, Want

_FIRST_OBJECTS = 32
_GROWTH = 4
_REMEMBERED = 4096


class ReadAhead:
    """`wants` in order, and their bodies: an iterator of positions, from 0, and wants. See the module's text.

    `eager` is the form for a group, whose bodies are all fetched at the first read. One thread iterates; bodies may be
    asked for by any thread.
    """

    def __init__(self, wants: Iterable[Want], *, eager: bool = False) -> None:
        self._source = iter(wants)
        self._eager = eager
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._prefetcher: Prefetcher | None = None
        self._wants: dict[int, Want] = {}
        self._ahead: set[int] = set()
        self._pulled = 0
        self._yielded = 0
        self._asked = 0
        self._reads = 0
        self._learnt: int | None = None
        self._window = MAX_OBJECTS if eager else _FIRST_OBJECTS
        self._in_time = 0
        self._ended = False
        self._failure: BaseException | None = None

    def __iter__(self) -> Iterator[tuple[int, Want]]:
        return self

    def __next__(self) -> tuple[int, Want]:
        with self._lock:
            if self._yielded == self._pulled and not self._pull():
                raise StopIteration if self._failure is None else self._failure
            position = self._yielded
            self._yielded += 1
            self._forget(position - _REMEMBERED)
            return position, self._wants[position]

    def _pull(self) -> bool:
        """Take one more want from the source, or its end, which is kept till the consumer gets there."""
        if self._ended:
            return False
        try:
            self._wants[self._pulled] = next(self._source)
        except StopIteration:
            self._ended = True  # the exception is not kept: its traceback holds this read's frames, and their bodies
            return False
        except BaseException as error:
            self._ended, self._failure = True, error
            return False
        self._pulled += 1
        return True

    def body(self, position: int, want: Want | None = None) -> bytes:
        """The body of a `position` that was yielded. `want` names the object, for one that may be long past.

        Errors: that object's own `StoreError`; `CancelledError` where the reading-ahead is closed meanwhile; `KeyError`
        for a position that is long past, without `want`.
        """
        if self._pid != os.getpid():
            return (want or self._wants[position]).read()
        with self._lock:
            wanted = self._wants.pop(position, want)
            if wanted is None:
                raise KeyError(position)
            self._reads += 1
            if position not in self._ahead:
                if self._reads < 2 and not self._eager:
                    return self._read_alone(wanted)
                self._wants[position] = wanted
                self._ask_from(position)
                self._wants.pop(position)
            return self._take(position, wanted)

    def _read_alone(self, want: Want) -> bytes:
        body = want.read()
        self._learnt = len(body)
        return body

    def _take(self, position: int, want: Want) -> bytes:
        if position not in self._ahead or self._prefetcher is None:
            return want.read()
        waits = position not in self._prefetcher.done
        self._adapt(waits=waits)
        if waits or len(self._ahead) <= self._window // 2:
            self._ask_from(position + 1)
        begun = time.monotonic()
        outcome = self._prefetcher.take(position)
        if waits:
            span_ended("wait", begun, want.key)
        self._ahead.discard(position)
        if isinstance(outcome, bytes):
            return outcome
        if isinstance(outcome, Outage) and outcome.bears_another_try(time.monotonic() - begun):
            return self._read_again(want, self._prefetcher)
        raise as_shown(outcome.error if isinstance(outcome, Outage) else outcome)

    def _read_again(self, want: Want, prefetcher: Prefetcher) -> bytes:
        """What failed while nobody waited for it; once this one is read, so may be the others that did."""
        body = want.read()
        failed = [position for position in self._ahead if isinstance(prefetcher.done.get(position), Outage)]
        for position in failed:
            del prefetcher.done[position]
        prefetcher.submit([(position, self._wants[position]) for position in sorted(failed)])
        return body

    def _adapt(self, *, waits: bool) -> None:
        """A consumer that waits wants more under way; one that never does, less."""
        if waits:
            self._window, self._in_time = min(self._window * _GROWTH, MAX_OBJECTS), 0
            return
        self._in_time += 1
        if self._in_time > 4 * MAX_OBJECTS and not self._eager:
            self._window, self._in_time = max(self._window - self._window // 4, _FIRST_OBJECTS), 0

    def _ask_from(self, position: int) -> None:
        """Put the next positions under way, as far as the window reaches."""
        self._drop_passed(position)
        coming: list[tuple[int, Want]] = []
        self._asked = max(self._asked, position)
        while len(self._ahead) < self._window and (self._asked < self._pulled or self._pull()):
            want = self._wants.get(self._asked)
            if want is not None:
                self._ahead.add(self._asked)
                coming.append((self._asked, want))
            self._asked += 1
        if coming:
            self._working_prefetcher().submit(coming)

    def _drop_passed(self, position: int) -> None:
        """Forget bodies that the consumer has left behind by more than a window."""
        for passed in [old for old in self._ahead if old < position - 2 * MAX_OBJECTS]:
            self._ahead.discard(passed)
            if self._prefetcher is not None:
                self._prefetcher.drop(passed)

    def _forget(self, position: int) -> None:
        if position >= 0:
            self._wants.pop(position, None)

    def _working_prefetcher(self) -> Prefetcher:
        if self._prefetcher is None:
            self._prefetcher = Prefetcher(portal(), self._learnt)
            weakref.finalize(self, self._prefetcher.close)
        return self._prefetcher

    def close(self) -> None:
        """Cancel what is under way and forget what was fetched."""
        if self._prefetcher is not None:
            self._prefetcher.close()
            self._prefetcher = None
            self._ahead.clear()

    def __repr__(self) -> str:
        return f"<ReadAhead at {self._yielded}, {len(self._ahead)} ahead, window {self._window}>"
