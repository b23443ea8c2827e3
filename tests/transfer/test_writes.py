"""Large objects written in parts: the object appears whole, or not at all and nothing is left behind."""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import suppress
from typing import Any, NoReturn

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from s3dlio import part_writer, parts
from s3dlio.alignment.buffers import AlignedBuffer
from s3dlio.blocking.portal import BlockingPortal, portal
from s3dlio.blocking.store import BlockingStore
from s3dlio.config import Config
from s3dlio.errors import (
    PermissionDeniedError,
    RequestError,
    ServerError,
    StoreError,
)
from s3dlio.model import Part, PutOptions, Upload
from s3dlio.part_writer import PartWriter
from s3dlio.stores.store import _ABORT_TIME
from s3dlio.transfer import ParallelStore
from s3dlio.urls import Uri, open_store

from ..servers.seaweedfs import SeaweedFS
from .recorder import DATA, KEY, PART, OurOwnError, Recorder, cut, write


@pytest.mark.parametrize(
    ("size", "calls"),
    [
        (0, ["put"]),
        (1, ["put"]),
        (10, ["put"]),
        (11, ["create", "part", "part", "complete"]),
        (20, ["create", "part", "part", "complete"]),
        (21, ["create", "part", "part", "part", "complete"]),
    ],
)
async def test_a_put_is_one_request_up_to_a_part(
    recorder: Recorder, store: ParallelStore, size: int, calls: list[str]
) -> None:
    result = await store.put(KEY, DATA[:size], PutOptions("application/x-test"))
    assert recorder.calls == calls
    assert await recorder.content() == DATA[:size]
    head = await recorder.inner.head(KEY)
    assert (head.etag, head.content_type) == (result.etag, "application/x-test")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(sizes=st.lists(st.integers(0, 45), max_size=12))
@example(sizes=[])
@example(sizes=[9])
@example(sizes=[10])
@example(sizes=[1] * 30)
@example(sizes=[5, 400])
async def test_written_memory_may_be_reused_at_once(monkeypatch: pytest.MonkeyPatch, sizes: list[int]) -> None:
    monkeypatch.setattr(parts, "MIN_PART", PART)
    recorder, expected = Recorder(), b""
    store = ParallelStore(recorder, part_size=PART, parts_in_flight=3)
    async with store.open_writer(KEY) as writer:
        for number, size in enumerate(sizes):
            chunk = bytearray([number + 1] * size)
            expected += chunk
            await writer.write(memoryview(chunk))
            chunk[:] = bytes(size)
        assert await recorder.content() is None
    assert await recorder.content() == expected
    assert writer.size == len(expected)
    assert recorder.calls[0] == ("put" if len(expected) < PART else "create")
    assert recorder.pending == 0
    assert store._limiter.borrowed_tokens == 0


