"""Writers: what is published when, and above all what is never published."""

from __future__ import annotations

import array
import gc
import io
import mmap
import multiprocessing
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
import trio

from s3dlio.blocking.store import BlockingWriter
from s3dlio.compat.s3torchconnector import S3Checkpoint, S3Exception, S3Writer
from s3dlio.errors import ErrorContext, ServerError, StoreError

from ..servers.seaweedfs import SeaweedFS


class Stream:
    """An upload that keeps an account, and fails when it is told to."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.events: list[str] = []
        self.failure: StoreError | None = None
        self.published = threading.Event()

    def write(self, data: memoryview) -> None:
        self._step("write")
        self.data += data

    def close(self) -> None:
        self._step("close")
        self.published.set()

    def abort(self) -> None:
        self.events.append("abort")

    def _step(self, name: str) -> None:
        self.events.append(name)
        if self.failure is not None:
            raise self.failure

    def fail(self) -> None:
        self.failure = ServerError("down", ErrorContext(operation="PutObject", key="key"))


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def writer(stream: Stream) -> S3Writer:
    return S3Writer(cast("BlockingWriter", stream))


@pytest.mark.parametrize(
    ("data", "sent"),
    [
        (b"abc", b"abc"),
        (bytearray(b"abc"), b"abc"),
        (memoryview(b"abc")[1:], b"bc"),
        (np.arange(3, dtype="<i4").data, np.arange(3, dtype="<i4").tobytes()),
        (np.arange(16, dtype="u1").reshape(4, 4)[:, 1].data, bytes([1, 5, 9, 13])),
        (np.zeros((0, 3)).data, b""),
        (np.arange(3, dtype="<i4"), np.arange(3, dtype="<i4").tobytes()),
        (np.asfortranarray([[1, 2], [3, 4]], dtype="u1"), bytes([1, 2, 3, 4])),
        (np.float64(1.5), np.float64(1.5).tobytes()),
        (array.array("H", [1, 2]), array.array("H", [1, 2]).tobytes()),
        (mmap.mmap(-1, 4), bytes(4)),
        (pickle.PickleBuffer(cast("Any", np.arange(3, dtype="<i4"))), np.arange(3, dtype="<i4").tobytes()),
        (b"", b""),
    ],
)
def test_bytes_of_any_memory_are_counted_and_sent(data: Any, sent: bytes, writer: S3Writer, stream: Stream) -> None:
    assert writer.write(data) == writer.tell() == len(sent)
    writer.close()
    assert stream.data == sent


@pytest.mark.parametrize("data", ["abc", np.array(["2026"], "M8[Y]"), torch.ones(1), 1, None, [1]])
def test_anything_else_is_a_type_error(data: Any, writer: S3Writer) -> None:
    with pytest.raises(TypeError):
        writer.write(data)
    writer.close()


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_is_pickled_without_a_copy_of_its_own(order: Any, writer: S3Writer, stream: Stream) -> None:
    large = np.arange(1 << 17, dtype="<f8").reshape(2, -1, order=order)
    pickle.dump(large, writer, protocol=5)
    writer.close()
    assert np.array_equal(pickle.loads(stream.data), large)


def test_a_writer_is_a_file_that_is_only_written(writer: S3Writer) -> None:
    assert isinstance(writer, io.BufferedIOBase)
    assert (writer.readable(), writer.writable(), writer.seekable(), writer.closed) == (False, True, False, False)
    for call in (writer.read, lambda: writer.seek(0)):
        with pytest.raises(io.UnsupportedOperation):
            cast("Callable[[], object]", call)()
    writer.flush()
    writer.close()
    writer.flush()
    assert (writer.writable(), writer.closed, writer.tell()) == (False, True, 0)
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"more")


def test_closing_again_does_nothing(writer: S3Writer, stream: Stream) -> None:
    writer.close()
    writer.close()
    with writer:
        pass
    assert stream.events == ["close"]


def test_threads_that_close_together_publish_once(writer: S3Writer, stream: Stream) -> None:
    threads = [threading.Thread(target=writer.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stream.events == ["close"]


def test_threads_that_write_together_lose_nothing(writer: S3Writer, stream: Stream) -> None:
    threads = [threading.Thread(target=lambda: [writer.write(b"abc") for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.tell() == len(stream.data) == 2400
    writer.close()


def _interrupted(writer: S3Writer, data: bytes = b"half") -> None:
    with writer:
        writer.write(data)
        raise KeyError("the caller's own")


def test_an_exception_in_the_block_drops_everything_for_good(writer: S3Writer, stream: Stream) -> None:
    with pytest.raises(KeyError, match="the caller's own"):
        _interrupted(writer)
    assert writer.closed
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write(b"more")
    del writer
    gc.collect()
    assert stream.events == ["write", "abort"]


def test_a_failed_write_drops_everything_for_good(stream: Stream) -> None:
    writer = S3Writer(cast("BlockingWriter", stream))
    stream.fail()
    with pytest.raises(S3Exception, match="down"):
        writer.write(b"abc")
    stream.failure = None
    assert writer.tell() == 0
    with pytest.raises(S3Exception, match="a write failed"):
        writer.close()
    writer.close()
    del writer
    gc.collect()
    assert stream.events == ["write", "abort"]


def _go_on_after_a_failure(writer: S3Writer) -> None:
    with writer:
        try:
            writer.write(b"abc")
        finally:
            raise RuntimeError("the archive is not complete")


def test_the_block_raises_what_made_a_write_fail_and_not_what_came_of_it(writer: S3Writer, stream: Stream) -> None:
    stream.fail()
    with pytest.raises(S3Exception, match="down") as caught:
        _go_on_after_a_failure(writer)
    assert isinstance(caught.value.__context__, RuntimeError)
    assert writer.closed
    assert set(stream.events) == {"write", "abort"}


def test_a_failed_write_is_not_published_by_the_finaliser(stream: Stream) -> None:
    writer = S3Writer(cast("BlockingWriter", stream))
    stream.fail()
    with pytest.raises(S3Exception, match="down"):
        writer.write(b"abc")
    del writer
    gc.collect()
    assert stream.events == ["write", "abort"]


def test_a_failed_close_says_so_once(writer: S3Writer, stream: Stream) -> None:
    stream.fail()
    with pytest.raises(S3Exception, match="down") as caught:
        writer.close()
    assert isinstance(caught.value.__cause__, ServerError)
    writer.close()
    assert stream.events == ["close", "abort"]


def test_a_dropped_writer_publishes(stream: Stream) -> None:
    S3Writer(cast("BlockingWriter", stream)).write(b"abc")
    gc.collect()
    assert stream.events == ["write", "close"]


def _dropped(stream: Stream) -> Any:
    """A writer that only the call it is given to holds."""
    return S3Writer(cast("BlockingWriter", stream))


class Unpicklable:
    def __reduce__(self) -> str:
        raise KeyError("cannot be pickled")


TORSO: dict[str, Any] = {"weight": torch.ones(1 << 16), "bad": Unpicklable()}


@pytest.mark.parametrize("zipped", [True, False])
def test_a_writer_dropped_by_a_save_that_failed_publishes_nothing(
    zipped: bool, stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(KeyError, match="cannot be pickled"):
        torch.save(TORSO, _dropped(stream), _use_new_zipfile_serialization=zipped)
    gc.collect()
    assert "close" not in stream.events
    assert stream.events[-1] == "abort"
    assert "nothing is published" in caplog.text


@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_saved_while_an_exception_is_handled_is_published(zipped: bool, stream: Stream) -> None:
    """As a program does that is interrupted."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        torch.save(torch.ones(3), _dropped(stream), _use_new_zipfile_serialization=zipped)
    gc.collect()
    assert stream.events[-1] == "close"


