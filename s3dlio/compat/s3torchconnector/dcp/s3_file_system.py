"""PyTorch's distributed checkpoints on object stores: the file system, the writer and the reader.

A checkpoint is one `.metadata` object and the files that it names. What can be read is decided by `.metadata` alone, so
the rules are these. It is written last, in one request. Until then a save over an older checkpoint touches nothing of
it: where there is one, the new files get a tag in their names, and the old ones are removed when the new `.metadata` is
there. So a save that dies, whenever that is, leaves what was there before.

A save trusts nothing that lies in the bucket: the old `.metadata` is a pickle, and whoever can write to the bucket may
have put it there. So the old files are not looked up in it, but known by their names: those that the prefix strategy
gives to the files of some rank, in the folders where it puts them.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import FileSystemBase, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from ....reuse import OldObject
from ....urls import Uri
from .._s3client import S3Client, S3ClientConfig
from .._s3client._s3client import ReaderConstructor
from .._user_agent import UserAgent
from ..errors import OBJECT_ABSENT, S3Exception, translated
from ..s3reader import DCPOptimizedConstructor, DCPS3ReaderConstructorProtocol, S3Reader, S3ReaderConstructor
from ..s3writer import S3Writer
from ..uri import AnyPath, split_path
from .guards import OneStep, Watched
from .loading import FileItems, load_items
from .replaced import replaced_files, replaced_notes
from .reusing import ItemWriter, Reusing, by_size, noted
from .s3_prefix_strategy import DefaultPrefixStrategy, S3PrefixStrategyBase

_log = logging.getLogger(__name__)


class S3FileSystem(FileSystemBase):
    """The objects of buckets as PyTorch's checkpoints see files. Each `path` is a URI of any scheme.

    `region` and `endpoint` (a URL) say where the buckets are; where they are `None`, the environment does.
    `s3client_config` is an `S3ClientConfig`: part size, attempts, credentials. With an `s3_client`, that one is used
    and the rest is its own. `reader_constructor` makes the readers, by default sequential ones. `sync_files` says
    whether a write to a file waits until it is on the disk; where it is `None`, :class:`s3dlio.Config` decides.
    Errors: `ValueError` for what is no URI, and `S3Exception`.
    """

    def __init__(
        self,
        region: str | None,
        s3_client: S3Client | None = None,
        s3client_config: S3ClientConfig | None = None,
        reader_constructor: ReaderConstructor | None = None,
        *,
        endpoint: str | None = None,
        sync_files: bool | None = None,
    ) -> None:
        self._path: AnyPath = ""
        self._reader_constructor = reader_constructor or S3ReaderConstructor.default()
        reader_type = S3ReaderConstructor.get_reader_type_string(self._reader_constructor)
        self._client = s3_client or S3Client(
            region,
            endpoint=endpoint,
            user_agent=UserAgent(["dcp", torch.__version__, f"md/reader_type#{reader_type}"]),
            s3client_config=s3client_config,
            durable=None if sync_files is None else "full" if sync_files else "none",
        )

    @contextmanager
    def create_stream(self, path: AnyPath, mode: str) -> Generator[S3Reader | S3Writer, None, None]:
        """A reader of the object `path` (`mode` is `rb`) or a writer (`wb`), for a `with` block.

        What was written becomes an object when the block ends, and never where it raises.
        Errors: `ValueError` for another mode.
        """
        uri, constructor = split_path(path), self._reader_constructor
        stream: S3Reader | S3Writer
        if mode == "wb":
            stream = self._client.put_object(uri.bucket, uri.key, **_scheme(uri))
        elif mode == "rb":
            stream = self._client.get_object(uri.bucket, uri.key, reader_constructor=constructor, **_scheme(uri))
        else:
            raise ValueError(
                f"Invalid {mode=} mode argument: create_stream only supports rb (read mode) & wb (write mode)"
            )
        with stream:
            yield stream

    def reusing_writer(self, path: AnyPath, old: OldObject | None) -> ItemWriter:
        """A writer of the object `path` that has the server copy what `old` has as well."""
        uri = split_path(path)
        with translated():
            return ItemWriter(self._client.store(uri.bucket, uri.scheme).open_reusing_writer(uri.key, old))

    def concat_path(self, path: AnyPath, suffix: str) -> str:
        """`suffix` below `path`."""
        return os.path.join(os.fspath(path), suffix)

    def init_path(self, path: AnyPath) -> AnyPath:
        """The same `path`."""
        self._path = path
        return path

    def rename(self, old_path: AnyPath, new_path: AnyPath) -> None:
        """Copy the object `old_path` on the server, replacing any at `new_path`, then remove the old one.

        Errors: `ValueError` where the two are in different buckets.
        """
        old, new = split_path(old_path), split_path(new_path)
        if old.root != new.root:
            raise ValueError(
                "Source and destination buckets cannot be different (rename does not support cross-buckets operations)"
            )
        self._client.copy_object(old.bucket, quote(old.key), new.bucket, new.key, **_scheme(old))
        self._client.delete_object(old.bucket, old.key, **_scheme(old))

    def mkdir(self, path: AnyPath) -> None:
        """Do nothing: the folder `path` comes with what is in it."""

    def exists(self, path: AnyPath) -> bool:
        """Whether the object `path` is there."""
        uri = split_path(path)
        try:
            self._client.head_object(uri.bucket, uri.key, **_scheme(uri))
        except S3Exception as error:
            if str(error) != OBJECT_ABSENT:
                raise
            return False
        return True

    def rm_file(self, path: AnyPath) -> None:
        """Remove the object `path`. A failure is logged, not raised."""
        uri = split_path(path)
        try:
            self._client.delete_object(uri.bucket, uri.key, **_scheme(uri))
        except S3Exception:
            _log.exception("could not remove %s", uri)

    def names_in(self, path: AnyPath) -> list[str]:
        """The names of the objects right in the folder `path`."""
        uri = split_path(f"{os.fspath(path).rstrip('/')}/")
        pages = self._client.pages(uri, delimiter="/")
        return [meta.key.removeprefix(uri.key) for page in pages for meta in page.objects]

    def file_items(self, path: AnyPath, items: list[ReadItem], where: dict[Any, Any]) -> FileItems:
        """The items to load from one file; `where` tells their ranges."""
        uri = split_path(path)
        return FileItems(self._client.stored_object(uri.bucket, uri.key, scheme=uri.scheme), items, where)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: AnyPath) -> bool:
        """Whether `checkpoint_id` can be a checkpoint's path: a URI, or any `pathlib.Path`."""
        if isinstance(checkpoint_id, Path):
            return True
        try:
            split_path(checkpoint_id)
        except ValueError:
            return False
        return True


