"""Writers: what they take, what they are, and when what they were given becomes an object."""

from __future__ import annotations

import array
import gc
import gzip
import io
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from ...servers.seaweedfs import READERS_SECRET
from .contents import ARRAY, LARGE, STATE
from .kit import Library, Place, case, refusing, tried


class Upload:
    """An upload that keeps what it is given, in place of one to a server."""

    def __init__(self) -> None:
        self.data = b""
        self.closed = 0

    def write(self, data: Any) -> None:
        self.data += bytes(data)

    def close(self) -> None:
        self.closed += 1


def _writer(lib: Library, upload: Upload | None = None) -> Any:
    return lib.root.S3Writer(upload or Upload())


def _open(lib: Library, at: Place, name: str = "object") -> Any:
    return lib.checkpoint().writer(at.scratch(name))


# --- what is written -------------------------------------------------------------------------------------------------


@case
def bytes_and_views(lib: Library, at: Place) -> object:
    with _open(lib, at) as writer:
        counts = [writer.write(data) for data in (b"abc", memoryview(b"defg")[1:], b"", memoryview(bytearray(b"hi")))]
        position = writer.tell()
    return counts, position, at.get("object")


@case
def views_of_larger_items(lib: Library, at: Place) -> object:
    upload = Upload()
    writer = _writer(lib, upload)
    numbers = np.arange(4, dtype="<i4")
    counts = [
        writer.write(view) for view in (numbers.data, numbers.reshape(2, 2).data, memoryview(array.array("d", [1.5])))
    ]
    return counts, writer.tell(), upload.data


@case
def views_with_gaps(lib: Library, at: Place) -> object:
    upload = Upload()
    writer = _writer(lib, upload)
    numbers = np.arange(12, dtype="u1")
    counts = [
        writer.write(view)
        for view in (numbers[::3].data, memoryview(b"abcdef")[::-2], numbers.reshape(3, 4)[:, 1].data)
    ]
    return counts, upload.data


@case
def what_cannot_be_written(lib: Library, at: Place) -> object:
    writer = _open(lib, at)
    wrong: tuple[object, ...] = ("text", 5, None, [1, 2], io.BytesIO(b"x"))
    found = [tried(writer.write, data) for data in wrong]
    writer.write(b"what can be")
    writer.close()
    return found, writer.tell(), at.get("object")


@case
def write_takes_one_argument(lib: Library, at: Place) -> object:
    writer = _writer(lib)
    return writer.write(data=b"by name"), tried(writer.write), tried(lambda: writer.write(b"a", b"b"))


@case
def nothing_written(lib: Library, at: Place) -> object:
    writer = _open(lib, at)
    before = at.names()
    writer.close()
    return before, at.names(), at.get("object"), writer.tell()


@case
def lists_of_lines_written(lib: Library, at: Place) -> object:
    with _open(lib, at) as writer:
        writer.writelines([b"one\n", b"two\n", memoryview(b"three")])
        found = writer.tell(), tried(lambda: writer.writelines(["text"]))
    return found, at.get("object")


@case
def many_small_writes(lib: Library, at: Place) -> object:
    with _open(lib, at) as writer:
        for number in range(2000):
            writer.write(b"%04d" % number)
    return writer.tell(), at.get("object")


@case
def a_large_object_in_parts(lib: Library, at: Place) -> object:
    checkpoint = lib.checkpoint(s3client_config=lib.config(part_size=5 << 20))
    with checkpoint.writer(at.scratch("large")) as writer:
        for start in range(0, len(LARGE), 3_000_001):
            writer.write(LARGE[start : start + 3_000_001])
    return writer.tell(), at.get("large") == LARGE


@case
def a_large_object_in_one_write(lib: Library, at: Place) -> object:
    with _open(lib, at, "large") as writer:
        count = writer.write(memoryview(LARGE))
    return count, at.get("large") == LARGE


@case
def special_keys_written(lib: Library, at: Place) -> object:
    names = ("a b", "a%20b", "a+b", "a#b?c=d&e", "é/ü 日本", "~!$*()'", "x=y;z,@:")
    for name in names:
        with _open(lib, at, name) as writer:
            writer.write(name.encode())
    return sorted(at.names()), [at.get(name) for name in names]


# --- what a writer is ------------------------------------------------------------------------------------------------


@case
def what_a_writer_is(lib: Library, at: Place) -> object:
    writer = _writer(lib)
    return (
        type(writer),
        isinstance(writer, io.BufferedIOBase),
        hasattr(writer, "stream"),
        [getattr(writer, name)() for name in ("readable", "writable", "seekable", "isatty", "tell")],
    )


@case
def what_a_writer_cannot_do(lib: Library, at: Place) -> object:
    writer = _writer(lib)
    steps: list[Callable[[], object]] = [
        writer.read,
        writer.read1,
        writer.readline,
        writer.fileno,
        writer.truncate,
        writer.detach,
    ]
    steps += [lambda: writer.seek(0), lambda: writer.readinto(bytearray(1)), lambda: next(writer)]
    return [tried(step) for step in steps]


@case
def the_life_of_a_writer(lib: Library, at: Place) -> object:
    upload = Upload()
    writer = _writer(lib, upload)
    open_ = writer.closed, writer.writable(), writer.flush(), writer.write(b"abc")
    writer.close()
    writer.close()
    return open_, writer.closed, writer.writable(), writer.readable(), writer.tell(), upload.closed, upload.data


@case
def what_a_closed_writer_refuses(lib: Library, at: Place) -> object:
    writer = _writer(lib)
    writer.close()
    return (
        tried(lambda: writer.write(b"more")),
        tried(lambda: writer.writelines([b"x"])),
        tried(writer.flush),
        tried(writer.isatty),
    )