def test_a_writer_that_goes_on_after_an_exception_publishes(stream: Stream) -> None:
    writer = S3Writer(cast("BlockingWriter", stream))
    try:
        raise LookupError
    except LookupError:
        writer.write(b"in the handler, ")
    writer.write(b"and after it")
    del writer
    gc.collect()
    assert stream.events[-1] == "close"
    assert stream.data == b"in the handler, and after it"


async def test_a_torso_is_dropped_without_blocking_the_loop(stream: Stream) -> None:
    aborted = threading.Event()
    stream.abort = aborted.set  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        torch.save(TORSO, _dropped(stream))
    gc.collect()
    assert await trio.to_thread.run_sync(aborted.wait, 10)
    assert "close" not in stream.events


async def test_a_writer_dropped_on_a_loop_s_thread_does_not_block_it(stream: Stream) -> None:
    thread = threading.current_thread()
    closers: list[threading.Thread] = []
    close = stream.close

    def noting() -> None:
        closers.append(threading.current_thread())
        close()

    stream.close = noting  # type: ignore[method-assign]
    S3Writer(cast("BlockingWriter", stream)).write(b"abc")
    assert await trio.to_thread.run_sync(stream.published.wait, 10)
    assert closers != [thread]


def _drop(writer: S3Writer) -> None:
    writer.__del__()


