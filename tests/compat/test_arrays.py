"""Objects as arrays and tensors: what is read, where it lands, and that its memory is used again, and not too early."""

from __future__ import annotations

import functools
import io
import os
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from gc import collect
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.alignment.allocator import CachingAllocator
from s3dlio.alignment.buffers import AlignedBuffer, size_class
from s3dlio.blocking import memory
from s3dlio.blocking.portal import CancelledError, Job
from s3dlio.blocking.store import BlockingStore
from s3dlio.compat.s3torchconnector import S3Checkpoint, S3ClientConfig, S3Exception, S3Reader
from s3dlio.compat.s3torchconnector.objects import ObjectInfo
from s3dlio.compat.s3torchconnector.s3reader import (
    DCPOptimizedS3Reader,
    ItemRange,
    RangedS3Reader,
    SequentialS3Reader,
)
from s3dlio.compat.s3torchconnector.source import Iteration, StoredObject, StreamedObject, in_one_batch
from s3dlio.config import Config, MiB
from s3dlio.model import GetResult, ObjectMeta
from s3dlio.urls import Uri

from ..interpreter import run_python
from ..servers.seaweedfs import SeaweedFS
from ..watched import WatchedStore
from .files import CONTENTS, STEPS, check_step
from .standin import KEY, ranged_reader_of, reader_of, refuse

POISON = 0xDB
SIZE = 11 * MiB + 5


class Poisoning(CachingAllocator):
    """Overwrites what comes back, as the next object would."""

    def _give_back(self, buffer: AlignedBuffer) -> None:
        buffer.view[:] = bytes([POISON]) * buffer.size
        super()._give_back(buffer)


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> CachingAllocator:
    """In place of the process's own."""
    made = Poisoning(40 * MiB)
    monkeypatch.setattr(memory, "allocator", lambda: made)
    return made


