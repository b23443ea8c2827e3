"""Objects as rows for Ray Data, read by its workers, many at once.

    ray.data.read_datasource(ObjectDatasource("s3://bucket/train/"))
    ray.data.read_datasource(ObjectDatasource(manifest.load("s3://bucket/train.manifest")))

A row has `uri`, a string, and `bytes`, the whole object. What is in it, such as an image, is decoded by a `map_batches`
behind it, which Ray runs in the same process. Tables need none of this: `ray.data.read_parquet` and its like take the
file systems of :mod:`s3dlio.fsspec`.

A prefix is listed once, where the data source is made, and each task is sent its share of the listing; of a manifest
it is sent the name, and maps it. Reads are held to what these tell: an object that was replaced since is an error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import pairwise
from typing import Any

import pyarrow as pa
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from .blocking.bodies import Bodies, Body
from .blocking.many import IN_FLIGHT
from .blocking.prefetch import Want
from .blocking.store import BlockingStore, locate_prefix
from .config import Config, MiB
from .manifest import Manifest
from .model import ObjectMeta

_BLOCK = 32 * MiB
"""Bytes of objects, or one object, of which a block is made."""

_COLUMNS = pa.schema([("uri", pa.string()), ("bytes", pa.large_binary())])
"""Offsets are of 64 bits, as an object may be larger than 2 GiB."""


class ObjectDatasource(Datasource):  # type: ignore[misc]
    """The `objects`, whose keys begin with that of a URI, or which a manifest tells of, for `ray.data.read_datasource`.

    `config` has the settings, by default this process's environment's; they go to the workers, but credentials do not:
    each worker finds its own. Errors: those of a listing, here; from Ray, because of a `StoreError`, where a worker
    cannot read an object, an `ObjectChangedError` or a `NotFoundError` where it is not there as it was.
    """

    def __init__(self, objects: str | Manifest, *, config: Config | None = None) -> None:
        super().__init__()
        uri = objects if isinstance(objects, str) else objects.header.uri
        self._store, prefix = locate_prefix(uri, config)
        self._objects: Sequence[ObjectMeta] = _listed(self._store, prefix) if isinstance(objects, str) else objects
        self._size = _total(self._objects) if isinstance(objects, str) else objects.header.size

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of all objects."""
        return self._size

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """At most `parallelism` tasks, of objects that follow each other, equally many in each.

        Of a task no more than `per_task_row_limit` rows are wanted; `data_context` has no setting that counts here.
        """
        count, shares = len(self._objects), min(parallelism, len(self._objects))
        bounds = [count * share // shares for share in range(shares + 1)] if shares else []
        spans = [range(start, end) for start, end in pairwise(bounds)]
        return [self._task(span, per_task_row_limit) for span in spans]

    def _task(self, span: range, limit: int | None) -> ReadTask:
        part = len(span) / len(self._objects)
        told = BlockMetadata(num_rows=len(span), size_bytes=int(self._size * part), exec_stats=None, input_files=None)
        whole = isinstance(self._objects, Manifest)
        objects, numbers = (self._objects, span) if whole else (self._objects[span.start : span.stop], range(len(span)))
        return ReadTask(partial(_blocks, self._store, objects, numbers), told, _COLUMNS, limit)


def _listed(store: BlockingStore, prefix: str) -> list[ObjectMeta]:
    return [meta for page in store.list_pages(prefix) for meta in page.objects]


def _total(objects: Sequence[ObjectMeta]) -> int:
    return sum(meta.size for meta in objects)


def _blocks(store: BlockingStore, objects: Sequence[ObjectMeta], numbers: range) -> Iterator[pa.Table]:
    """In a worker: the rows of the objects with these numbers, a block as soon as there is enough for one."""
    uris, contents, size = list[str](), list[bytes](), 0
    for key, content in _read(store, (objects[number] for number in numbers)):
        uris.append(f"{store.root}/{key}")
        contents.append(content)
        size += len(content)
        if size >= _BLOCK:
            yield pa.table([uris, contents], _COLUMNS)
            uris, contents, size = [], [], 0
    if uris:
        yield pa.table([uris, contents], _COLUMNS)


def _read(store: BlockingStore, objects: Iterator[ObjectMeta]) -> Iterator[tuple[str, bytes]]:
    """Keys and contents in order; those that follow are under way meanwhile. Errors: `StoreError`."""
    under_way = deque[Body]()
    with closing(Bodies()) as bodies:
        for meta in objects:
            under_way.append(bodies.begin(Want(store, meta.key, meta, held=True)))
            if len(under_way) == IN_FLIGHT:
                yield _taken(under_way.popleft())
        while under_way:
            yield _taken(under_way.popleft())


def _taken(body: Body) -> tuple[str, bytes]:
    return body.key, body.result()
