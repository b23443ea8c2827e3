"""The file of a trace: valid whenever one looks, and it says what was waited for."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import s3dlio
from s3dlio import Config, observers
from s3dlio.blocking import BlockingStore, timeline
from s3dlio.blocking.gather import Gather, ObjectRanges
from s3dlio.blocking.prefetch import Want
from s3dlio.blocking.readahead import ReadAhead
from s3dlio.blocking.timeline import Phase, attribute
from s3dlio.observers import Read
from s3dlio.urls import parse_uri

from ..servers.seaweedfs import SeaweedFS

Event = dict[str, Any]
KEYS = [f"{number:03}" for number in range(60)]
PARTS = ("list", "queue", "connection", "first byte", "body", "checksum", "hand-over")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trace.json"


@pytest.fixture
def store(s3_environment: SeaweedFS, bucket: str) -> BlockingStore:
    """With objects of a few sizes."""
    store = BlockingStore(parse_uri(f"s3://{bucket}", Config()), Config())
    for number, key in enumerate(KEYS):
        store.put(key, os.urandom(400_000 if number % 20 == 7 else 50_000))
    return store


def complete(path: Path) -> list[Event]:
    return [event for event in json.loads(path.read_text()) if event["ph"] == "X"]


def seconds(events: list[Event], thread: int) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for event in events:
        if event["tid"] == thread:
            found[event["name"]] += event["dur"] / 1e6
    return found


def ours(events: list[Event]) -> dict[str, float]:
    return seconds(events, threading.get_native_id())


# What was waited for


def test_what_a_wait_consisted_of() -> None:
    attempt = [Phase("connection", 2, 3), Phase("first byte", 3, 5), Phase("body", 5, 6)]
    queue, end = Phase("queue", 1, 2), Phase("hand-over", 6, 7)
    assert attribute(1, 7, attempt) == [queue, *attempt, end]
    assert attribute(4, 7, attempt) == [Phase("first byte", 4, 5), Phase("body", 5, 6), end]
    assert attribute(8, 9, attempt) == [Phase("hand-over", 8, 9)]
    assert attribute(1, 7, []) == []
    again = Phase("first byte", 6.5, 7)
    assert attribute(5, 7, [*attempt, again]) == [Phase("body", 5, 6), Phase("queue", 6, 6.5), again]
    beside = [Phase("first byte", 1, 6), Phase("body", 2, 4), Phase("checksum", 5, 7)]
    assert [each.name for each in attribute(1, 7, beside)] == ["first byte", "body", "first byte", "checksum"]


times = st.integers(0, 30).map(float)
phases = st.builds(
    lambda name, one, other: Phase(name, min(one, other), max(one, other)), st.sampled_from(PARTS), times, times
)


@given(times, times, st.lists(phases, max_size=6))
def test_all_of_a_wait_is_attributed(one: float, other: float, known: list[Phase]) -> None:
    begun, ended = min(one, other), max(one, other) + 1
    found = attribute(begun, ended, known)
    if found:
        marks = [begun, *(each.ended for each in found)]
        assert [(each.begun, each.ended) for each in found] == [*pairwise(marks)]
        assert marks[-1] == ended
        assert all(before.name != after.name for before, after in pairwise(found))
    else:
        assert all(each.begun >= ended for each in known)


# A trace of reading


def reading_ahead(store: BlockingStore) -> None:
    ahead = ReadAhead(Want(store, meta.key, meta) for page in store.list_pages() for meta in page.objects)
    for position, _ in ahead:
        ahead.body(position)
    ahead.close()


def a_group(store: BlockingStore) -> None:
    ahead = ReadAhead([Want(store, key) for key in KEYS], eager=True)
    for position, _ in ahead:
        ahead.body(position)
    ahead.close()


def one_by_one(store: BlockingStore) -> None:
    for key in KEYS[:20]:
        store.get(key)


def ranges(store: BlockingStore) -> None:
    wanted = [ObjectRanges(store, key, [(0, 100), (10_000, 40_000)]) for key in KEYS]
    with Gather(wanted, max_gap=0) as gather:
        for number in range(len(KEYS)):
            gather.view(number, 1)


@pytest.mark.parametrize("read", [reading_ahead, a_group, one_by_one, ranges])
def test_waiting_is_attributed(
    store: BlockingStore, path: Path, read: Callable[[BlockingStore], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "s3dlio")  # or batches would be told of one by one
    with s3dlio.trace(path):
        read(store)
    events = complete(path)
    found = ours(events)
    assert set(found) <= {"wait", "consumer", *PARTS}
    assert sum(found[part] for part in PARTS) >= 0.95 * found["wait"] > 0
    whole = max(event["ts"] + event["dur"] for event in events) / 1e6
    assert found["wait"] + found["consumer"] >= 0.95 * whole
    keys = {event["args"]["key"] for event in events if event["name"] == "GetObject"}
    assert keys <= {*KEYS}
    assert len(keys) >= 20
    if read is reading_ahead:
        assert "ListObjectsV2" in {event["name"] for event in events}


def test_a_page_that_was_asked_for_ahead_is_waited_for_as_a_listing(tmp_path: Path, path: Path) -> None:
    (folder := tmp_path / "listed").mkdir()
    for number in range(1001):
        (folder / str(number)).touch()
    store = BlockingStore(parse_uri(f"file://{folder}"), Config())
    with s3dlio.trace(path):
        assert len(list(store.list_pages())) == 2
    assert ours(complete(path))["list"] > 0


def test_nothing_overlaps_on_a_row(store: BlockingStore, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "s3dlio")
    with s3dlio.trace(path):
        a_group(store)
    rows: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for event in complete(path):
        rows[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert len(rows) > 3
    for spans in rows.values():
        open_until: list[float] = []
        for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while open_until and open_until[-1] <= start + 1e-3:
                open_until.pop()
            assert not open_until or end <= open_until[-1] + 1e-3
            open_until.append(end)


def test_a_failed_read_says_so(store: BlockingStore, path: Path) -> None:
    with s3dlio.trace(path), pytest.raises(FileNotFoundError):
        store.get("absent")
    (attempt,) = [event for event in complete(path) if event["name"] == "GetObject"]
    assert (attempt["args"]["status"], attempt["args"]["failure"]) == (404, "final")


# The file


def is_whole(path: Path) -> bool:
    """Whether it can be read; what cannot must change at once."""
    try:
        json.loads(text := path.read_text())
    except json.JSONDecodeError:
        while path.read_text() == text:
            pass
        return False
    return True


def test_it_is_valid_whenever_one_looks(store: BlockingStore, path: Path) -> None:
    with s3dlio.trace(path) as trace:
        assert json.loads(path.read_text())[0]["name"] == "process_name"
        looks = 0
        while looks < 3:
            before = path.read_text()
            while path.read_text() == before:
                store.get(KEYS[0])
            looks += is_whole(path)  # not while it is being written
    trace.close()
    size = path.stat().st_size
    store.get(KEYS[0])
    assert path.stat().st_size == size
    assert observers._recorders == ()


def test_what_cannot_be_written_in_time_is_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "_PAUSE", 600)
    monkeypatch.setattr(timeline, "_MOST", 2)
    with s3dlio.trace(path):
        for _ in range(5):
            observers.span_ended("wait", time.monotonic())
    names = [event["name"] for event in complete(path)]
    assert (names.count("wait"), names.count("3 notes lost")) == (2, 1)


def test_much_is_written_before_its_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "_PAUSE", 600)
    monkeypatch.setattr(timeline, "_MANY", 2)
    with s3dlio.trace(path):
        size = path.stat().st_size
        for _ in range(3):
            observers.span_ended("wait", time.monotonic())
        while path.stat().st_size == size:
            pass


def test_what_was_under_way_together_has_rows_of_its_own_each() -> None:
    events, used = timeline._Events(0.0, 1), list[set[int]]()
    for begun in (1.0, 2.0, 2.5):
        rows = [(str(key), "GetObject", "http://e", begun, 1) for key in range(4)]
        made = map(json.loads, events.of_read(Read(rows, begun + 0.7, begun + 0.7)))
        used.append({event["tid"] for event in made if event["ph"] == "X"})
    assert [len(each) for each in used] == [4, 4, 4]
    assert used[1] == used[0]
    assert not used[2] & used[1]


def test_what_nobody_waits_for_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "_REMEMBERED", 10)
    events = timeline._Events(0.0, 1)
    for number in range(100):
        rows = [(f"{number}/{key}", "GetObject", "http://e", number, 1) for key in range(4)]
        assert len(list(events.of_read(Read(rows, number + 0.5, number + 0.5)))) >= 4
    assert len(events._read) <= 20 + 4
    (phase,) = events._phases_for("99/3")
    assert phase == Phase("first byte", 99, 99.5)
    assert events._phases_for("99/3") == []


def test_an_interrupt_leaves_it_whole(store: BlockingStore, path: Path) -> None:
    def read() -> None:
        with s3dlio.trace(path):
            store.get(KEYS[0])
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        read()
    assert [event["name"] for event in complete(path)].count("GetObject") == 1


PROGRAM = """
import os, sys, s3dlio
trace = s3dlio.trace(sys.argv[1])
s3dlio.get(sys.argv[2])
if sys.argv[3] == "killed":
    while os.stat(sys.argv[1]).st_size < 400:
        pass
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("how", "code"), [("ended", 0), ("killed", -signal.SIGKILL)])
def test_so_does_the_end_of_the_process(store: BlockingStore, path: Path, how: str, code: int) -> None:
    command = [sys.executable, "-c", PROGRAM, str(path), f"{store.root}/{KEYS[0]}", how]
    assert subprocess.run(command, check=False, timeout=60).returncode == code
    assert [event["name"] for event in complete(path)].count("GetObject") == 1


