"""Many objects at once: how many are under way, what is drawn, and how it ends early."""

from __future__ import annotations

import pickle
import signal
import threading
from collections.abc import Iterator

import pytest
import trio
import trio.testing

import s3dlio
from s3dlio import BulkError, Config, NotFoundError, ServerError
from s3dlio.blocking.portal import portal
from s3dlio.model import GetResult, PutOptions, PutResult
from s3dlio.stores import MemoryStore


class Gate:
    """Writes to memory wait until the gate is open; `begun` tells which have come so far."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.open = trio.Event()
        real = MemoryStore.put

        async def put(
            store: MemoryStore, key: str, data: bytes | memoryview, options: PutOptions = PutOptions()
        ) -> PutResult:
            self.begun.append(key)
            try:
                await self.open.wait()
            except trio.Cancelled:
                self.cancelled.append(key)
                raise
            return await real(store, key, data, options)

        monkeypatch.setattr(MemoryStore, "put", put)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def settle() -> None:
    portal().call(trio.testing.wait_all_tasks_blocked)


def in_thread(work: Iterator[tuple[str, bytes]], **options: int | Config) -> threading.Thread:
    thread = threading.Thread(target=lambda: s3dlio.put_many(work, **options), daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


def drawn_until(work: Iterator[tuple[str, bytes]], stop: threading.Event, last: int) -> Iterator[tuple[str, bytes]]:
    for number, item in enumerate(work):
        if number == last:
            stop.set()
        yield item


@pytest.mark.parametrize(("options", "most"), [({"max_in_flight": 3}, 3), ({"config": Config(memory_limit=250)}, 2)])
def test_no_more_is_under_way_than_may_be(gate: Gate, options: dict[str, int | Config], most: int) -> None:
    reached = threading.Event()
    items = ((f"memory://gate/{number}", bytes(100)) for number in range(10))
    thread = in_thread(drawn_until(items, reached, most), **options)
    reached.wait()
    settle()
    begun = sorted(gate.begun)
    portal().soon(gate.open.set)
    thread.join()
    assert begun == [str(number) for number in range(most)]
    assert len(gate.begun) == 10


def test_an_interrupt_cancels_all_and_leaves_nothing(gate: Gate) -> None:
    def items() -> Iterator[tuple[str, bytes]]:
        for number in range(4):
            yield f"memory://interrupted/{number}", b"data"
        settle()
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        s3dlio.put_many(items())
    assert sorted(gate.cancelled) == ["0", "1", "2", "3"]
    assert not s3dlio.list("memory://interrupted/")


def test_what_is_no_content_ends_it_at_once(gate: Gate) -> None:
    items = [("memory://wrong/a", b"data"), ("memory://wrong/b", 5)]
    with pytest.raises(TypeError, match="buffer is wanted"):
        s3dlio.put_many(items)  # type: ignore[arg-type]
    assert gate.cancelled == gate.begun


def test_an_outage_ends_it_early(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def fail(store: MemoryStore, key: str, *_: object) -> GetResult:
        asked.append(key)
        raise ServerError("the server is out")

    monkeypatch.setattr(MemoryStore, "fetch", fail)
    with pytest.raises(BulkError, match="outage ended it before all") as caught:
        s3dlio.get_many((f"memory://out/{number}" for number in range(50)), max_in_flight=2)
    assert len(asked) == len(caught.value.failures) == 2


def test_what_failed_can_be_pickled() -> None:
    with pytest.raises(BulkError) as caught:
        s3dlio.get_many(["memory://pickled/absent"])
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again.failures["memory://pickled/absent"], NotFoundError)
    assert (str(again), again.done) == (str(caught.value), [])


def test_keys_that_cannot_be_removed_are_told_by_their_uris(monkeypatch: pytest.MonkeyPatch) -> None:
    s3dlio.put_many({f"memory://kept/{name}": name for name in "abc"})
    real = MemoryStore.delete

    async def delete(store: MemoryStore, key: str) -> None:
        if key == "b":
            raise s3dlio.PermissionDeniedError("no", s3dlio.ErrorContext(key=key))
        await real(store, key)

    monkeypatch.setattr(MemoryStore, "delete", delete)
    with pytest.raises(BulkError) as caught:
        s3dlio.delete_many([f"memory://kept/{name}" for name in "abc"])
    assert [*caught.value.failures] == ["memory://kept/b"]
    assert caught.value.done == ["memory://kept/a", "memory://kept/c"]
    assert [meta.key for meta in s3dlio.list("memory://kept/")] == ["b"]
