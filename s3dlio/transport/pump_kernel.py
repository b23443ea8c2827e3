"""The pump's machine code, as numba compiles it: many exchanges worked on at once, without the interpreter.

Theory of operation. All that the two sides share is one block of 64-bit words (:mod:`.pump_table`): some of control,
two rings, and a table with one row a descriptor, whose number *is* the descriptor. :func:`submit`, called by Python,
fills a row and puts it into one ring; :func:`pump`, which runs in a thread of its own, works on it and puts it into the
other, from where :func:`collect` takes it. A ring has one writer and one reader. Whoever writes rings the reader's
bell, an eventfd, unless it has been rung and not been heard yet.

Who owns a row: the pump, from SUBMITTED to DONE; Python otherwise. Only the pump moves a row to DONE, cancelled or not,
and it does not look at the row's memory from then on.

A row sends `OUT`, then receives into `IN` until `WANT` bytes are there. Where that is ANSWER an answer is expected, and
how much of it to wait for is read from its head: all of a plain 200 or 206 that fits, else the head alone. This is not
parsing: Python reads the same head again, by the book, and goes on with the bytes that are there. What must not happen
here is to wait for more than the server will send, or for what is refused anyway. So the rules here are narrower than
the book's, and whatever does not keep them is handed back at once.

Descriptors are registered once, edge-triggered, so a wait costs no system call of its own; hence a row is tried before
it is waited for, and again until the kernel says EAGAIN.

Importing this module imports numba. Nothing here allocates, raises, or refers to a Python object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.extending import intrinsic

from ..alignment.kernels import crc_function, host_lanes
from . import pump_table as t
from .pump_head import head_end, int_at, plain_length, word_at


def _external(name: str, signature: Any) -> Any:
    """A function of libc's or OpenSSL's; the linker has its address."""
    return types.ExternalFunction(name, signature)


_send = _external("send", types.int64(types.int32, types.int64, types.int64, types.int32))
_recv = _external("recv", types.int64(types.int32, types.int64, types.int64, types.int32))
_read = _external("read", types.int64(types.int32, types.int64, types.int64))
_write = _external("write", types.int64(types.int32, types.int64, types.int64))
_copy = _external("memcpy", types.int64(types.int64, types.int64, types.int64))
_epoll_wait = _external("epoll_wait", types.int32(types.int32, types.int64, types.int32, types.int32))
_errno_location = _external("__errno_location", types.int64())
_ssl_read = _external("SSL_read", types.int32(types.int64, types.int64, types.int32))
_ssl_peek = _external("SSL_peek", types.int32(types.int64, types.int64, types.int32))
_ssl_write = _external("SSL_write", types.int32(types.int64, types.int64, types.int32))
_ssl_get_error = _external("SSL_get_error", types.int32(types.int64, types.int32))
_clear_errors = _external("ERR_clear_error", types.void())
_first_error = _external("ERR_get_error", types.int64())

for _name in ("SSL_read", "SSL_peek", "SSL_write", "SSL_get_error", "ERR_clear_error", "ERR_get_error"):
    binding.add_symbol(_name, 1)  # where it compiles, numba wants some address, and calls nothing there

_EINTR, _EAGAIN = 4, 11
_NO_SIGNAL, _PEEK = np.int32(0x4000), np.int32(0x2)
_WANT_READ, _WANT_WRITE, _SYSCALL, _CLOSED = 2, 3, 5, 6
_LARGEST = 1 << 30
_READABLE = 0x1 | 0x8 | 0x10 | 0x2000
"""EPOLLIN, EPOLLERR, EPOLLHUP, EPOLLRDHUP."""

_MORE, _WAIT, _AGAIN = -1, -2, -3
"""What a step leads to where it is no outcome yet."""

_words = types.CPointer(types.int64)


def _fence_instruction(context: Any) -> Any:
    def lower(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), lower


_fence: Any = intrinsic(_fence_instruction)
"""What was stored before it is seen by the other side before anything is loaded after it."""


def _element_address(context: Any, words: Any, index: Any) -> Any:
    def lower(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.ptrtoint(builder.gep(arguments[0], [arguments[1]]), ir.IntType(64))

    return types.int64(_words, types.int64), lower


_address_of: Any = intrinsic(_element_address)


def _word_storer(context: Any, address: Any, value: Any) -> Any:
    def lower(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), lower


_put_word: Any = intrinsic(_word_storer)
_crc = crc_function(host_lanes())


@njit(error_model="numpy")
def _ring(words: Any, bell: int, rung: int, heard: int) -> None:
    _fence()
    if words[rung] == words[heard]:
        words[rung] += 1
        _write(np.int32(words[bell]), _address_of(words, t.ONE), 8)


@njit(error_model="numpy")
def _hear(words: Any, bell: int, rung: int, heard: int, scratch: int) -> None:
    _read(np.int32(words[bell]), _address_of(words, scratch), 8)
    words[heard] = words[rung]
    _fence()


@njit(error_model="numpy")
def _tls_failure(words: Any, at: Any, result: Any) -> Any:
    kind = _ssl_get_error(words[at + t.TLS], np.int32(result))
    if kind in (_WANT_READ, _WANT_WRITE):
        return _WAIT
    if kind == _CLOSED:
        return t.ENDED
    if kind == _SYSCALL:
        words[at + t.DETAIL] = int_at(_errno_location())
        return t.BROKEN if result < 0 and words[at + t.DETAIL] != 0 else t.TLS_BROKEN
    words[at + t.DETAIL] = _first_error()
    return t.TLS_BROKEN


@njit(error_model="numpy")
def _failure(words: Any, at: Any) -> Any:
    number = int_at(_errno_location())
    if number == _EAGAIN:
        return _WAIT
    if number == _EINTR:
        return _MORE
    words[at + t.DETAIL] = number
    return t.BROKEN


@njit(error_model="numpy")
def _has_spoken(words: Any, at: Any, fd: Any) -> Any:
    """Whether there is something to read, or the peer's end. What comes under TLS may be for OpenSSL alone."""
    scratch = _address_of(words, t.SCRATCH_IN)
    if words[at + t.TLS]:
        _clear_errors()
        result = np.int64(_ssl_peek(words[at + t.TLS], scratch, np.int32(1)))
        return result > 0 or _tls_failure(words, at, result) != _WAIT
    return _recv(np.int32(fd), scratch, 1, _PEEK) >= 0 or _failure(words, at) == t.BROKEN


