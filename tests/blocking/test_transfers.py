"""Copies, uploads, downloads and synchronised trees, between places of every scheme."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import trio

import s3dlio
from s3dlio import BulkError, Config, InvalidUriError, NotFoundError, PutOptions, ServerError
from s3dlio.blocking.transfers import copy_each, plan_sync
from s3dlio.model import GetOptions, GetResult, Sink
from s3dlio.stores import MemoryStore

MIB = 1 << 20
TREE = {"a": b"1", "b/c": b"22", "b/d/e": b"333", "empty": b"", "z": bytes(2000)}


def fill(uri: str, contents: dict[str, bytes] = TREE) -> None:
    s3dlio.put_many({uri + name: data for name, data in contents.items()})


def contents_of(uri: str) -> dict[str, bytes]:
    return {found.removeprefix(uri): data for found, data in s3dlio.get_many(s3dlio.list(uri).uris)}


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def memory(request: pytest.FixtureRequest) -> str:
    """A folder in memory that nobody else has."""
    return f"memory://{request.node.name}/tree/"


def test_an_object_is_copied_and_moved_with_what_it_says_of_itself(tree: str, memory: str) -> None:
    s3dlio.put(f"{memory}from", b"data", PutOptions("text/plain", {"made": "now"}))
    s3dlio.copy(f"{memory}from", f"{tree}in/")
    s3dlio.copy(f"{tree}in/from", f"{tree}beside")
    s3dlio.move(f"{tree}beside", f"{tree}moved")
    s3dlio.copy(f"{tree}moved", f"{memory}back")
    assert contents_of(tree) == {"in/from": b"data", "moved": b"data"}
    meta = s3dlio.stat(f"{memory}back")
    if not tree.startswith(("file", "direct")):  # which keep nothing of the kind
        assert (meta.content_type, dict(meta.metadata)) == ("text/plain", {"made": "now"})
    with pytest.raises(NotFoundError):
        s3dlio.copy(f"{tree}absent", f"{memory}absent")


def test_a_large_object_goes_piece_by_piece(tree: str, memory: str) -> None:
    data, config = os.urandom(MIB) * 23 + b"end", Config(part_size=5 * MIB, memory_limit=20 * MIB)
    s3dlio.put(f"{memory}large", data, config=config)
    done = s3dlio.copy(f"{memory}large", f"{tree}large", config=config)
    assert (done.objects, done.bytes) == (1, len(data))
    s3dlio.copy(f"{tree}large", f"{memory}back", config=config)
    assert s3dlio.get(f"{memory}back", config=config) == data


def test_a_directory_goes_up_and_comes_down(tree: str, tmp_path: Path) -> None:
    for name, data in TREE.items():
        (tmp_path / "up" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / name).write_bytes(data)
    done = s3dlio.upload(tmp_path / "up", tree)
    assert (done.objects, done.bytes) == (5, 2006)
    assert contents_of(tree) == TREE
    s3dlio.download(tree, tmp_path / "down")
    assert files_in(tmp_path / "down") == TREE


def test_a_file_goes_up_and_comes_down(tree: str, tmp_path: Path) -> None:
    (tmp_path / "name").write_bytes(b"data")
    s3dlio.upload(tmp_path / "name", tree)
    s3dlio.upload(str(tmp_path / "name"), f"{tree}other")
    s3dlio.download(f"{tree}other", tmp_path)
    s3dlio.download(f"{tree}name", tmp_path / "third")
    assert files_in(tmp_path) == dict.fromkeys(("name", "other", "third"), b"data")
    with pytest.raises(FileNotFoundError):
        s3dlio.upload(tmp_path / "absent", tree)


def test_a_tree_is_brought_to_the_state_of_another(tree: str, memory: str) -> None:
    fill(memory)
    assert s3dlio.sync(memory, tree).objects == 5
    again = s3dlio.sync(memory, tree.rstrip("/"))
    assert (again.objects, again.bytes, again.same) == (0, 0, 5)
    s3dlio.put(f"{memory}b/c", b"4444")
    s3dlio.delete(f"{memory}z")
    s3dlio.put(f"{memory}new", b"5")
    changed = s3dlio.sync(memory, tree)
    assert (changed.objects, changed.bytes, changed.same, changed.removed) == (2, 5, 3, 0)
    assert set(contents_of(tree)) == {*TREE, "new"}
    assert s3dlio.sync(memory, tree, delete=True).removed == 1
    assert contents_of(tree) == contents_of(memory)


def test_a_tree_comes_back_the_same(tree: str, memory: str) -> None:
    fill(tree)
    s3dlio.sync(tree, memory)
    assert contents_of(memory) == TREE
    assert s3dlio.sync(tree, memory).objects == 0


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception]:
    """Reads of these keys from memory fail."""
    errors: dict[str, Exception] = {}
    real = MemoryStore.fetch

    async def fetch(store: MemoryStore, key: str, sink: Sink, options: GetOptions = GetOptions()) -> GetResult:
        if (error := errors.get(key)) is not None:
            raise error
        return await real(store, key, sink, options)

    monkeypatch.setattr(MemoryStore, "fetch", fetch)
    return errors


def test_one_failure_does_not_end_the_others_and_nothing_is_removed(
    memory: str, tmp_path: Path, fails: dict[str, Exception]
) -> None:
    fill(memory)
    (tmp_path / "extra").write_bytes(b"")
    fails["tree/b/c"] = s3dlio.PermissionDeniedError("no")
    with pytest.raises(BulkError) as caught:
        s3dlio.sync(memory, tmp_path, delete=True)
    assert [*caught.value.failures] == [f"{memory}b/c"]
    assert caught.value.done.objects == 4
    assert files_in(tmp_path) == {name: data for name, data in TREE.items() if name != "b/c"} | {"extra": b""}


def test_what_was_ended_goes_on_where_it_stopped(memory: str, tmp_path: Path, fails: dict[str, Exception]) -> None:
    """A server that dies at half: both runs together send what one would have."""
    tree = {f"{number:03}": bytes(1000) for number in range(100)}
    fill(memory, tree)
    fails.update({f"tree/{number:03}": ServerError("out") for number in range(50, 100)})
    with pytest.raises(BulkError, match="outage") as caught:
        s3dlio.sync(memory, tmp_path, max_in_flight=4)
    assert 50 - 4 <= caught.value.done.objects <= 50
    assert len(caught.value.failures) <= 8
    fails.clear()
    rest = s3dlio.sync(memory, tmp_path, max_in_flight=4)
    assert caught.value.done.bytes + rest.bytes == 100_000
    assert files_in(tmp_path) == tree


def test_a_run_that_was_interrupted_goes_on_where_it_stopped(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = {f"{number:03}": bytes(1000) for number in range(100)}
    fill(memory, tree)
    main, read, interrupted, done = threading.get_ident(), list[int](), False, False
    real = MemoryStore.fetch

    async def fetch(store: MemoryStore, key: str, sink: Sink, options: GetOptions = GetOptions()) -> GetResult:
        nonlocal interrupted
        if len(read) >= 50 and not done:
            if not interrupted:
                interrupted = True
                signal.pthread_kill(main, signal.SIGINT)
            await trio.sleep_forever()
        result = await real(store, key, sink, options)
        read.append(result.end - result.start)
        return result

    monkeypatch.setattr(MemoryStore, "fetch", fetch)
    with pytest.raises(KeyboardInterrupt):
        s3dlio.sync(memory, tmp_path, max_in_flight=4)
    assert 0 < len(files_in(tmp_path)) < 60
    done = True
    s3dlio.sync(memory, tmp_path, max_in_flight=4)
    assert sum(read) <= 1.05 * sum(map(len, tree.values()))
    assert files_in(tmp_path) == tree


def test_a_source_that_is_replaced_is_sent_as_it_is_then(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3dlio.put(f"{memory}key", b"old")
    real: Any = MemoryStore.fetch
    replaced = False

    async def fetch(store: MemoryStore, key: str, *args: Any) -> GetResult:
        nonlocal replaced
        if not replaced:
            replaced = True
            await store.put(key, b"newer")
        result: GetResult = await real(store, key, *args)
        return result

    monkeypatch.setattr(MemoryStore, "fetch", fetch)
    s3dlio.sync(memory, tmp_path)
    assert files_in(tmp_path) == {"key": b"newer"}


def test_what_stands_for_a_folder_is_no_file(memory: str, tmp_path: Path) -> None:
    fill(memory, {"tree/": b"", "tree/a": b"1"})
    s3dlio.download(memory, tmp_path)
    assert files_in(tmp_path) == {"tree/a": b"1"}


def test_a_folder_is_not_sent_into_itself(memory: str) -> None:
    with pytest.raises(InvalidUriError, match="lies in the other"):
        s3dlio.copy(memory, f"{memory}inside/")
    with pytest.raises(InvalidUriError, match="to where it is"):
        s3dlio.move(f"{memory}a", f"{memory}a")
    with pytest.raises(InvalidUriError, match="no key"):
        s3dlio.copy("memory://bucket", memory)


def test_what_was_sent_is_told() -> None:
    done = s3dlio.Transferred(3, 5_000_000, 2, 0, 2.0)
    assert str(done) == "3 objects, 5 MB in 2.0 s, 2.5 MB/s; 2 the same"


# Lists of copies, and plans


def test_many_copies_are_tried_and_told_of(memory: str, tmp_path: Path) -> None:
    fill(memory)
    copies = [(f"{memory}{meta.key.removeprefix('tree/')}", meta) for meta in s3dlio.list(memory)]
    absent = f"{memory}absent", s3dlio.ObjectMeta("absent", 1)
    told: list[tuple[str, str, int]] = []
    with pytest.raises(BulkError) as caught:
        copy_each(
            [(uri, f"file://{tmp_path}/{number}", meta) for number, (uri, meta) in enumerate([absent, *copies])],
            lambda *each: told.append(each),
        )
    assert list(caught.value.failures) == [f"{memory}absent"]
    assert [(uri, size) for uri, _, size in told] == [(uri, meta.size) for uri, meta in copies]
    assert [Path(target.removeprefix("file://")).read_bytes() for _, target, _ in told] == [*TREE.values()]


def test_a_file_is_copied_by_what_a_listing_of_a_directory_above_told(tmp_path: Path, memory: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "name").write_bytes(b"data")
    (meta,) = s3dlio.list(f"file://{tmp_path}/")
    copy_each([(f"file://{tmp_path}/sub/name", f"{memory}name", meta)], lambda *_: None)
    assert contents_of(memory) == {"name": b"data"}


def test_a_plan_is_what_is_done_then(tree: str, memory: str) -> None:
    fill(memory)
    fill(tree, {"a": b"1", "b/c": b"other", "extra": b"!"})
    plan = plan_sync(memory, tree, delete=True)
    assert contents_of(tree) == {"a": b"1", "b/c": b"other", "extra": b"!"}
    assert [change.target for change in plan if change.action == "delete"] == [f"{tree}extra"]
    assert not [change for change in plan_sync(memory, tree) if change.action == "delete"]
    done = s3dlio.sync(memory, tree, delete=True)
    sent = [change for change in plan if change.action == "copy"]
    assert (done.objects, done.bytes, done.removed) == (len(sent), sum(change.size for change in sent), 1)
    assert plan_sync(memory, tree, delete=True) == []
    with pytest.raises(InvalidUriError):
        plan_sync(memory, f"{memory}b/")