@given(CONTENTS, st.lists(STEPS, max_size=5), st.integers(1, 40), st.booleans(), st.booleans(), st.booleans())
def test_an_array_has_what_read_would_give(
    data: bytes, steps: list[Any], part_size: int, listed: bool, ranged: bool, as_tensor: bool
) -> None:
    model, reader = io.BytesIO(data), cast("S3Reader", reader_of(data, part_size=part_size, listed=listed)[1])
    if ranged:
        reader = ranged_reader_of(data, buffer_size=part_size // 2, part_size=part_size, listed=listed)[1]
    for step in steps:
        check_step(reader, model, step)
    array = reader.tensor().numpy() if as_tensor else reader.numpy()
    assert array.tobytes() == model.read()
    assert (array.dtype.name, array.ndim, array.flags.writeable) == ("uint8", 1, True)
    assert reader.tell() == model.tell()
    array[:] = 0
    reader.seek(0)
    assert reader.read() == data


def test_a_listed_object_is_received_where_it_stays(allocator: CachingAllocator) -> None:
    store, reader = reader_of(bytes(SIZE), part_size=MiB)
    tensor = reader.tensor()
    assert tensor.data_ptr() % 4096 == 0
    assert store.requests == [("into", 0, SIZE, None)]
    del tensor
    assert allocator.kept == size_class(SIZE)


def test_of_one_of_unknown_size_the_first_part_is_copied_and_the_rest_is_of_its_version() -> None:
    store, reader = reader_of(bytes(range(250)), part_size=100, listed=False)
    reader.tensor()
    assert store.requests == [("range", 0, 100, None), ("into", 100, 250, store.meta(KEY).etag)]


@pytest.mark.parametrize("reader_of_it", [reader_of, ranged_reader_of])
@pytest.mark.parametrize("size", [50, 250])
def test_an_object_that_grew_since_it_was_listed_is_read_to_its_end(reader_of_it: Any, size: int) -> None:
    options = {"buffer_size": 100} if reader_of_it is ranged_reader_of else {}
    store, reader = reader_of_it(bytes(size), part_size=100, **options)
    store.objects[KEY] = bytes(range(200)) * 2
    assert reader.numpy().tobytes() == store.objects[KEY]
    assert reader.tell() == 400


def test_of_an_object_that_shrank_since_it_was_listed_nothing_is_left_past_its_end() -> None:
    store, reader = reader_of(bytes(90), part_size=100)
    store.objects[KEY] = bytes(50)
    reader.seek(80)
    assert reader.numpy().size == 0


def test_a_stream_of_ones_own() -> None:
    source = StreamedObject(KEY, lambda: ObjectMeta(KEY, 6), lambda start=None, end=None: iter([b"abc", b"def"]))
    assert SequentialS3Reader("bucket", KEY, source._get_object_info, source._get_stream).numpy().tobytes() == b"abcdef"


def test_errors_are_those_of_reading() -> None:
    store, reader = reader_of(b"data", listed=False)
    store.objects.clear()
    with pytest.raises(S3Exception):
        reader.numpy()


def test_a_reader_of_ranges_has_none() -> None:
    reader = DCPOptimizedS3Reader("bucket", KEY, [ItemRange(0, 1)], lambda: ObjectMeta(KEY, 6), lambda: iter([b"a"]))
    with pytest.raises(io.UnsupportedOperation):
        reader.numpy()
    with pytest.raises(io.UnsupportedOperation):
        reader.tensor()


def test_pinned_memory_is_pytorchs_own(monkeypatch: pytest.MonkeyPatch, allocator: CachingAllocator) -> None:
    empty, made = torch.empty, list[torch.Tensor]()

    def instead(size: int, *, dtype: torch.dtype, pin_memory: bool) -> torch.Tensor:
        assert pin_memory
        made.append(empty(size, dtype=dtype))
        return made[-1]

    monkeypatch.setattr(torch, "empty", instead)
    tensor = reader_of(b"data")[1].tensor(pin_memory=True)
    assert tensor.numpy().tobytes() == b"data"
    assert tensor.untyped_storage()._cdata == made[0].untyped_storage()._cdata  # PyTorch looks at the storage


def outcome(make: Callable[[], torch.Tensor]) -> bool | tuple[type, str]:
    """Whether the tensor is pinned, or the error."""
    try:
        return make().is_pinned()
    except Exception as error:
        return type(error), str(error)


def test_pinning_does_what_pytorch_does_with_and_without_an_accelerator() -> None:
    theirs = outcome(lambda: torch.empty(4, pin_memory=True))
    assert theirs is not False
    assert outcome(lambda: reader_of(b"data")[1].tensor(pin_memory=True)) == theirs


PART = 100
Read = Callable[[SequentialS3Reader], bytes]
READS = st.sampled_from([SequentialS3Reader.read, lambda reader: reader.tensor().numpy().tobytes()])


def data_set(sizes: list[int]) -> tuple[WatchedStore, list[StoredObject]]:
    """Listed objects of these sizes in one store, which two parts of 100 bytes keep busy."""
    store = WatchedStore(Uri("s3", "bucket", ""), Config(part_size=PART, parts_in_flight=2))
    for number, size in enumerate(sizes):
        store.put(str(number), bytes([number]) * size)
    metas = [ObjectMeta(str(number), size) for number, size in enumerate(sizes)]
    return store, [StoredObject(store, "bucket", meta.key, ObjectInfo.of(meta)) for meta in metas]


def reader_in(member: StoredObject) -> SequentialS3Reader:
    return SequentialS3Reader("bucket", member.key, member.info, member.stream)


@given(
    st.lists(st.tuples(st.sampled_from([1, 150, 200, 450]), READS), max_size=8),
    st.sampled_from([Iteration, in_one_batch]),
)
def test_of_a_data_set_no_byte_is_fetched_twice(wanted: list[tuple[int, Read]], grouped: Any) -> None:
    """However small and large ones, and ways of reading, are mixed."""
    sizes = [size for size, _ in wanted]
    store, members = data_set(sizes)
    for number, member in enumerate(grouped(members)):
        assert wanted[number][1](reader_in(member)) == bytes([number]) * sizes[number]
    fetched = [end - start for start, end in store.watched.ranges]
    whole = [sizes[int(key)] for key, asked in store.watched.reads if asked is None]
    assert sum(fetched) + sum(whole) == sum(sizes)


def test_objects_that_keep_the_store_busy_are_not_read_ahead_of_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Iteration, "body", refuse)
    _, members = data_set([200] * 4)
    assert [reader_in(member).tensor().numel() for member in Iteration(members)] == [200] * 4


def test_a_reader_with_a_buffer_reads_no_more_than_that_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Iteration, "body", refuse)
    _, members = data_set([150] * 4)
    for member in Iteration(members):
        assert RangedS3Reader("bucket", member.key, member.info, member.stream, PART).tensor().numel() == 150


def test_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    _, members = data_set([199] * 4)
    readers = [reader_in(member) for member in Iteration(members)]
    for reader in readers[:2]:
        reader.tensor()
    monkeypatch.setattr(WatchedStore, "get_into", refuse)
    assert [reader.tensor().numel() for reader in readers[2:]] == [199] * 2