@case
def a_writer_in_a_with_block(lib: Library, at: Place) -> object:
    upload = Upload()
    with _writer(lib, upload) as writer:
        inside = type(writer), writer.write(b"abc"), upload.closed
    return inside, writer.closed, upload.closed


@case
def closing_inside_of_the_block(lib: Library, at: Place) -> object:
    upload = Upload()
    with _writer(lib, upload) as writer:
        writer.write(b"abc")
        writer.close()
    return upload.closed, upload.data


@case
def a_closed_writer_in_another_with_block(lib: Library, at: Place) -> object:
    upload = Upload()
    writer = _writer(lib, upload)
    writer.close()
    with writer as same:
        found = same is writer, tried(lambda: same.write(b"x"))
    return found, upload.closed


@case
def a_writer_stays_where_it_is(lib: Library, at: Place) -> object:
    writer = _open(lib, at)
    writer.write(b"abc")
    found = tried(lambda: pickle.dumps(writer))
    writer.close()
    return found, at.get("object")


@case
def threads_that_close_together(lib: Library, at: Place) -> object:
    upload = Upload()
    writer = _writer(lib, upload)
    threads = [threading.Thread(target=writer.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return upload.closed, writer.closed


@case
def a_stream_that_cannot_be_closed(lib: Library, at: Place) -> object:
    class Failing(Upload):
        def close(self) -> None:
            raise LookupError("not published")

        def abort(self) -> None:
            """What ours does then."""

    writer = _writer(lib, Failing())
    return tried(writer.close), writer.closed, tried(writer.close)


# --- when it becomes an object ---------------------------------------------------------------------------------------


@case
def nothing_is_there_before_the_end(lib: Library, at: Place) -> object:
    with _open(lib, at) as writer:
        writer.write(b"abc")
        writer.flush()
        before = at.names()
    return before, at.names()


@case
def a_dropped_writer_publishes(lib: Library, at: Place) -> object:
    writer = _open(lib, at)
    writer.write(b"dropped")
    del writer
    gc.collect()
    return at.names(), at.get("object")


@case
def overwriting_an_object(lib: Library, at: Place) -> object:
    at.put("object", b"the old and longer content")
    with _open(lib, at) as writer:
        writer.write(b"new")
        during = at.get("object")
    return during, at.get("object")


@case
def two_writers_of_one_object(lib: Library, at: Place) -> object:
    first, second = _open(lib, at), _open(lib, at)
    first.write(b"first")
    second.write(b"second")
    second.close()
    between = at.get("object")
    first.close()
    return between, at.get("object")


@case
def several_writers_at_once(lib: Library, at: Place) -> object:
    checkpoint = lib.checkpoint()
    writers = [checkpoint.writer(at.scratch(name)) for name in "abc"]
    for part in (b"1", b"2"):
        for writer in writers:
            writer.write(part)
    for writer in reversed(writers):
        writer.close()
    return at.names(), [at.get(name) for name in "abc"]


def _published(checkpoint: Any, uri: str) -> object:
    with checkpoint.writer(uri) as writer:
        writer.write(b"data")
    return "published"


@case
def a_missing_bucket_when_writing(lib: Library, at: Place) -> object:
    with refusing(404, "NoSuchBucket") as server:
        checkpoint = lib.checkpoint(endpoint=server.endpoint)
        return tried(_published, checkpoint, "s3://no-such-bucket-anywhere/key")[:2]


@case
def writing_without_permission(lib: Library, at: Place) -> object:
    at.patch.setenv("AWS_ACCESS_KEY_ID", "rokey")
    at.patch.setenv("AWS_SECRET_ACCESS_KEY", READERS_SECRET)
    checkpoint = lib.checkpoint(s3client_config=lib.own_config())
    return tried(partial(_published, checkpoint, at.scratch("object"))), at.names()


# --- with other libraries --------------------------------------------------------------------------------------------


@case
def saving_with_pytorch(lib: Library, at: Place) -> object:
    with _open(lib, at, "zip") as writer:
        torch.save(STATE, writer)
    with _open(lib, at, "old") as writer:
        torch.save(STATE, writer, _use_new_zipfile_serialization=False)
    return [torch.load(io.BytesIO(at.get(name)), weights_only=True) for name in ("zip", "old")]


@case
def saving_with_numpy_and_pickle(lib: Library, at: Place) -> object:
    with _open(lib, at, "npy") as writer:
        np.save(writer, ARRAY)
    with _open(lib, at, "pickle") as writer:
        pickle.dump({"a": [1, 2]}, writer)
    return np.load(io.BytesIO(at.get("npy"))), pickle.loads(at.get("pickle"))


@case
def writing_archives(lib: Library, at: Place) -> object:
    with _open(lib, at, "zip") as writer, zipfile.ZipFile(writer, "w") as archive:
        archive.writestr("member", "content")
    with _open(lib, at, "tar") as writer, tarfile.open(fileobj=writer, mode="w|") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    with _open(lib, at, "gz") as writer, gzip.GzipFile(fileobj=writer, mode="wb", filename="") as packed:
        packed.write(b"content" * 100)
    with zipfile.ZipFile(io.BytesIO(at.get("zip"))) as read, tarfile.open(fileobj=io.BytesIO(at.get("tar"))) as members:
        return read.read("member"), members.getnames(), gzip.decompress(at.get("gz"))


@case
def a_buffered_writer_on_top(lib: Library, at: Place) -> object:
    writer = _open(lib, at)
    buffered = io.BufferedWriter(writer, 16)
    counts = [buffered.write(data) for data in (b"short", b"longer than the buffer is", b"end")]
    buffered.close()
    return counts, writer.closed, at.get("object")