async def test_a_long_object_gets_growing_parts(
    recorder: Recorder, store: ParallelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_GROW_EVERY", 2)
    sent: list[int] = []

    async def upload_part(upload: Upload, number: int, data: bytes | memoryview) -> Part:
        sent.append(len(data))
        return await recorder.inner.upload_part(upload, number, data)

    monkeypatch.setattr(recorder, "upload_part", upload_part)
    async with store.open_writer(KEY) as writer:
        await writer.write(DATA)
        await writer.write(DATA)
    assert sent == [10, 10, 20, 20, 40, 40, 50]
    assert await recorder.content() == DATA * 2


@pytest.mark.parametrize("written", [5, 10, 35])
@pytest.mark.parametrize(
    "error", [OurOwnError(), KeyboardInterrupt(), ExceptionGroup("two", [OurOwnError(), ValueError()])]
)
async def test_an_error_in_the_block_leaves_the_old_object(
    recorder: Recorder, store: ParallelStore, written: int, error: BaseException
) -> None:
    await recorder.inner.put(KEY, b"old")
    with pytest.raises(type(error)) as caught:
        await write(store, DATA[:written], then=error)
    assert repr(caught.value) == repr(error)
    assert await recorder.content() == b"old"
    assert recorder.pending == 0
    assert "put" not in recorder.calls


class _CancelAt(trio.abc.Instrument):
    """Cancels `scope` before step number `last` of the run."""

    def __init__(self, scope: trio.CancelScope, last: int) -> None:
        self._scope = scope
        self._left = last

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()


async def test_cancelled_at_any_step_a_write_leaves_nothing_behind(recorder: Recorder, store: ParallelStore) -> None:
    step = cancelled = 0
    finished = False
    while not finished:
        step += 1
        await recorder.inner.delete(KEY)
        with trio.CancelScope() as scope:
            instrument = _CancelAt(scope, step)
            trio.lowlevel.add_instrument(instrument)
            await write(store, *cut(DATA, 17))
        trio.lowlevel.remove_instrument(instrument)
        finished = not scope.cancel_called
        cancelled += scope.cancelled_caught
        assert recorder.pending == 0
        assert recorder.running == store._limiter.borrowed_tokens == 0
        assert await recorder.content() == (None if scope.cancelled_caught else DATA)
    assert cancelled > 20


@pytest.mark.parametrize("failing", [1, 2, 5, 10])
async def test_a_part_that_fails_is_the_error_and_makes_no_object(
    recorder: Recorder, store: ParallelStore, failing: int
) -> None:
    async def fail(name: str, number: int) -> None:
        if name == "part" and number == failing:
            raise ServerError("failed", None)

    recorder.during = fail
    with pytest.raises(ServerError, match="failed"):
        await store.put(KEY, DATA)
    recorder.calls.clear()
    with pytest.raises(ServerError, match="failed"):
        await write(store, *cut(DATA, 7))
    assert await recorder.content() is None
    assert recorder.pending == recorder.running == store._limiter.borrowed_tokens == 0


@pytest.mark.parametrize("name", ["put", "create", "complete"])
async def test_a_failing_request_is_the_error(recorder: Recorder, store: ParallelStore, name: str) -> None:
    async def fail(called: str, number: int) -> None:
        if called == name:
            raise ServerError("failed", None)

    recorder.during = fail
    with pytest.raises(ServerError, match="failed"):
        await write(store, DATA[: 5 if name == "put" else 50])
    assert await recorder.content() is None
    assert recorder.pending == 0


@pytest.mark.parametrize("failing", [("create", 1), ("part", 2)])
async def test_no_object_is_made_with_a_hole_where_a_caught_failure_was(
    recorder: Recorder, store: ParallelStore, failing: tuple[str, int]
) -> None:
    async def fail_once(name: str, number: int) -> None:
        if (name, number) == failing:
            raise ServerError("failed", None)

    async def go_on() -> None:
        async with store.open_writer(KEY) as writer:
            with pytest.raises(ServerError):
                await writer.write(DATA[:40])
            with pytest.raises(ServerError):
                await writer.write(DATA[40:])

    recorder.during = fail_once
    with pytest.raises(ServerError, match="failed"):
        await go_on()
    assert await recorder.content() is None
    assert recorder.pending == 0


@pytest.mark.parametrize("cancelled", [("create", 1), ("part", 2)])
@pytest.mark.parametrize("more", [b"", DATA])
async def test_no_object_is_made_with_a_hole_where_a_write_was_cancelled(
    recorder: Recorder, store: ParallelStore, more: bytes, cancelled: tuple[str, int]
) -> None:
    scope = trio.CancelScope()

    async def hang(name: str, number: int) -> None:
        if (name, number) == cancelled:
            scope.cancel()
            await trio.sleep_forever()

    async def go_on() -> None:
        async with store.open_writer(KEY) as writer:
            with scope:
                await writer.write(DATA[:80])
            if more:
                await writer.write(more)

    recorder.during = hang
    with pytest.raises(StoreError, match="cut short"):
        await go_on()
    assert await recorder.content() is None
    assert recorder.pending == 0


async def test_an_upload_that_is_created_when_the_block_has_ended_is_aborted(
    recorder: Recorder, store: ParallelStore
) -> None:
    """A write is under way in another task, as a blocking one is, and its request cannot be taken back."""

    async def create(name: str, number: int) -> None:
        if name == "create":
            created.set()
            with trio.CancelScope(shield=True):
                await ended.wait()

    async def write_on(writer: PartWriter) -> None:
        with pytest.raises(StoreError, match="cut short"):
            await writer.write(DATA)

    async def use() -> None:
        async with store.open_writer(KEY) as writer:
            nursery.start_soon(write_on, writer)
            await created.wait()
            raise OurOwnError

    created, ended = trio.Event(), trio.Event()
    recorder.during = create
    async with trio.open_nursery() as nursery:
        with pytest.raises(OurOwnError):
            await use()
        ended.set()
    assert recorder.calls.count("abort") == 1
    assert recorder.pending == recorder.running == store._limiter.borrowed_tokens == 0
    assert await recorder.content() is None


async def test_a_failing_abort_does_not_hide_the_reason(recorder: Recorder, store: ParallelStore) -> None:
    async def refuse_abort(name: str, number: int) -> None:
        if name == "abort":
            raise PermissionDeniedError("abort refused", None)

    recorder.during = refuse_abort
    with pytest.raises(OurOwnError) as caught:
        await write(store, DATA, then=OurOwnError())
    assert "abort refused" in caught.value.__notes__[0]


async def test_a_hanging_abort_is_given_up(
    recorder: Recorder, store: ParallelStore, autojump_clock: trio.testing.MockClock
) -> None:
    async def hang(name: str, number: int) -> None:
        if name == "abort":
            await trio.sleep_forever()

    recorder.during = hang
    begun = trio.current_time()
    with pytest.raises(OurOwnError):
        await write(store, DATA, then=OurOwnError())
    assert trio.current_time() - begun == _ABORT_TIME
    assert recorder.running == 0


async def test_an_object_larger_than_any_can_be_is_refused(
    recorder: Recorder, store: ParallelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_writer, "MAX_OBJECT", 50)
    with pytest.raises(RequestError, match="50 bytes at most"):
        await store.put(KEY, DATA)
    with pytest.raises(RequestError, match="50 bytes at most"):
        await write(store, DATA[:40], DATA[:11])
    assert await recorder.content() is None
    assert recorder.pending == 0


@pytest.mark.parametrize("size", [1, 95])
async def test_a_writer_takes_nothing_after_its_block(store: ParallelStore, size: int) -> None:
    async with store.open_writer(KEY) as writer:
        await writer.write(DATA)
    with pytest.raises(trio.ClosedResourceError):
        await writer.write(DATA[:size])
    with pytest.raises(OurOwnError):
        async with store.open_writer(KEY) as writer:
            raise OurOwnError
    with pytest.raises(StoreError, match="cut short"):
        await writer.write(DATA[:size])


# Small writes, which are copied into buffers


class _Counted(AlignedBuffer):
    """Buffers that are counted, and whose life can be seen."""

    made: list[weakref.ref[_Counted]]
    __slots__ = ("__weakref__",)

    def __init__(self, size: int, *, shared: bool) -> None:
        super().__init__(size, shared=shared)
        self.made.append(weakref.ref(self))


@pytest.fixture
def buffers(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[_Counted]]:
    """Every buffer that writers make."""
    made: list[weakref.ref[_Counted]] = []
    monkeypatch.setattr(_Counted, "made", made, raising=False)
    monkeypatch.setattr(part_writer, "AlignedBuffer", _Counted)
    return made


def _alive(buffers: list[weakref.ref[_Counted]]) -> list[int]:
    """The sizes of those that are there."""
    return sorted(buffer.size for ref in buffers if (buffer := ref()) is not None)


async def test_buffers_are_used_again(
    recorder: Recorder, store: ParallelStore, buffers: list[weakref.ref[_Counted]]
) -> None:
    """Four parts are under way at once, and one is being filled."""
    async with store.open_writer(KEY) as writer:
        for number in range(400):
            await writer.write(bytes([number % 256]) * 7)
    assert await recorder.content() == b"".join(bytes([number % 256]) * 7 for number in range(400))
    assert recorder.calls.count("part") == 280
    assert len(buffers) <= 5


@pytest.mark.parametrize(
    ("pieces", "made"),
    [([], 0), ([b""], 0), (cut(DATA[:9], 2), 1), ([DATA[:90]], 0), ([DATA], 1), ([DATA[:5], DATA], 1)],
)
async def test_only_what_fills_no_part_is_copied(
    store: ParallelStore, buffers: list[weakref.ref[_Counted]], pieces: list[bytes], made: int
) -> None:
    await write(store, *pieces)
    assert len(buffers) == made


@pytest.mark.parametrize(
    ("kind", "size", "lent"), [(bytes, 40, 3), (bytearray, 40, 0), (bytearray, 75, 0), (bytearray, 90, 8)]
)
async def test_bytes_cannot_change_and_other_memory_is_lent_only_where_it_is_much(
    recorder: Recorder, store: ParallelStore, monkeypatch: pytest.MonkeyPatch, kind: Any, size: int, lent: int
) -> None:
    given, seen = kind(DATA[5 : 5 + size]), []

    async def upload_part(upload: Upload, number: int, data: memoryview) -> Part:
        seen.append(data.obj is given)
        return await recorder.inner.upload_part(upload, number, data)

    monkeypatch.setattr(recorder, "upload_part", upload_part)
    async with store.open_writer(KEY) as writer:
        await writer.write(bytearray(DATA[:5]))
        await writer.write(given)
    assert sum(seen) == lent
    assert await recorder.content() == DATA[: 5 + size]


async def test_buffers_that_are_too_small_for_the_parts_to_come_are_let_go(
    recorder: Recorder, store: ParallelStore, buffers: list[weakref.ref[_Counted]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_GROW_EVERY", 8)
    sizes = [PART << (number // 8) for number in range(32)]
    async with store.open_writer(KEY) as writer:
        for size in sizes:
            await writer.write(bytes(size - 1))
            await writer.write(b"\x01")
            await trio.testing.wait_all_tasks_blocked()
        assert _alive(buffers) == [sizes[-1]]
    assert recorder.calls.count("part") == 32


@pytest.mark.parametrize("limit", [1, 25, 45, 1000])
async def test_the_buffers_stay_within_the_memory_limit_as_parts_grow(
    recorder: Recorder, buffers: list[weakref.ref[_Counted]], monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    """All that is written is copied, and parts of 10, 20 and 40 bytes are under way at their slowest."""
    monkeypatch.setattr(parts, "MIN_PART", PART)
    monkeypatch.setattr(parts, "_GROW_EVERY", 6)
    most = 0

    async def linger(name: str, number: int) -> None:
        nonlocal most
        most = max(most, sum(_alive(buffers)))
        await trio.testing.wait_all_tasks_blocked()

    recorder.during = linger
    store = ParallelStore(recorder, part_size=PART, parts_in_flight=4, memory_limit=limit)
    data = bytes(range(210)) * 2
    async with store.open_writer(KEY) as writer:
        for piece in cut(data, 3):
            await writer.write(piece)
    assert await recorder.content() == data
    assert recorder.calls.count("part") == 18
    assert most <= max(limit, 40)
    if limit == 1000:
        assert recorder.most_running == 4


async def test_a_long_object_on_a_real_server_is_written_from_a_single_buffer(
    s3_environment: SeaweedFS, bucket: str, buffers: list[weakref.ref[_Counted]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of 5, 10 and 20 MiB, of which the limit holds one, in pieces that fit none of them."""
    monkeypatch.setattr(parts, "_GROW_EVERY", 2)
    piece = os.urandom((1 << 20) + 7)
    async with open_store(f"s3://{bucket}", part_size=5 << 20, memory_limit=20 << 20) as store:
        async with store.open_writer(KEY) as writer:
            for _ in range(60):
                await writer.write(piece)
                assert sum(_alive(buffers)) <= 20 << 20
        assert await store.get(KEY) == piece * 60


async def test_a_write_that_waits_for_a_buffer_is_told_that_a_part_has_failed(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(name: str, number: int) -> None:
        if name == "part":
            await trio.testing.wait_all_tasks_blocked()
            raise ServerError("failed", None)

    async def write_on(writer: PartWriter) -> None:
        with pytest.raises(ServerError, match="failed"):
            await writer.write(DATA[:5])
        told.append(True)

    async def use() -> None:
        async with store.open_writer(KEY) as writer:
            await writer.write(DATA[:5])
            await writer.write(DATA[5:10])
            nursery.start_soon(write_on, writer)
            await trio.sleep_forever()

    told: list[bool] = []
    monkeypatch.setattr(parts, "MIN_PART", PART)
    recorder.during = fail
    store = ParallelStore(recorder, part_size=PART, parts_in_flight=4, memory_limit=PART)
    async with trio.open_nursery() as nursery:
        with pytest.raises(ServerError, match="failed"):
            await use()
    assert told == [True]
    assert recorder.pending == 0


@pytest.mark.parametrize("ending", ["object", "upload", "error"])
async def test_no_buffer_stays_with_a_writer_that_ended(
    store: ParallelStore, buffers: list[weakref.ref[_Counted]], ending: str
) -> None:
    writers = []

    async def use() -> None:
        async with store.open_writer(KEY) as writer:
            writers.append(writer)
            for piece in cut(DATA[: 8 if ending == "object" else 90], 4):
                await writer.write(piece)
            if ending == "error":
                raise OurOwnError

    with suppress(OurOwnError):
        await use()
    assert writers[0].size
    assert _alive(buffers) == []


def left(writer: PartWriter, data: memoryview) -> bytes | None:
    """Of `data`, what the writer does not take without waiting."""
    rest = writer.absorb(data)
    return None if rest is None else bytes(rest)


_STEPS = st.lists(st.tuples(st.sampled_from(["write", "absorb"]), st.integers(0, 45)), max_size=25)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=_STEPS, grow_every=st.integers(1, 5), in_flight=st.integers(1, 4))
async def test_any_writes_are_the_object_in_parts_of_the_planned_sizes(
    monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, int]], grow_every: int, in_flight: int
) -> None:
    monkeypatch.setattr(parts, "MIN_PART", PART)
    monkeypatch.setattr(parts, "_GROW_EVERY", grow_every)
    recorder, expected = Recorder(), b""
    sent: dict[int, int] = {}

    async def upload_part(upload: Upload, number: int, data: Any) -> Part:
        sent[number] = len(data)
        for _ in range(number % 5):
            await trio.lowlevel.checkpoint()
        return await recorder.inner.upload_part(upload, number, data)

    recorder.upload_part = upload_part  # type: ignore[method-assign]
    store = ParallelStore(recorder, part_size=PART, parts_in_flight=in_flight)
    async with store.open_writer(KEY) as writer:
        for number, (verb, size) in enumerate(steps):
            chunk = bytearray([number + 1] * size)
            expected += chunk
            rest = memoryview(chunk) if verb == "write" else writer.absorb(memoryview(chunk))
            if rest is not None:
                await writer.write(rest)
            chunk[:] = bytes(size)
            assert writer.size == len(expected)
    assert await recorder.content() == expected
    planned = [parts.growing_part_size(number, PART) for number in range(1, len(sent) + 1)]
    assert [sent[number] for number in sorted(sent)][:-1] == planned[:-1]
    assert all(sent[number] <= size for number, size in enumerate(planned, 1) if number in sent)
    assert sum(sent.values()) == (len(expected) if sent else 0)
    assert store._limiter.borrowed_tokens == recorder.pending == 0


async def test_what_fits_is_absorbed_until_a_part_is_full(recorder: Recorder, store: ParallelStore) -> None:
    async with store.open_writer(KEY) as writer:
        assert left(writer, memoryview(DATA[:9])) is None
        assert left(writer, memoryview(b"")) is None
        assert left(writer, memoryview(DATA[9:10])) == b""
        assert left(writer, memoryview(DATA[10:19])) == DATA[10:19]
        assert (writer.size, recorder.calls) == (10, [])
        assert await writer.make_way(memoryview(DATA[10:19])) == DATA[10:19]
        assert left(writer, memoryview(DATA[10:19])) is None
        assert left(writer, memoryview(DATA[19:95])) == DATA[20:95]
        await writer.write(DATA[20:95])
    assert await recorder.content() == DATA
    assert left(writer, memoryview(b"")) == b""
    assert left(writer, memoryview(b"more")) == b"more"


async def test_nothing_is_absorbed_after_a_failure(recorder: Recorder, store: ParallelStore) -> None:
    async def fail(name: str, number: int) -> None:
        if name == "part":
            raise ServerError("failed", None)

    async def go_on() -> None:
        async with store.open_writer(KEY) as writer:
            with pytest.raises(ServerError):
                await writer.write(DATA)
            for data in (b"", b"more"):
                assert left(writer, memoryview(data)) == data
            with pytest.raises(ServerError):
                await writer.write(b"more")

    recorder.during = fail
    with pytest.raises(ServerError, match="failed"):
        await go_on()
    assert await recorder.content() is None
    assert recorder.pending == 0


@pytest.mark.parametrize("interrupted_in", ["AlignedBuffer", "memoryview"])
async def test_no_object_is_made_with_a_hole_where_a_copy_was_interrupted(
    recorder: Recorder, store: ParallelStore, monkeypatch: pytest.MonkeyPatch, interrupted_in: str
) -> None:
    def interrupt(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    async def go_on() -> None:
        async with store.open_writer(KEY) as writer:
            with monkeypatch.context() as patched:
                if interrupted_in == "AlignedBuffer":
                    patched.setattr(part_writer, "AlignedBuffer", interrupt)
                else:
                    patched.setattr(AlignedBuffer, "view", property(interrupt))
                with pytest.raises(KeyboardInterrupt):
                    writer.absorb(memoryview(DATA[:5]))
            await writer.write(DATA[5:8])

    with pytest.raises(StoreError, match="cut short"):
        await go_on()
    assert await recorder.content() is None


async def test_absorbed_bytes_count_against_the_largest_object(
    recorder: Recorder, store: ParallelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_writer, "MAX_OBJECT", 8)

    async def write_too_much() -> None:
        async with store.open_writer(KEY) as writer:
            assert left(writer, memoryview(DATA[:8])) is None
            assert left(writer, memoryview(b"")) is None
            assert left(writer, memoryview(DATA[:1])) == DATA[:1]
            assert writer.size == 8
            await writer.write(DATA[:1])

    with pytest.raises(RequestError, match="8 bytes at most"):
        await write_too_much()
    assert await recorder.content() is None


@pytest.mark.parametrize("waiting", [b"fills", DATA[:25]])
async def test_a_write_that_waits_for_its_turn_while_another_part_fails_is_told_and_leaves_the_limit_as_it_was(
    recorder: Recorder, store: ParallelStore, waiting: bytes
) -> None:
    """It waits in a task of its own, as blocking writers' do; another writer has all the other places."""
    failing, places = trio.Event(), trio.Event()

    async def during(name: str, number: int) -> None:
        if name == "part" and number == 4:
            await failing.wait()
            raise ServerError("failed", None)
        if name == "part":
            await places.wait()

    async def write_on(writer: PartWriter) -> None:
        with pytest.raises(ServerError, match="failed"):
            await writer.write(waiting)

    async def use_writer() -> None:
        async with store.open_writer(KEY) as writer:
            for piece in cut(DATA[:15], 5):
                await writer.write(piece)
            nursery.start_soon(write_on, writer)
            await trio.testing.wait_all_tasks_blocked()
            failing.set()
            await trio.sleep_forever()

    recorder.during = during
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.put, "other", DATA[:30])
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ServerError, match="failed"):
            await use_writer()
        places.set()
    assert store._limiter.borrowed_tokens == recorder.pending == 0
    assert await recorder.content() is None
    assert await recorder.inner.get("other") == DATA[:30]


# From other threads


def _blocking(monkeypatch: pytest.MonkeyPatch, recorder: Recorder) -> BlockingStore:
    """The recorder behind the portal, in parts of ten bytes."""
    monkeypatch.setattr(parts, "MIN_PART", PART)
    kept = ParallelStore(recorder, part_size=PART, parts_in_flight=3)
    monkeypatch.setattr(BlockingStore, "opened", lambda self, portal: kept)
    return BlockingStore(Uri("memory", "writes", ""), Config())


def test_small_writes_of_another_thread_do_not_visit_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    writer = _blocking(monkeypatch, recorder).open_writer(KEY)
    with monkeypatch.context() as patched:
        patched.setattr(BlockingPortal, "post", _nobody)
        for piece in cut(DATA[:9], 2):
            writer.write(piece)
    writer.write(DATA[9:47])
    with monkeypatch.context() as patched:
        patched.setattr(BlockingPortal, "post", _nobody)
        writer.write(DATA[47:49])
    writer.write(memoryview(DATA[49:]).cast("B", (2, 23)))
    assert portal().call(recorder.content) is None
    assert writer.close().etag
    assert portal().call(recorder.content) == DATA


def _nobody(*_: object) -> NoReturn:
    raise AssertionError("the loop is not asked")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(sizes=st.lists(st.integers(0, 45), max_size=20))
def test_any_writes_of_another_thread_are_the_object(monkeypatch: pytest.MonkeyPatch, sizes: list[int]) -> None:
    recorder, expected = Recorder(), b""
    writer = _blocking(monkeypatch, recorder).open_writer(KEY)
    for number, size in enumerate(sizes):
        chunk = bytearray([number + 1] * size)
        expected += chunk
        writer.write(memoryview(chunk))
        chunk[:] = bytes(size)
    writer.close()
    assert portal().call(recorder.content) == expected
    assert recorder.pending == 0


@pytest.mark.parametrize("written", [5, 10, 35])
def test_an_abort_in_the_middle_leaves_the_old_object(monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    recorder = Recorder()
    store = _blocking(monkeypatch, recorder)
    store.put(KEY, b"old")
    writer = store.open_writer(KEY)
    for piece in cut(DATA[:written], 3):
        writer.write(piece)
    writer.abort()
    writer.abort()
    assert portal().call(recorder.content) == b"old"
    assert recorder.pending == recorder.running == 0
    for data in (b"more", b"", DATA):
        with pytest.raises(StoreError, match="cut short"):
            writer.write(data)


@pytest.mark.parametrize("written", [0, 5, 35])
def test_a_writer_that_is_dropped_unclosed_publishes_nothing_and_is_given_up(
    monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    async def rest() -> int:
        await trio.testing.wait_all_tasks_blocked()
        nursery = portal()._nursery
        assert nursery is not None
        return len(nursery.child_tasks)

    recorder = Recorder()
    store = _blocking(monkeypatch, recorder)
    store.put(KEY, b"old")
    jobs = portal().call(rest)
    writer = store.open_writer(KEY)
    writer.write(DATA[:written])
    del writer
    assert portal().call(rest) == jobs
    assert portal().call(recorder.content) == b"old"
    assert recorder.pending == recorder.running == 0


def test_a_part_that_fails_is_the_error_of_the_next_write_and_of_the_close(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    written, failed = threading.Event(), threading.Event()

    async def fail(name: str, number: int) -> None:
        if name == "part":
            await trio.to_thread.run_sync(written.wait)
            raise ServerError("failed", None)
        if name == "abort":
            failed.set()

    recorder.during = fail
    writer = _blocking(monkeypatch, recorder).open_writer(KEY)
    for piece in cut(DATA[:12], 3):
        writer.write(piece)
    written.set()
    assert failed.wait(60)
    with pytest.raises(ServerError, match="failed"):
        writer.write(b"more")
    with pytest.raises(ServerError, match="failed"):
        writer.close()
    assert portal().call(recorder.content) is None
    assert recorder.pending == 0


def test_a_writer_belongs_to_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    writer = _blocking(monkeypatch, recorder).open_writer(KEY)
    writer.write(DATA[:5])
    child = os.fork()
    if child == 0:
        try:
            for call in (lambda: writer.write(b"x"), writer.close):
                with pytest.raises(StoreError, match="the process that opened it"):
                    call()
            writer.abort()
            os._exit(0)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    writer.write(DATA[5:])
    writer.close()
    assert portal().call(recorder.content) == DATA