def in_worker(path: str, uri: str) -> None:
    assert observers._recorders == ()
    if path:
        s3dlio.trace(path)
    s3dlio.get(uri)


@pytest.mark.parametrize("own", [True, False])
def test_a_forked_worker_has_its_own_or_none(store: BlockingStore, path: Path, tmp_path: Path, own: bool) -> None:
    mine = str(tmp_path / "worker.json") if own else ""
    with s3dlio.trace(path):
        worker = multiprocessing.get_context("fork").Process(target=in_worker, args=(mine, f"{store.root}/{KEYS[0]}"))
        worker.start()
        worker.join(60)
        store.get(KEYS[1])
    assert worker.exitcode == 0
    names = [event["args"]["key"] for event in complete(path) if event["name"] == "GetObject"]
    assert names == [KEYS[1]]
    if own:
        (attempt,) = [event for event in complete(Path(mine)) if event["name"] == "GetObject"]
        assert (attempt["pid"], attempt["args"]["key"]) == (worker.pid, KEYS[0])


def test_a_disk_that_is_full_is_an_error_of_its_own(store: BlockingStore) -> None:
    with pytest.raises(OSError, match="No space left"):
        s3dlio.trace("/dev/full")
    with pytest.raises(FileNotFoundError):
        s3dlio.trace("/absent/trace.json")
    assert observers._recorders == ()