def test_a_forked_child_never_publishes(writer: S3Writer, stream: Stream) -> None:
    context = multiprocessing.get_context("fork")
    stream.published = cast("threading.Event", context.Event())
    child = context.Process(target=_drop, args=(writer,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert not stream.published.is_set()
    writer.close()
    assert stream.published.is_set()


def test_a_real_writer_publishes_all_at_once(s3_environment: SeaweedFS, bucket: str) -> None:
    checkpoint = S3Checkpoint("us-east-1")
    uri = f"s3://{bucket}/folder/a key+%20é"
    with checkpoint.writer(uri) as writer:
        writer.write(b"abc")
        with pytest.raises(S3Exception, match="does not exist"):
            checkpoint.reader(uri).read()
        writer.write(memoryview(b"def"))
    assert checkpoint.reader(uri).read() == b"abcdef"


def test_a_real_writer_of_nothing_makes_an_empty_object(s3_environment: SeaweedFS, bucket: str) -> None:
    checkpoint = S3Checkpoint("us-east-1")
    checkpoint.writer(f"s3://{bucket}/empty").close()
    assert checkpoint.reader(f"s3://{bucket}/empty").read() == b""
    assert checkpoint.reader(f"s3://{bucket}/empty").read(10) == b""


@pytest.mark.parametrize("size", [10, 6 << 20])
def test_a_save_that_fails_without_a_block_leaves_the_old_object(
    size: int, s3_environment: SeaweedFS, bucket: str
) -> None:
    """Small ones are sent at the end; of large ones parts are sent before."""
    checkpoint: Any = S3Checkpoint("us-east-1")
    uri = f"s3://{bucket}/key"
    torch.save({"step": 1}, checkpoint.writer(uri))
    with pytest.raises(KeyError, match="cannot be pickled"):
        torch.save({"weight": torch.ones(size), "bad": Unpicklable()}, checkpoint.writer(uri))
    gc.collect()
    assert torch.load(checkpoint.reader(uri)) == {"step": 1}


@pytest.mark.parametrize("size", [10, 20 << 20])
def test_a_failed_save_leaves_the_old_object(size: int, s3_environment: SeaweedFS, bucket: str) -> None:
    checkpoint = S3Checkpoint("us-east-1")
    uri = f"s3://{bucket}/key"
    with checkpoint.writer(uri) as writer:
        writer.write(b"old")
    with pytest.raises(KeyError):
        _interrupted(checkpoint.writer(uri), bytes(size))
    gc.collect()
    assert checkpoint.reader(uri).read() == b"old"


def test_many_parts_arrive_in_order(s3_environment: SeaweedFS, bucket: str) -> None:
    checkpoint = S3Checkpoint("us-east-1")
    data = np.random.default_rng(1).integers(0, 256, 21 << 20, dtype="u1").tobytes()
    with checkpoint.writer(f"s3://{bucket}/large") as writer:
        for start in range(0, len(data), 3_000_000):
            writer.write(data[start : start + 3_000_000])
    assert checkpoint.reader(f"s3://{bucket}/large").read() == data


_SCRIPT = """
import sys
from s3dlio.compat.s3torchconnector import S3Checkpoint
dropped, kept = sys.argv[1:]
S3Checkpoint("us-east-1").writer(dropped).write(b"published")
writer = S3Checkpoint("us-east-1").writer(kept)
writer.write(b"not published")
writer.cycle = writer
"""


def test_what_the_end_of_a_program_publishes(s3_environment: SeaweedFS, bucket: str) -> None:
    dropped, kept = (f"s3://{bucket}/{name}" for name in ("dropped", "kept"))
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, dropped, kept], capture_output=True, text=True, timeout=200, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    checkpoint = S3Checkpoint("us-east-1")
    assert checkpoint.reader(dropped).read() == b"published"
    with pytest.raises(FileNotFoundError):
        checkpoint.reader(kept).read()