@njit(error_model="numpy")
def _next_out(words: Any, at: Any) -> Any:
    """Where the bytes are that are sent next, and how many of them lie together."""
    done, place, size, piece = words[at + t.OUT_DONE], words[at + t.OUT], words[at + t.OUT_SIZE], words[at + t.BODY]
    while done >= size:
        done -= size
        place, size = word_at(piece), word_at(piece + 8)
        piece += 16
    return place + done, size - done


@njit(error_model="numpy")
def _send_some(words: Any, at: Any, fd: Any) -> Any:
    place, rest = _next_out(words, at)
    if words[at + t.TLS]:
        _clear_errors()
        count = np.int64(_ssl_write(words[at + t.TLS], place, np.int32(min(rest, _LARGEST))))
        if count <= 0:
            return _tls_failure(words, at, count)
    else:
        count = _send(np.int32(fd), place, rest, _NO_SIGNAL)
        if count < 0:
            return _failure(words, at)
    words[at + t.OUT_DONE] += count
    return _MORE


@njit(error_model="numpy")
def _room(words: Any, at: Any) -> Any:
    """How many bytes to receive now."""
    done, want, size = words[at + t.IN_DONE], words[at + t.WANT], words[at + t.IN_SIZE]
    if want > t.ANYTHING:
        return min(want, size) - done
    return (t.FIRST_READ if done < t.FIRST_READ < size else size) - done


@njit(error_model="numpy")
def _fold(fold: Any, place: Any, count: Any) -> None:
    """Go on with a checksum, by `count` bytes that have just been received."""
    _put_word(fold, _crc(place, count, np.uint64(word_at(fold)), word_at(fold + 8), word_at(fold + 16)))


@njit(error_model="numpy")
def _receive_some(words: Any, at: Any, fd: Any) -> Any:
    place, room, fold = words[at + t.IN] + words[at + t.IN_DONE], _room(words, at), words[at + t.FOLD]
    if fold:
        room = min(room, t.FOLDED)
    if words[at + t.TLS]:
        _clear_errors()
        count = np.int64(_ssl_read(words[at + t.TLS], place, np.int32(min(room, _LARGEST))))
        if count <= 0:
            return _tls_failure(words, at, count)
    else:
        count = _recv(np.int32(fd), place, room, np.int32(0))
        if count < 0:
            return _failure(words, at)
        if count == 0:
            return t.ENDED
    if fold:
        _fold(fold, place, count)
    words[at + t.IN_DONE] += count
    return _look(words, at) if words[at + t.WANT] == t.ANSWER else _MORE


