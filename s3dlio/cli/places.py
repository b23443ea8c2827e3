"""Arguments as URIs, and what they stand for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from .. import blocking
from ..blocking.store import locate_prefix
from ..errors import ErrorContext, InvalidUriError, NotFoundError
from ..model import ObjectMeta
from ..trees import fixed_prefix, is_folder_marker
from ..urls import parse_uri

PIPE = "-"
_FILES = re.compile(r"(file|direct)://(/.*)", re.DOTALL)
_SAME = {"direct": "file", "abfss": "az"}


class Found(NamedTuple):
    """An object that an argument stands for; `name` is its key without that of the folder where it was looked for."""

    uri: str
    name: str
    meta: ObjectMeta


def uri_of(text: str, *, follow: bool = True) -> str:
    """The URI of a place, with a slash at its end where it is a directory, or a bucket.

    Links on the way to a file are resolved, and with `follow` the file itself: who removes a link means the link.
    """
    files = _FILES.fullmatch(text)
    if "://" in text and files is None:
        return text if "/" in text.partition("://")[2] else f"{text}/"
    scheme, path = files.groups() if files else ("file", text)
    folder, name = os.path.split(path)
    is_folder = not name or name in (".", "..") or os.path.isdir(path)
    whole = os.path.realpath(path) if follow or is_folder else os.path.join(os.path.realpath(folder), name)
    return f"{scheme}://{whole.rstrip('/')}/" if is_folder else f"{scheme}://{whole}"


def is_pattern(uri: str) -> bool:
    """Whether it stands for what matches it."""
    return fixed_prefix(uri) != uri


def is_folder(uri: str) -> bool:
    """Whether it stands for all that lies below."""
    return uri.endswith("/")


def folder_of(uri: str) -> str:
    """Where what it stands for is looked for."""
    fixed = fixed_prefix(uri)
    return fixed[: fixed.rfind("/") + 1]


def objects(uri: str) -> Iterator[Found]:
    """What `uri` stands for: an object, what lies below a folder, what matches a pattern.

    Errors: `NotFoundError` for an object that is not there, and where nothing matches; `StoreError`.
    """
    if not is_pattern(uri) and not is_folder(uri):
        yield Found(uri, uri.rpartition("/")[2], blocking.stat(uri))
        return
    store, prefix = locate_prefix(folder_of(uri), None)
    found = False
    for meta in blocking.glob(uri) if is_pattern(uri) else blocking.list(uri):
        found = True
        yield Found(f"{store.root}/{meta.key}", meta.key.removeprefix(prefix), meta)
    if is_pattern(uri) and not found:
        raise NotFoundError("nothing matches the pattern", ErrorContext(bucket=store.bucket.bucket, key=uri))


class Step(NamedTuple):
    """An object to send."""

    source: str
    target: str
    meta: ObjectMeta


def target_of(sources: list[str], target: str) -> str:
    """The `target` as a folder, where that is meant. Errors: `InvalidUriError` where several objects have one name."""
    if is_folder(target):
        return target
    if len(sources) == 1 and is_folder(sources[0]):
        return f"{target}/"
    if len(sources) > 1 or is_pattern(sources[0]):
        raise InvalidUriError("several objects go into a folder: end the target in /")
    return target


def steps(sources: list[str], target: str) -> Iterator[Step]:
    """What has to be sent to have all `sources` at `target`, found as it is gone through.

    Errors: `InvalidUriError` where an object would be sent to where it is, or a folder into itself; those of
    :func:`objects`.
    """
    target = target_of(sources, target)
    to_files = target.startswith(("file://", "direct://"))
    for source in sources:
        if is_folder(source) or "**" in source:  # else nothing that is sent is found on the way
            _check_apart(folder_of(source), target)
        for found in objects(source):
            there = f"{target}{found.name}" if is_folder(target) else target
            if place(found.uri) == place(there):
                raise InvalidUriError("an object cannot be sent to where it is")
            if found.name and not (to_files and is_folder_marker(found.meta)):
                yield Step(found.uri, there, found.meta)


def place(uri: str) -> tuple[str, str]:
    """What two names of the same place have in common."""
    parsed = parse_uri(uri)
    return _SAME.get(parsed.scheme, parsed.scheme), f"{parsed.bucket}/{parsed.key}"


def _check_apart(source: str, target: str) -> None:
    (kind, one), (other_kind, other) = place(source), place(target)
    if kind == other_kind and (one.startswith(other) or other.startswith(one)):
        raise InvalidUriError("one of the two folders lies in the other")