@dataclass
class StorageMetadata:
    """What the names of one rank's files begin with: `prefix`."""

    prefix: str


class S3StorageWriter(FileSystemWriter):
    """Writes distributed checkpoints below the URI `path`. A save that fails leaves the checkpoint that was there.

    `prefix_strategy` says where the files of each rank go, by default `__<rank>_<n>.distcp` below `path`.
    `thread_count` files of a rank are written at once. `region` is that of the bucket, or `None`: then it comes from
    the environment. `s3client_config` is an `S3ClientConfig`: part size, attempts, credentials. `kwargs` are `endpoint`
    (a URL, else from the environment), `sync_files`, `previous`, and any keyword of PyTorch's `FileSystemWriter`. A
    write to a bucket is durable when it returns; for files `sync_files=True` waits until they are on the disk, `False`
    does not wait, and without it :class:`s3dlio.Config` decides.

    `previous` is the URI of an earlier checkpoint, or `None` where there is none yet. With it, either way, each rank
    leaves notes of what it writes, and what it finds to be the same in those of the earlier checkpoint is copied by the
    server. A writer that saves several checkpoints takes the last one. Only `s3://` has such copies; elsewhere, and
    where the server refuses them, everything is sent.
    Errors: `S3Exception`; of a save, PyTorch's `CheckpointException`; `ValueError` for a `previous` that is no URI.
    """

    def __init__(
        self,
        region: str | None,
        path: str,
        s3client_config: S3ClientConfig | None = None,
        prefix_strategy: S3PrefixStrategyBase | None = None,
        thread_count: int = 1,
        **kwargs: Any,
    ) -> None:
        ours = {name: kwargs.pop(name, None) for name in ("endpoint", "sync_files")}
        self._reuses = "previous" in kwargs
        self._previous: AnyPath | None = kwargs.pop("previous", None)
        if self._previous is not None:
            split_path(self._previous)
        # sync_files is PyTorch's fsync, which needs a file descriptor; ours is the file system's
        super().__init__(path=path, sync_files=False, thread_count=thread_count, **kwargs)
        self.fs = S3FileSystem(region, s3client_config=s3client_config, **ours)  # type: ignore[assignment]
        self.path = self.fs.init_path(path)
        self.prefix_strategy = prefix_strategy or DefaultPrefixStrategy()
        self._tag = ""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """The `plan` of one rank. Where ranks save without each other, this is where its files get their names."""
        plan = super().prepare_local_plan(plan)
        if plan.storage_data is None:
            return plan
        return dataclasses.replace(plan, storage_data=StorageMetadata(plan.storage_data.prefix + self._new_tag()))

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """The `plans` of all ranks, with what the names of each rank's files begin with."""
        tag = self._new_tag()
        return [
            dataclasses.replace(plan, storage_data=StorageMetadata(self.prefix_strategy(rank) + tag))
            for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the items of this rank's `plan`, which `planner` gives.

        Errors: also those of the threads, which PyTorch prints and forgets.
        """
        if not self._copies:
            return self._write(self.fs, plan, planner)
        old = noted(self.fs, self._previous, self._number) if self._previous is not None else {}  # type: ignore[arg-type]
        reusing = Reusing(self.fs, self.path, old)  # type: ignore[arg-type]
        try:
            results = self._write_by_size(reusing, plan, planner)
        except Exception:
            if reusing.refused is None:
                raise
            _log.warning("not copied from %s, so everything is sent: %s", self._previous, reusing.refused)
            reusing = Reusing(self.fs, self.path, {})  # type: ignore[arg-type]
            results = self._write_by_size(reusing, plan, planner)
        reusing.leave_notes(self._number)
        self._previous = self.path
        written: Future[list[WriteResult]] = Future()
        written.set_result(results)
        return written

    def _write(self, fs: Any, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        with self._through(Watched(fs)) as watched:
            written = super().write_data(plan, planner)
        if watched.failures:
            raise watched.failures[0]
        return written

    def _write_by_size(self, fs: Reusing, plan: SavePlan, planner: SavePlanner) -> list[WriteResult]:
        plans = by_size(plan) if self.single_file_per_rank else [plan]
        return [result for each in plans for result in self._write(fs, each, planner).wait()]

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Publish `metadata`, which makes a checkpoint of the files in `results`; then remove those it replaces."""
        with self._through(OneStep(self.fs)):
            super().finish(metadata, results)
        if self._tag:
            self._remove_old_files(len(results))

    def _new_tag(self) -> str:
        """A part of the files' names that tells them from those of a checkpoint that is there; else nothing."""
        self._tag = f"{uuid4().hex[:8]}_" if self.fs.exists(self._metadata_path) else ""
        return self._tag

    def _remove_old_files(self, ranks: int) -> None:
        prefix_of = (lambda _: f"__{self.rank}_") if self._alone else self.prefix_strategy
        try:
            for name in replaced_files(prefix_of, ranks, self._names_in, self._tag):
                self.fs.rm_file(self.fs.concat_path(self.path, name))
            if not self._alone:
                for name in replaced_notes(self._names_in(""), ranks if self._copies else 0):
                    self.fs.rm_file(self.fs.concat_path(self.path, name))
        except Exception:  # also of a strategy that knows no more ranks: the new checkpoint is complete all the same
            _log.exception("files of the checkpoint that was replaced stay where they are")

    def _names_in(self, folder: str) -> list[str]:
        names: list[str] = self.fs.names_in(self.fs.concat_path(self.path, folder))  # type: ignore[attr-defined]
        return names

    @property
    def _copies(self) -> bool:
        """Whether notes are left, and copies made."""
        return self._reuses and split_path(self.path).scheme == "s3"

    @property
    def _number(self) -> int:
        """This rank. PyTorch says so from 2.9 on."""
        told = getattr(self, "rank", None)
        if told is not None:
            return int(told)
        return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0

    @property
    def _metadata_path(self) -> AnyPath:
        return self.fs.concat_path(self.path, f"__{self.rank}.metadata" if self._alone else ".metadata")

    @property
    def _alone(self) -> bool:
        """Whether ranks save without each other. PyTorch knows of that from 2.9 on."""
        return getattr(self, "rank", None) is not None and not self.use_collectives

    @contextmanager
    def _through(self, guard: Any) -> Generator[Any, None, None]:
        """Let PyTorch's methods use `guard` as the file system."""
        plain, self.fs = self.fs, guard
        try:
            yield guard
        finally:
            self.fs = plain

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: AnyPath) -> bool:
        """Whether `checkpoint_id` can be a checkpoint's path: see :meth:`S3FileSystem.validate_checkpoint_id`."""
        return S3FileSystem.validate_checkpoint_id(checkpoint_id)


