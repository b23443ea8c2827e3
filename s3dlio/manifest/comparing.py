"""What has changed since a manifest was made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from ..blocking.store import BlockingStore
from ..blocking.transfers import Path
from ..config import Config
from ..errors import UnsupportedError
from ..model import ObjectMeta
from .mapped import load


class Change(NamedTuple):
    """One thing that is otherwise: `action` is `added`, `removed` or `changed`, `uri` that of the object."""

    action: str
    uri: str


def check(place: Path, *, config: Config | None = None) -> Iterator[Change]:
    """List the prefix of the manifest at `place` again, and tell what was added, removed or changed since.

    An object has changed where its size or its etag is another. The listing is gone through page by page. `place` and
    `config` are as in :func:`load`. Errors: as there; `StoreError` of a page where it is come to; `UnsupportedError`
    for a store that lists in no order.
    """
    manifest = load(place, config=config)
    header = manifest.header
    store = BlockingStore(replace(header.place, key=""), config or Config())
    found = chain.from_iterable(page.objects for page in store.list_pages(header.prefix))
    return (Change(action, f"{store.root}/{key}") for action, key in changes(manifest, found))


def changes(known: Iterable[ObjectMeta], found: Iterable[ObjectMeta]) -> Iterator[tuple[str, str]]:
    """What has become of the objects that were `known`, by their keys, where now others are `found`: pure.

    Errors: `UnsupportedError` where either is not in the order of keys.
    """
    olds, news = _in_order(known), _in_order(found)
    old, new = next(olds, None), next(news, None)
    while old is not None or new is not None:
        if new is None or (old is not None and old.key < new.key):
            assert old is not None
            yield "removed", old.key
            old = next(olds, None)
        elif old is None or new.key < old.key:
            yield "added", new.key
            new = next(news, None)
        else:
            if _differ(old, new):
                yield "changed", old.key
            old, new = next(olds, None), next(news, None)


def _in_order(objects: Iterable[ObjectMeta]) -> Iterator[ObjectMeta]:
    last = ""
    for meta in objects:
        if meta.key < last:
            raise UnsupportedError("the store lists in no order: what has changed cannot be told")
        last = meta.key
        yield meta


def _differ(old: ObjectMeta, new: ObjectMeta) -> bool:
    return old.size != new.size or (None not in (old.etag, new.etag) and old.etag != new.etag)
