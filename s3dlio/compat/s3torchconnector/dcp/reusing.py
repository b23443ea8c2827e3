"""A save that has the server copy what an earlier checkpoint has as well.

Each rank leaves, beside `.metadata`, the notes `__<rank>.sums`: of each of its files the name, the etag, and what it is
made of (:mod:`s3dlio.reuse`). A later save reads those of the checkpoint that it is told of, and compares. It trusts
them no further than that: files that they name are looked for in that checkpoint's folder alone, and are copied from
only while they have the etag. Whether that checkpoint was completed does not matter: its files are what the notes say.

What is copied comes in parts of 5 MiB or more. So items that are smaller, of which some change with every step, go into
a file of their own, and do not make parts of the large ones.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from math import prod
from typing import TYPE_CHECKING, Any

from torch.distributed.checkpoint.planner import SavePlan, WriteItem

from ....parts import MIN_PART
from ....reuse import PIECE, OldObject, Sums
from ..errors import S3NotFoundError
from ..s3writer import S3Writer
from ..uri import AnyPath, split_path
from .guards import Around

if TYPE_CHECKING:
    from ....blocking.store import BlockingReusingWriter
    from .s3_file_system import S3FileSystem

_log = logging.getLogger(__name__)

SMALL = "small_"
_FILE = re.compile(rf"(?:{SMALL})?[0-9]+\.distcp$")
"""What tells a rank's files from each other, whatever the prefix strategy and the tag of a save are."""

_VERSION = 1


def notes_name(rank: int) -> str:
    """The name of the notes of one rank, relative to the checkpoint's path."""
    return f"__{rank}.sums"


def is_large(item: WriteItem) -> bool:
    """Whether it fills a part."""
    data = item.tensor_data
    return data is not None and prod(data.size) * data.properties.dtype.itemsize >= MIN_PART


def by_size(plan: SavePlan) -> list[SavePlan]:
    """The same items in one plan or two: the small ones have one of their own, whose files are named so."""
    large = [item for item in plan.items if is_large(item)]
    small = [item for item in plan.items if not is_large(item)]
    apart = dataclasses.replace(plan.storage_data, prefix=plan.storage_data.prefix + SMALL)
    plans = [dataclasses.replace(plan, items=large)] if large or not small else []
    return plans + ([dataclasses.replace(plan, items=small, storage_data=apart)] if small else [])


class ItemWriter(S3Writer):
    """A writer whose items end where PyTorch flushes it."""

    stream: BlockingReusingWriter

    def flush(self) -> None:
        """What comes now is another item."""
        with self._lock:
            if not self._closed and self._failure is None:
                self.stream.end_item()
        super().flush()


class Reusing(Around):
    """A file system while the files of a checkpoint, below `folder`, are written: `old` are those to copy from.

    `refused` is why the server would not copy, if a file failed because of that.
    """

    def __init__(self, inner: S3FileSystem, folder: AnyPath, old: Mapping[str, OldObject]) -> None:
        super().__init__(inner)
        self.refused: Exception | None = None
        self._folder = inner.concat_path(folder, "")
        self._old = old
        self._files: dict[str, dict[str, Any]] = {}

    @contextmanager
    def create_stream(self, path: str, mode: str) -> Generator[S3Writer, None, None]:
        """A writer of the file `path`, as the file system itself has it."""
        found = _FILE.search(path)
        assert found is not None, mode
        writer = self._inner.reusing_writer(path, self._old.get(found[0]))
        try:
            with writer:
                yield writer
        except BaseException:
            self.refused = self.refused or writer.stream.refused
            raise
        etag, sums = writer.stream.etag, writer.stream.sums
        if etag is not None:
            name = path.removeprefix(self._folder)
            self._files[found[0]] = {"name": name, "etag": etag, "items": sums.as_json()}

    def leave_notes(self, rank: int) -> None:
        """Write the notes. A failure is logged, not raised: the checkpoint is complete without them."""
        text = json.dumps({"version": _VERSION, "piece": PIECE, "files": self._files})
        try:
            with self._inner.create_stream(self._folder + notes_name(rank), "wb") as stream:
                stream.write(text.encode())
        except Exception:
            _log.exception("no notes are left of %s: the next save cannot copy from it", self._folder)


def noted(fs: S3FileSystem, folder: AnyPath, rank: int) -> dict[str, OldObject]:
    """The files of `rank` in the checkpoint at `folder` that can be copied from; where there are no notes, none.

    Errors: `S3Exception` where they cannot be read.
    """
    path = fs.concat_path(folder, notes_name(rank))
    try:
        with fs.create_stream(path, "rb") as stream:
            return _parsed(fs, folder, json.loads(stream.read()))
    except S3NotFoundError:
        _log.warning("there are no notes at %s: nothing is copied from there", path)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        _log.warning("the notes at %s are none, so nothing is copied from there: %r", path, error)
    return {}


def _parsed(fs: S3FileSystem, folder: AnyPath, notes: Any) -> dict[str, OldObject]:
    """Errors: `ValueError`, `TypeError`, `KeyError`, `AttributeError` for what no save has left."""
    if (notes["version"], notes["piece"]) != (_VERSION, PIECE):
        raise ValueError(f"of version {notes['version']}")
    found = {}
    for file, told in notes["files"].items():
        name, etag = told["name"], told["etag"]
        if not isinstance(etag, str) or not name.endswith(file) or {"", ".", ".."}.intersection(name.split("/")):
            raise ValueError(f"no file of a checkpoint is called {name!r}")
        uri = split_path(fs.concat_path(folder, name))
        found[file] = OldObject(uri.bucket, uri.key, etag, Sums.of_json(told["items"]))
    return found