@njit(error_model="numpy")
def _look(words: Any, at: Any) -> Any:
    """How much to wait for, if the head is there."""
    start, done, size = words[at + t.IN], words[at + t.IN_DONE], words[at + t.IN_SIZE]
    head = head_end(start, done, words[at + t.SCANNED])
    words[at + t.SCANNED] = done
    if head == 0:
        return t.HANDED_BACK if done == size else _MORE
    length = plain_length(start, start + head)
    if length < 0 or head + length > size:
        return t.HANDED_BACK
    words[at + t.WANT] = head + length
    if 0 < length == words[at + t.PLACE_SIZE] and done <= head + length:
        _copy(words[at + t.PLACE], start + head, done - head)
        words[at + t.IN], words[at + t.IN_SIZE] = words[at + t.PLACE] - head, head + length
    return _MORE


@njit(error_model="numpy")
def _step(words: Any, at: Any, fd: Any) -> Any:
    if words[at + t.OUT_DONE] < words[at + t.OUT_SIZE] + words[at + t.BODY_SIZE]:
        early, first = words[at + t.EARLY], words[at + t.OUT_DONE] == 0
        look = first if early == t.REUSED else early == t.WATCHED and (first or words[at + t.EVENT])
        if look and _has_spoken(words, at, fd):
            return t.STALE if early == t.REUSED else t.HANDED_BACK
        if look:
            words[at + t.EVENT] = 0
        return _send_some(words, at, fd)
    done, want = words[at + t.IN_DONE], words[at + t.WANT]
    if words[at + t.IN_SIZE] == 0 or (want and done >= want):
        return t.COMPLETE
    return _receive_some(words, at, fd)


@njit(error_model="numpy")
def _advance(words: Any, at: Any, fd: Any) -> Any:
    before = words[at + t.OUT_DONE] + words[at + t.IN_DONE]
    result = _MORE
    while result == _MORE:
        result = _step(words, at, fd)
        if result == _MORE and words[at + t.OUT_DONE] + words[at + t.IN_DONE] - before > t.TURN:
            return _AGAIN
    return result


@njit(error_model="numpy")
def _finish(words: Any, at: Any, fd: Any, outcome: Any) -> None:
    words[at + t.OUTCOME] = outcome
    words[at + t.EVENT] = 0
    words[at + t.STATE] = t.DONE
    words[t.WORKING] -= 1
    words[t.RING_OUT + words[t.TAIL_OUT] % t.ROWS] = fd
    _fence()
    words[t.TAIL_OUT] += 1


@njit(error_model="numpy")
def _work(words: Any, fd: Any) -> None:
    at = t.TABLE + fd * t.COLUMNS
    result = _advance(words, at, fd)
    if result >= 0:
        _finish(words, at, fd, result)
    elif result == _AGAIN:
        words[at + t.LISTED] = 1
        words[t.RING_AGAIN + words[t.AGAIN]] = fd
        words[t.AGAIN] += 1


@njit(error_model="numpy")
def _take_submitted(words: Any) -> None:
    tail = words[t.TAIL_IN]
    _fence()
    while words[t.HEAD_IN] != tail:
        fd = words[t.RING_IN + words[t.HEAD_IN] % (2 * t.ROWS)]
        words[t.HEAD_IN] += 1
        at = t.TABLE + fd * t.COLUMNS
        if words[at + t.STATE] == t.SUBMITTED:
            words[at + t.STATE] = t.ACTIVE
            words[t.WORKING] += 1
            if not words[at + t.CANCEL]:
                _work(words, fd)
        if words[at + t.STATE] == t.ACTIVE and words[at + t.CANCEL]:
            _finish(words, at, fd, t.CANCELLED)


@njit(error_model="numpy")
def _take_turns(words: Any) -> None:
    """Go on with the rows that gave way to others."""
    count, words[t.AGAIN] = words[t.AGAIN], 0
    for index in range(count):  # at most as many come anew, each into a place that has been read
        fd = words[t.RING_AGAIN + index]
        words[t.TABLE + fd * t.COLUMNS + t.LISTED] = 0
        if words[t.TABLE + fd * t.COLUMNS + t.STATE] == t.ACTIVE:
            _work(words, fd)


@njit(error_model="numpy")
def _take_event(words: Any, index: Any) -> None:
    place = words[t.EVENTS] + 4 * index * words[t.EVENT_WORDS]
    fd = int_at(place + 4 * words[t.EVENT_DATA])
    if fd == words[t.BELL_IN]:
        _hear(words, t.BELL_IN, t.RUNG_IN, t.HEARD_IN, t.SCRATCH_IN)
        return
    at = t.TABLE + fd * t.COLUMNS
    if int_at(place) & _READABLE:
        words[at + t.EVENT] = 1
    if words[at + t.STATE] == t.ACTIVE and not words[at + t.LISTED]:
        _work(words, fd)