@pytest.fixture(scope="module")
def bodies() -> list[bytes]:
    """Of several parts each."""
    return [random.Random(number).randbytes(SIZE + number * MiB) for number in range(3)]


@pytest.fixture
def stored(s3_environment: SeaweedFS, bucket: str, bodies: list[bytes]) -> BlockingStore:
    """A bucket with these, under their numbers."""
    store = BlockingStore(Uri("s3", bucket, ""), Config(part_size=MiB))
    for number, body in enumerate(bodies):
        store.put(str(number), body)
    return store


def reader(store: BlockingStore, number: int) -> S3Reader:
    config = S3ClientConfig(part_size=5 * MiB)
    return S3Checkpoint("us-east-1", s3client_config=config).reader(f"{store.root}/{number}")


def test_memory_is_given_back_when_the_last_view_is_dropped(
    stored: BlockingStore, bodies: list[bytes], allocator: CachingAllocator
) -> None:
    tensor = reader(stored, 0).tensor()
    place, part = tensor.data_ptr(), tensor[: 4 * MiB].view(torch.int32).reshape(2, -1)[1]
    del tensor
    assert allocator.kept == 0
    other = reader(stored, 0).numpy()
    assert other.tobytes() == bodies[0]
    assert part.numpy().tobytes() == bodies[0][2 * MiB : 4 * MiB]
    del part
    assert allocator.kept == size_class(SIZE)
    again = reader(stored, 0).numpy()
    assert (again.ctypes.data, again.tobytes()) == (place, bodies[0])


def test_threads_read_into_memory_of_their_own(
    stored: BlockingStore, bodies: list[bytes], allocator: CachingAllocator
) -> None:
    sound = list[int]()

    def read(number: int) -> None:
        wanted, views = np.frombuffer(bodies[number], np.uint8), list[Any]()
        for turn in range(6):
            views.append(reader(stored, number).numpy()[turn:])
            del views[:-2]
            if not all(np.array_equal(view, wanted[-view.size :]) for view in views):
                return
        sound.append(number)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sound) == [0, 1, 2]


def test_what_a_cancelled_read_was_receiving_into_is_not_used_while_it_lets_go(
    stored: BlockingStore, bodies: list[bytes], allocator: CachingAllocator
) -> None:
    chance = random.Random(7)
    for _ in range(30):
        number = chance.randrange(3)
        jobs = [_begin(stored, number, allocator) for _ in range(2)]
        for _ in range(chance.randrange(200)):
            os.sched_yield()
        for job in jobs:
            job.cancel()
        del job, jobs
        array = reader(stored, number).numpy()
        assert np.array_equal(array, np.frombuffer(bodies[number], np.uint8))


def _begin(store: BlockingStore, number: int, allocator: CachingAllocator) -> Job[GetResult]:
    view = allocator.allocate(SIZE).data
    return store.begin_get_into(str((number + 1) % 3), view)


def test_an_interrupted_read_gives_its_memory_back(stored: BlockingStore, allocator: CachingAllocator) -> None:
    view = allocator.allocate(SIZE).data
    job = stored.begin_get_into("0", view)
    job.cancel()
    del view
    with suppress(CancelledError):
        job.result()
    del job
    stored.exists("0")  # by then the loop has left what was cancelled
    collect()
    assert allocator.kept == size_class(SIZE)


def test_a_forked_child_reads_into_memory_of_its_own(
    stored: BlockingStore, bodies: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "allocator", functools.cache(memory.allocator.__wrapped__))
    tensor, dropped = reader(stored, 0).tensor(), reader(stored, 1).tensor()
    del dropped
    assert memory.allocator().kept == size_class(SIZE + MiB)
    child = os.fork()
    if not child:
        sound = memory.allocator().kept == 0
        sound &= reader(stored, 1).numpy().tobytes() == bodies[1]
        sound &= tensor.numpy().tobytes() == bodies[0]
        tensor.numpy()[:] = 0  # not by PyTorch, whose threads are the parent's
        os._exit(0 if sound else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert memory.allocator().kept == size_class(SIZE + MiB)
    assert tensor.numpy().tobytes() == bodies[0]


def test_tensors_that_live_until_the_exit(stored: BlockingStore) -> None:
    done = run_python(
        "import sys; from s3dlio.compat.s3torchconnector import S3Checkpoint;"
        f"sys.last = [S3Checkpoint().reader('{stored.root}/0').tensor()[5:] for _ in range(2)]"
    )
    assert (done.returncode, done.stderr) == (0, "")
