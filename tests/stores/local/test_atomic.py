"""A write that is killed leaves the object absent, old or new; one that is cancelled leaves nothing at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from s3dlio.alignment.buffers import AlignedBuffer
from s3dlio.config import Config
from s3dlio.errors import StoreError
from s3dlio.model import PutOptions
from s3dlio.stores.local.direct import DirectStore
from s3dlio.stores.local.store import LocalStore
from s3dlio.transfer import ParallelStore

from ...disk import ROOT, leftovers, open_files
from .killed import NEW, OLD

KILLS = 200
VERBS = ["put", "create", "copy", "upload"]


def test_a_writer_killed_at_any_moment_leaves_no_torn_file(folder: Path) -> None:
    command = [sys.executable, "-m", "tests.stores.local.killed", str(folder)]
    found: Counter[str] = Counter()
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        for seed in range(KILLS):
            scheme, verb = ("file", "direct")[seed % 2], VERBS[seed // 2 % len(VERBS)]
            path = folder / "key"
            there = path.exists()
            print(json.dumps([seed, scheme, verb]), file=program.stdin, flush=True)
            assert int(program.stdout.readline()) == signal.SIGKILL
            state = {NEW: "new", OLD: "old"}.get(path.read_bytes(), "torn") if path.exists() else "absent"
            assert state != "torn", (seed, scheme, verb)
            assert state != "absent" or verb == "create" or not there, (seed, scheme, verb)
            found[state] += 1
            for path in leftovers(folder):
                path.unlink()
        program.stdin.close()
    assert {*found} == {"absent", "old", "new"}
    assert found["new"] > KILLS // 20


@pytest.fixture(params=[LocalStore, DirectStore])
def store(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """A store of small blocks, so that there is much to cancel between."""
    kind: type[LocalStore] = request.param
    monkeypatch.setattr(kind, "_block", 1 << 16)
    return kind(str(folder), Config(durable="none", parts_in_flight=3, file_threads=4))


class CancelAfter(trio.abc.Instrument):
    """Cancels a scope when tasks have been resumed for the `steps`-th time."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self.scope = scope
        self.left = steps

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


async def keep_stepping() -> None:
    """Makes steps also while all others wait for threads."""
    while True:
        await trio.lowlevel.checkpoint()


async def _put(store: LocalStore) -> None:
    await store.put("new/key", NEW)


async def _put_conditionally(store: LocalStore) -> None:
    await store.put("new/key", NEW, PutOptions(if_none_match=True))


async def _get(store: LocalStore) -> None:
    assert await store.get("old") == OLD


async def _get_into(store: LocalStore) -> None:
    view = AlignedBuffer(len(OLD)).view
    await store.get_into("old", view)
    assert view == OLD


async def _copy(store: LocalStore) -> None:
    await store.copy("old", "new/key")


async def _stream(store: LocalStore) -> None:
    parallel = ParallelStore(store, part_size=5 << 20, parts_in_flight=3)
    async with parallel.open_writer("new/key") as writer:
        for _ in range(12):
            await trio.lowlevel.checkpoint()
            await writer.write(NEW[: 1 << 20])


async def _parts_backwards(store: LocalStore) -> None:
    upload = await store.create_upload("new/key")
    try:
        parts = [await store.upload_part(upload, number, NEW) for number in (3, 2, 1)]
        await store.complete_upload(upload, parts[::-1])
    finally:
        with trio.CancelScope(shield=True):
            await store.abort_upload(upload)


@pytest.mark.parametrize("work", [_put, _put_conditionally, _get, _get_into, _copy, _stream, _parts_backwards])
async def test_cancelled_at_any_step_nothing_is_left(
    store: LocalStore, folder: Path, work: Callable[[LocalStore], Awaitable[None]]
) -> None:
    await store.put("old", OLD)
    await work(store)  # buffers that are kept are there
    await store.delete("new/key")
    before, cancelled = open_files(), 0
    for steps in (*range(1, 25), *range(25, 1000, 25)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_stepping)
            with trio.CancelScope() as scope:
                instrument = CancelAfter(scope, steps)
                trio.lowlevel.add_instrument(instrument)
                try:
                    await work(store)
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            nursery.cancel_scope.cancel()
        assert not leftovers(folder)
        assert open_files() == before
        if (folder / "new").exists():
            assert (folder / "new" / "key").stat().st_size >= len(NEW)
            await store.delete("new/key")
        cancelled += scope.cancelled_caught
    assert cancelled >= 2
    assert await store.get("old") == OLD


async def test_a_store_that_is_closed_drops_its_uploads(store: LocalStore, folder: Path) -> None:
    before = open_files()
    async with store:
        one, two = await store.create_upload("a/b"), await store.create_upload("c")
        await store.upload_part(one, 2, b"spilled")
        await store.upload_part(two, 1, b"in place")
        assert len(leftovers(folder)) == 3
        assert (await store.list_page()).objects == ()
    assert os.listdir(folder) == []
    assert open_files() == before


async def test_an_upload_dropped_while_parts_are_written_ends_with_the_last(store: LocalStore, folder: Path) -> None:
    before = open_files()
    upload = await store.create_upload("key")
    async with trio.open_nursery() as nursery:
        for number in range(1, 5):
            nursery.start_soon(store.upload_part, upload, number, NEW)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(StoreError, match="not those"):
            await store.complete_upload(upload, [])
        await store.abort_upload(upload)
    assert not leftovers(folder)
    assert open_files() == before
