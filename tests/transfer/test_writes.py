"""Large objects written in parts: the object appears whole, or not at all and nothing is left behind."""

from __future__ import annotations

import pytest
import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from s3dlio import transfer
from s3dlio.errors import (
    PermissionDeniedError,
    RequestError,
    ServerError,
    StoreError,
)
from s3dlio.model import Part, PutOptions, Upload
from s3dlio.transfer import ParallelStore

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
    monkeypatch.setattr(transfer, "MIN_PART", PART)
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
    monkeypatch.setattr(transfer, "_GROW_EVERY", 2)
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
                await writer.write(DATA[:40])
            if more:
                await writer.write(more)

    recorder.during = hang
    with pytest.raises(StoreError, match="cut short"):
        await go_on()
    assert await recorder.content() is None
    assert recorder.pending == 0


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
    assert trio.current_time() - begun == transfer._ABORT_TIME
    assert recorder.running == 0


async def test_an_object_larger_than_any_can_be_is_refused(
    recorder: Recorder, store: ParallelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MAX_OBJECT", 50)
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
