"""Commands that change nothing."""

from __future__ import annotations

from argparse import Namespace
from base64 import b64encode
from collections.abc import Iterator
from itertools import islice
from typing import Any

from .. import blocking
from ..blocking.store import locate_prefix
from ..config import MiB
from ..errors import ErrorContext, NotFoundError
from .output import counted, described, emit, entry, folder_entry, table, write
from .places import is_folder, is_pattern, objects, uri_of

_PIECE = 32 * MiB
"""How much of an object is read at once, in parallel ranges."""


def ls(arguments: Namespace) -> None:
    """List what lies in folders, one level or all."""
    for uri in map(uri_of, arguments.uri):
        if arguments.recursive or is_pattern(uri):
            for found in objects(_as_folder(uri)):
                emit(described(found.uri, found.meta), entry(found.meta, found.name), as_json=arguments.json)
        else:
            _list_level(uri, as_json=arguments.json)


def _as_folder(uri: str) -> str:
    return uri if is_pattern(uri) or is_folder(uri) else f"{uri}/"


def _list_level(uri: str, *, as_json: bool) -> None:
    """What is in the folder; of another name, the object, or the folder that is called so. Errors: `NotFoundError`."""
    store, prefix = locate_prefix(uri, None)
    folder, found = prefix[: prefix.rfind("/") + 1], is_folder(uri)
    for page in store.list_pages(prefix, delimiter="/"):
        for name in page.prefixes:
            if found and is_folder(uri):
                emit(
                    {"uri": f"{store.root}/{name}", "folder": True}, folder_entry(name[len(folder) :]), as_json=as_json
                )
            elif name == f"{prefix}/":
                _list_level(f"{uri}/", as_json=as_json)
                found = True
        for meta in page.objects:
            if meta.key == prefix if not is_folder(uri) else meta.key != prefix:
                emit(described(f"{store.root}/{meta.key}", meta), entry(meta, meta.key[len(folder) :]), as_json=as_json)
                found = True
    if not found:
        raise NotFoundError("neither an object nor a folder", ErrorContext("list", store.bucket.bucket, prefix))


def du(arguments: Namespace) -> None:
    """Count objects and bytes."""
    for uri in map(uri_of, arguments.uri):
        count = size = 0
        for found in objects(uri):
            count, size = count + 1, size + found.meta.size
        emit({"uri": uri, "objects": count, "bytes": size}, counted(uri, count, size), as_json=arguments.json)


def stat(arguments: Namespace) -> None:
    """Tell the metadata of objects."""
    for uri in _each(arguments):
        record = described(uri, blocking.stat(uri))
        emit(record, table(record), as_json=arguments.json)


def presign(arguments: Namespace) -> None:
    """Print a URL that is good for a while."""
    url = blocking.presign(arguments.uri, method=arguments.method, seconds=arguments.seconds)
    emit({"uri": arguments.uri, "url": url}, url, as_json=arguments.json)


def cat(arguments: Namespace) -> None:
    """Write objects to standard output, one after the other."""
    for uri in _each(arguments):
        if arguments.json:
            emit(content(uri, blocking.get(uri)), "", as_json=True)
        else:
            pour(uri)


def pour(uri: str) -> None:
    """Write an object to standard output as it comes. Errors: `BrokenPipeError`, `StoreError`."""
    memory = memoryview(bytearray(_PIECE))
    with blocking.open(uri) as reader:
        while size := reader.readinto(memory):
            write(memory[:size])


def head(arguments: Namespace) -> None:
    """Write the beginning of objects."""
    for uri in _each(arguments):
        data = _beginning(uri, arguments)
        if arguments.json:
            emit(content(uri, data), "", as_json=True)
        else:
            write(data)


def _beginning(uri: str, arguments: Namespace) -> bytes:
    if arguments.bytes is not None:
        return blocking.get(uri, 0, arguments.bytes)
    with blocking.open(uri) as reader:
        return b"".join(islice(reader, arguments.lines))


def content(uri: str, data: bytes) -> dict[str, Any]:
    """What an object holds, as JSON can: text, or base64 of what is none."""
    try:
        return {"uri": uri, "text": data.decode()}
    except UnicodeDecodeError:
        return {"uri": uri, "base64": b64encode(data).decode()}


def _each(arguments: Namespace) -> Iterator[str]:
    """The objects that are meant, those of patterns as they are found."""
    for uri in map(uri_of, arguments.uri):
        if is_pattern(uri):
            yield from (found.uri for found in objects(uri))
        else:
            yield uri
