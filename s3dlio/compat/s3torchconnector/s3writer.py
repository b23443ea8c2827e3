"""Writers: a write-only binary file that becomes an object when it is closed.

The garbage collector may finalise a writer on any thread, also on the one that runs the loop which does the upload.
That thread must not wait for itself, so there what is left to do is left to a thread of its own.

The finaliser cannot see an exception that has passed: the traceback has kept the writer alive until it was forgotten.
But `torch.save` ends its archive and flushes in any case, so where it fails, its last steps come while the exception
passes, and there it can be seen. One that was being handled already when the writer was made is another matter:
programs that are interrupted save what they have.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, NoReturn, Self

import trio

from ...blocking.store import BlockingWriter
from .arguments import check
from .errors import S3Exception, translated

if TYPE_CHECKING:
    from typing_extensions import Buffer

_log = logging.getLogger(__name__)


class S3Writer(io.BufferedIOBase):
    """A write-only file that is published, all at once, by `close`.

    After an exception in its `with` block, and after a failed `write`, it publishes nothing, ever: an older object of
    that name stays as it is. What made a `write` fail is what the block raises, also where something else came of it:
    `torch.save` goes on after a failure, and then complains of what it did itself.

    A writer that is dropped without `close` publishes what it was given, because
    `torch.save(state, checkpoint.writer(uri))` is a known idiom; not, however, where the last write or flush came while
    an exception passed, in a forked child, or while the interpreter shuts down. Several threads may write and close.
    Writers are made by `S3Checkpoint.writer` and `S3Client.put_object`; `stream` is the upload that takes the bytes.
    """

    def __init__(self, stream: BlockingWriter) -> None:
        self.stream = stream
        self._position = 0
        self._closed = False
        self._failure: BaseException | None = None
        self._lock = threading.RLock()  # a signal handler may close the writer in the middle of a write
        self._process = os.getpid()
        self._handled = id(sys.exception())
        self._torso = False

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *trace: object) -> None:
        if kind is None:
            self.close()
            return
        self._abort()
        if self._failure is not None and self._failure is not error:
            raise self._failure

    def write(self, data: Buffer) -> int:
        """Add bytes; the count of bytes is returned.

        `data` is any buffer, of any item type: `bytes`, an array, an `mmap`; it may be changed afterwards.
        Errors: `TypeError` for anything else; `ValueError` after `close`; `S3Exception`, after which nothing will be
        published.
        """
        with self._lock:
            if self._closed:
                raise ValueError("I/O operation on closed file.")
            view = _flat(data)
            if len(view):
                self._send(view)
            self._position += len(view)
            self._torso = self._exception_passes()
        return len(view)

    def close(self) -> None:
        """Publish. Closing again does nothing.

        Errors: `S3Exception`; then nothing was published.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._failure is not None:
                raise S3Exception("Client error: nothing was published, because a write failed") from self._failure
            try:
                with translated():
                    self.stream.close()
            except BaseException:  # also an interrupt, after which the upload must not go on
                self.stream.abort()
                raise

    @property
    def closed(self) -> bool:
        """Whether the writer was closed or given up."""
        return self._closed

    def flush(self) -> None:
        """Publish nothing: a part of an object cannot be."""
        self._torso = self._exception_passes()

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        """Whether the writer is still open."""
        return not self._closed

    def tell(self) -> int:
        """Bytes written."""
        return self._position

    def _send(self, view: memoryview) -> None:
        try:
            with translated():
                self.stream.write(view)
        except BaseException as error:
            self._failure = self._failure or error
            self.stream.abort()
            raise

    def _abort(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self.stream.abort()

    def __del__(self) -> None:
        unpublished = not getattr(self, "_closed", True) and self._failure is None  # __init__ may not have run
        if not unpublished or self._process != os.getpid() or sys.is_finalizing():
            return
        end = self._give_up if self._torso else self.close
        if trio.lowlevel.in_trio_run():
            threading.Thread(target=end, name="s3dlio-publish").start()
        else:
            end()

    def _exception_passes(self) -> bool:
        return sys.exception() is not None and id(sys.exception()) != self._handled

    def _give_up(self) -> None:
        _log.error("a writer was dropped unclosed, after an exception: nothing is published")
        self._abort()


def _flat(data: Buffer) -> memoryview:
    """The bytes of a buffer, in the order of its indices. Errors: `TypeError` for what is none."""
    try:
        view = memoryview(data)
    except (TypeError, ValueError):  # ValueError: items that have no format, as dates of numpy
        check(bytes, data=data)
        raise
    if not view.nbytes:
        return memoryview(b"")
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
