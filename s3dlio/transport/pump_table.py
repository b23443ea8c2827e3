"""The block of 64-bit words that the pump's two sides share: where is what. See :mod:`.pump_kernel` for its rules."""

from __future__ import annotations

ROWS = 8192
"""One a descriptor; whoever has a higher one does without the pump."""

# Words of control. The bells and the epoll are descriptors; the addresses are those of memory that Python keeps.
BELL_IN, BELL_OUT, EPOLL, EVENTS, EVENT_WORDS, EVENT_DATA, ONE, SCRATCH_IN, SCRATCH_OUT = range(9)
TAIL_IN, HEAD_IN, RUNG_IN, HEARD_IN, TAIL_OUT, HEAD_OUT, RUNG_OUT, HEARD_OUT, AGAIN, STOP, FOUND, WORKING = range(9, 21)

RING_IN = 32
RING_OUT = RING_IN + 2 * ROWS
RING_AGAIN = RING_OUT + ROWS
TABLE = RING_AGAIN + ROWS

# Columns of a row. Sizes are bytes; TLS is an `SSL *` or 0; BODY is where the pieces of a body are listed, each by its
# address and its size, which are sent after OUT and counted in OUT_DONE; PLACE is where the body of a plain answer is
# received that has just PLACE_SIZE bytes, which are counted in IN_DONE; FOLD is 0, or where three words say what is
# computed of the received bytes: a checksum's register, which is kept up to date, its table and its constants.
STATE, TLS, OUT, OUT_SIZE, OUT_DONE, IN, IN_SIZE, IN_DONE, WANT, SCANNED = range(10)
EARLY, CANCEL, OUTCOME, DETAIL, EVENT, LISTED, BODY, BODY_SIZE, PLACE, PLACE_SIZE, FOLD = range(10, 21)
COLUMNS = 21

WORDS = TABLE + ROWS * COLUMNS

ASKED = 13
"""Words by which a row is asked for: its descriptor, and TLS, OUT, OUT_SIZE, IN, IN_SIZE, WANT, EARLY, BODY, BODY_SIZE,
PLACE, PLACE_SIZE, FOLD."""

TOLD = 6
"""Words by which it is told what became of one: its descriptor, OUTCOME, DETAIL, OUT_DONE, IN_DONE, WANT."""

FREE, SUBMITTED, ACTIVE, DONE = range(4)

ANSWER, ANYTHING = range(2)
"""What is wanted, where it is no number of bytes: an answer, as much of it as is worth looking at; whatever comes."""

ANYHOW, WATCHED, REUSED = range(3)
"""How a row is sent: anyhow; till the peer says something; not at all where it has said something before."""

COMPLETE, HANDED_BACK, ENDED, BROKEN, TLS_BROKEN, CANCELLED, STALE = range(7)
"""Outcomes: all is there; so much that Python should look; the peer's end; an errno, or OpenSSL's code, in DETAIL; let
go of; there was something to read before anything was asked."""

FIRST_READ = 16 << 10
"""Bytes received before a head is looked for: what comes of a large body with its head has to be copied."""

FOLDED = 256 << 10
"""Bytes that are received at a time where a checksum is computed of them: they are in the cache then."""

TURN = 1 << 20
"""Bytes after which another row has its turn."""

MAX_EVENTS = 256

BATCH = 16
"""Rows done after which Python is woken though more are coming."""
