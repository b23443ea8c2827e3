"""Objects and trees from one place to another, by URIs or paths."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from ..config import Config
from ..errors import InvalidUriError
from ..mirror import Change, Outcome, Transferred, Tree, changes, send_object, send_tree
from ..model import ObjectMeta
from ..urls import Uri, parse_uri
from .many import IN_FLIGHT, Task, Window, check
from .portal import BlockingPortal, portal
from .progress import Display, Tally
from .store import BlockingStore

Path = str | os.PathLike[str]


def copy(
    source: str,
    target: str,
    *,
    config: Config | None = None,
    target_config: Config | None = None,
    max_in_flight: int = IN_FLIGHT,
    progress: bool = True,
) -> Transferred:
    """Copy the object at `source` to `target`, or below it where that ends in `/`; of a folder, all that lies below.

    A folder's URI ends in `/`. Within one service the server copies; else the objects come through this process, a
    large one part by part. Content type and metadata come along. At most `max_in_flight` objects are under way at once.
    `config` has the settings, by default the environment's, `target_config` those of the target where they are others;
    `progress=False` shows no bar. Errors: `NotFoundError`, `StoreError`; of a folder `BulkError`, when all were tried.
    """
    here, there = _Place(source, config), _Place(target, target_config or config)
    if source.endswith("/"):
        return _send_tree("copy", here, there.as_folder(), max_in_flight=max_in_flight, progress=progress)
    return _send_object("copy", here, there.holding(here), progress=progress)


def move(
    source: str,
    target: str,
    *,
    config: Config | None = None,
    target_config: Config | None = None,
    progress: bool = True,
) -> Transferred:
    """Copy the object at `source` to `target`, or below it where that ends in `/`, and remove it when that is done.

    `config`, `target_config` and `progress` are as in :func:`copy`. Errors: as there, and those of the removal; then
    the object is in both places.
    """
    here = _Place(source, config)
    there = _Place(target, target_config or config).holding(here)
    if str(here.uri) == str(there.uri) and here.config == there.config:
        raise InvalidUriError("an object cannot be moved to where it is")
    done = _send_object("move", here, there, progress=progress)
    here.store.delete(here.uri.key)
    return done


def upload(
    path: Path, uri: str, *, config: Config | None = None, max_in_flight: int = IN_FLIGHT, progress: bool = True
) -> Transferred:
    """Send the file at `path` to `uri`, or below it where that ends in `/`; of a directory, all files below it.

    At most `max_in_flight` objects are under way at once. `config` has the settings, by default the environment's;
    `progress=False` shows no bar. Errors: `NotFoundError`, `StoreError`; of a directory `BulkError`, when all were
    tried.
    """
    here, there = _Place(_file_uri(path), config), _Place(uri, config)
    if os.path.isdir(path):
        return _send_tree("upload", here.as_folder(), there.as_folder(), max_in_flight=max_in_flight, progress=progress)
    return _send_object("upload", here, there.holding(here), progress=progress)


def download(
    uri: str, path: Path, *, config: Config | None = None, max_in_flight: int = IN_FLIGHT, progress: bool = True
) -> Transferred:
    """Fetch the object at `uri` into the file `path`, or into that directory if there is one; of a folder, all below.

    A folder's URI ends in `/`. Files appear whole; directories are made. `max_in_flight` objects, `config`, `progress`
    and errors are as in :func:`upload`.
    """
    here, there = _Place(uri, config), _Place(_file_uri(path), config)
    if uri.endswith("/"):
        return _send_tree("download", here, there.as_folder(), max_in_flight=max_in_flight, progress=progress)
    there = there.as_folder() if os.path.isdir(path) or str(path).endswith("/") else there
    return _send_object("download", here, there.holding(here), progress=progress)


def sync(
    source: Path,
    target: Path,
    *,
    delete: bool = False,
    config: Config | None = None,
    target_config: Config | None = None,
    max_in_flight: int = IN_FLIGHT,
    progress: bool = True,
) -> Transferred:
    """Have the folder `target` hold what `source` does: what is missing there or differs is sent.

    Either is a folder's URI, with or without a `/` at its end, or a directory as a `pathlib.Path`, so any two stores
    can be synchronised. An object is the same where size and etag are, or the size is and the target is not older. So a
    run that was ended goes on where it stopped. With `delete`, what the source has not is removed from the target, when
    all else succeeded. At most `max_in_flight` objects are under way at once; memory is bounded by `memory_limit`, not
    by the trees. `config` has the settings, by default the environment's, `target_config` those of the target where
    they are others; `progress=False` shows no bar. Errors: `BulkError`, when all were tried; `UnsupportedError` for a
    store that lists in no order, such as S3's directory buckets; `StoreError` of a listing.
    """
    here, there = (
        _Place(uri_of(each), each_config).as_folder()
        for each, each_config in ((source, config), (target, target_config or config))
    )
    return _send_tree(
        "sync", here, there, differing=True, remove=delete, max_in_flight=max_in_flight, progress=progress
    )


def plan_sync(source: str, target: str, *, delete: bool = False, config: Config | None = None) -> list[Change]:
    """What :func:`sync` of these would do now. `delete`, `config` and errors are as there; nothing is changed."""
    here, there = (_Place(each, config).as_folder() for each in (source, target))
    _check_apart(here, there)
    loop = portal()

    async def work() -> list[Change]:
        async with aclosing(changes(here.tree(loop), there.tree(loop), remove=delete)) as found:
            return [change async for change in found]

    return loop.call(work)


def copy_each(
    copies: Iterable[tuple[str, str, ObjectMeta]],
    settled: Callable[[str, str, int], None],
    *,
    config: Config | None = None,
    progress: bool = True,
) -> None:
    """Copy many objects: from a URI, to a URI, and what a listing told of the source. Drawn as they are sent.

    `settled` is told of source, target and bytes of each that is done. `config` and `progress` are as in :func:`copy`.
    Errors: `BulkError`, when all were tried.
    """
    tally = Tally()
    with Display("copy", tally, wanted=progress) as display:
        window = Window[tuple[str, str, int]](display, IN_FLIGHT, lambda _task, sent: settled(*sent))
        window.run(_copying(*each, config, tally) for each in copies)
    check("copy", window.failures, None, outage=window.outage)


def _copying(
    source: str, target: str, meta: ObjectMeta, config: Config | None, tally: Tally
) -> Task[tuple[str, str, int]]:
    here, there, loop = _Place(source, config), _Place(target, config), portal()
    tally.expect(meta.size)
    meta = replace(meta, key=here.uri.key)  # a file's own directory is its bucket, the listing's may lie above

    async def work() -> tuple[str, str, int]:
        await send_object(here.tree(loop), there.tree(loop), tally.add, meta)
        return source, target, meta.size

    begin = partial(loop.start_task_soon, work)
    return Task((source,), here.store, begin, min(meta.size, here.config.memory_limit))


def uri_of(place: Path) -> str:
    """The URI of a place, which is one, or a path."""
    return place if isinstance(place, str) else _file_uri(place)


def _file_uri(path: Path) -> str:
    return f"file://{os.path.realpath(path)}"


class _Place:
    """Where objects come from or go to."""

    def __init__(self, uri: str | Uri, config: Config | None) -> None:
        self.config = config or Config()
        self.uri = uri if isinstance(uri, Uri) else parse_uri(uri, self.config)

    @property
    def store(self) -> BlockingStore:
        return BlockingStore(replace(self.uri, key=""), self.config)

    def as_folder(self) -> _Place:
        """The same as a folder, which for files is a bucket."""
        scheme, bucket, key = self.uri.scheme, self.uri.bucket, self.uri.key
        if not key or key.endswith("/"):
            return self
        is_file = scheme in ("file", "direct")
        folder = Uri(scheme, f"{bucket.rstrip('/')}/{key}", "") if is_file else Uri(scheme, bucket, f"{key}/")
        return _Place(folder, self.config)

    def holding(self, other: _Place) -> _Place:
        """Where the object `other` goes: here, or into this folder under its name."""
        key = self.uri.key
        if not key or key.endswith("/"):
            key += other.uri.key.rpartition("/")[2]
        return _Place(replace(self.uri, key=key), self.config)

    def tree(self, here: BlockingPortal) -> Tree:
        return Tree(self.store.opened(here), self.uri, self.config)


def _send_object(verb: str, source: _Place, target: _Place, *, progress: bool) -> Transferred:
    if not source.uri.key:
        raise InvalidUriError("the URI names a bucket, but no key in it")
    return _run(verb, source, target, lambda a, b, tally: send_object(a, b, tally.add), progress=progress)


def _send_tree(
    verb: str,
    source: _Place,
    target: _Place,
    *,
    differing: bool = False,
    remove: bool = False,
    max_in_flight: int,
    progress: bool,
) -> Transferred:
    _check_apart(source, target)
    send = partial(send_tree, differing=differing, remove=remove, max_in_flight=max_in_flight)
    return _run(verb, source, target, lambda a, b, tally: send(a, b, tally.add, tally.expect), progress=progress)


def _check_apart(source: _Place, target: _Place) -> None:
    one, other = str(source.uri), str(target.uri)
    if one != other and (one.startswith(other) or other.startswith(one)) and source.config == target.config:
        raise InvalidUriError("one of the two folders lies in the other")


def _run(
    verb: str,
    source: _Place,
    target: _Place,
    send: Callable[[Tree, Tree, Tally], Awaitable[Outcome]],
    *,
    progress: bool,
) -> Transferred:
    here, tally, begun = portal(), Tally(), time.monotonic()

    async def work() -> Outcome:
        return await send(source.tree(here), target.tree(here), tally)

    with Display(verb, tally, wanted=progress) as display:
        outcome = display.run(here, work)
    seconds = time.monotonic() - begun
    done = Transferred(tally.objects, tally.done, outcome.same, outcome.removed, seconds)
    check(verb, outcome.failures, done, outage=outcome.outage)
    return done