class S3StorageReader(FileSystemReader):
    """Reads distributed checkpoints from below the URI `path`: only what is loaded, and that ahead of its use.

    `region` and `endpoint` (a URL) say where the bucket is; where they are `None`, the environment does.
    `s3client_config` is an `S3ClientConfig`: part size, attempts, credentials. `reader_constructor` makes the readers,
    by default `S3ReaderConstructor.dcp_optimized()`. Errors: `S3Exception`; of a load, PyTorch's `CheckpointException`.
    """

    def __init__(
        self,
        region: str | None,
        path: AnyPath,
        s3client_config: S3ClientConfig | None = None,
        reader_constructor: ReaderConstructor | None = None,
        *,
        endpoint: str | None = None,
    ) -> None:
        super().__init__(path)
        self._reader_constructor = reader_constructor or S3ReaderConstructor.dcp_optimized()
        self.fs: S3FileSystem = S3FileSystem(  # type: ignore[assignment]
            region, s3client_config=s3client_config, reader_constructor=self._reader_constructor, endpoint=endpoint
        )
        self.path = self.fs.init_path(path)
        self.sync_files = False

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """The `plan`, its items in the order of their offsets; a constructor that wants to know the ranges is told."""
        plan.items.sort(key=lambda item: self.storage_data[item.storage_index].offset)
        if isinstance(self._reader_constructor, DCPS3ReaderConstructorProtocol):
            self._reader_constructor.set_item_ranges_by_file(plan.items, self.storage_data, self.path)
        return plan

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Load the items of `plan` for `planner`, as :mod:`.loading` tells; with other readers, as PyTorch does."""
        constructor = self._reader_constructor
        # not isinstance: a constructor derived from ours may make other readers
        if type(constructor) is not DCPOptimizedConstructor or not isinstance(self.fs, S3FileSystem):
            return super().read_data(plan, planner)
        by_file: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            by_file.setdefault(self.storage_data[item.storage_index].relative_path, []).append(item)
        files = [
            self.fs.file_items(self.fs.concat_path(self.path, name), items, self.storage_data)
            for name, items in by_file.items()
        ]
        load_items(files, planner, getattr(self, "transforms", None), constructor.max_gap_size)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: AnyPath) -> bool:
        """Whether `checkpoint_id` can be a checkpoint's path: see :meth:`S3FileSystem.validate_checkpoint_id`."""
        return S3FileSystem.validate_checkpoint_id(checkpoint_id)


def _scheme(uri: Uri) -> dict[str, Any]:
    """What to tell the client of another scheme than its own; a client of a program's own knows no argument for it."""
    return {} if uri.scheme == "s3" else {"scheme": uri.scheme}