def pump(words: Any) -> Any:
    """Work until told to stop; to be called without the interpreter's lock.

    To wake a thread costs as much as a small object. So Python is told of what is done when nothing more is to be seen
    or, while that is but a few of many rows, a millisecond later.
    """
    told = words[t.TAIL_OUT]
    while not words[t.STOP]:
        untold = words[t.TAIL_OUT] - told
        wait = np.int32(-1)
        if words[t.AGAIN]:
            wait = np.int32(0)
        elif untold:
            wait = np.int32(1 if untold * 4 < words[t.WORKING] else 0)
        count = _epoll_wait(np.int32(words[t.EPOLL]), words[t.EVENTS], np.int32(t.MAX_EVENTS), wait)
        _take_turns(words)
        for index in range(count):
            _take_event(words, index)
        _take_submitted(words)
        if untold and (count <= 0 or untold >= t.BATCH):
            told = words[t.TAIL_OUT]
            _ring(words, t.BELL_OUT, t.RUNG_OUT, t.HEARD_OUT)
    return 0


@njit(error_model="numpy")
def _append(words: Any, fd: Any) -> None:
    words[t.RING_IN + words[t.TAIL_IN] % (2 * t.ROWS)] = fd
    _fence()
    words[t.TAIL_IN] += 1


def submit(words: Any, asked: Any, count: Any) -> Any:
    """Fill `count` rows as `asked` says, and put them where the pump looks when it is woken."""
    for index in range(count):
        place = index * t.ASKED
        fd = asked[place]
        at = t.TABLE + fd * t.COLUMNS
        words[at + t.TLS], words[at + t.OUT], words[at + t.OUT_SIZE] = (
            asked[place + 1],
            asked[place + 2],
            asked[place + 3],
        )
        words[at + t.IN], words[at + t.IN_SIZE], words[at + t.WANT] = (
            asked[place + 4],
            asked[place + 5],
            asked[place + 6],
        )
        words[at + t.EARLY], words[at + t.BODY], words[at + t.BODY_SIZE] = (
            asked[place + 7],
            asked[place + 8],
            asked[place + 9],
        )
        words[at + t.PLACE], words[at + t.PLACE_SIZE], words[at + t.FOLD] = (
            asked[place + 10],
            asked[place + 11],
            asked[place + 12],
        )
        words[at + t.OUT_DONE], words[at + t.IN_DONE], words[at + t.SCANNED] = 0, 0, 0
        words[at + t.CANCEL], words[at + t.DETAIL] = 0, 0
        words[at + t.STATE] = t.SUBMITTED
        _append(words, fd)
    return 0


def cancel(words: Any, fd: Any) -> Any:
    """Ask the pump to let go of the row of `fd`, which is the only thing that ends it before its time."""
    words[t.TABLE + fd * t.COLUMNS + t.CANCEL] = 1
    _append(words, fd)
    return 0


def wake(words: Any) -> Any:
    """Have the pump look at what was submitted and cancelled."""
    _ring(words, t.BELL_IN, t.RUNG_IN, t.HEARD_IN)
    return 0


@njit(error_model="numpy")
def _tell(words: Any, told: Any, place: Any, fd: Any) -> None:
    """What became of a row, which is free then."""
    at = t.TABLE + fd * t.COLUMNS
    told[place], told[place + 1], told[place + 2] = fd, words[at + t.OUTCOME], words[at + t.DETAIL]
    told[place + 3], told[place + 4], told[place + 5] = (
        words[at + t.OUT_DONE],
        words[at + t.IN_DONE],
        words[at + t.WANT],
    )
    words[at + t.STATE], words[at + t.OUT_DONE], words[at + t.IN_DONE] = t.FREE, 0, 0


def collect(words: Any, told: Any, most: Any) -> Any:
    """Say in `told` what became of up to `most` rows, and in FOUND how many they are; hears the bell."""
    _hear(words, t.BELL_OUT, t.RUNG_OUT, t.HEARD_OUT, t.SCRATCH_OUT)
    count, tail = 0, words[t.TAIL_OUT]
    _fence()
    while count < most and words[t.HEAD_OUT] != tail:
        _tell(words, told, count * t.TOLD, words[t.RING_OUT + words[t.HEAD_OUT] % t.ROWS])
        words[t.HEAD_OUT] += 1
        count += 1
    words[t.FOUND] = count
    return 0


def build(name: str) -> tuple[Callable[..., Any], Any]:
    """One of the five functions above, and its signature. What they return is nothing."""
    whole = types.int64
    arguments = {
        "pump": (),
        "submit": (_words, whole),
        "cancel": (whole,),
        "wake": (),
        "collect": (_words, whole),
    }[name]
    return globals()[name], whole(_words, *arguments)
