"""Commands that change something; with `--dry-run` they print what they would do."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from io import BufferedReader
from typing import Any, cast

from .. import blocking
from ..blocking.transfers import copy_each, plan_sync
from ..errors import BulkError, InvalidUriError
from .codes import NOTHING, OK
from .looking import pour
from .output import emit
from .places import PIPE, Step, is_folder, is_pattern, objects, steps, uri_of


def cp(arguments: Namespace) -> None:
    """Copy objects, folders, or what comes by a pipe."""
    if PIPE in arguments.source:
        _from_pipe(arguments)
    elif arguments.target == PIPE:
        _to_pipe(arguments)
    else:
        _send("copy", steps([*map(uri_of, arguments.source)], uri_of(arguments.target)), arguments)


def mv(arguments: Namespace) -> None:
    """Copy objects and folders, and remove the sources when all are there."""
    if PIPE in (*arguments.source, arguments.target):
        raise InvalidUriError("a pipe cannot be moved: cp copies from it, or to it")
    sources = [uri_of(each, follow=False) for each in arguments.source]
    plan = [*steps(sources, uri_of(arguments.target))]
    _send("move", plan, arguments)
    if not arguments.dry_run:
        blocking.delete_many([step.source for step in plan], progress=not arguments.quiet)


def _send(action: str, plan: Iterable[Step], arguments: Namespace) -> None:
    if arguments.dry_run:
        for step in plan:
            would(_sent(action, step.source, step.target, step.meta.size))
        return

    def settled(source: str, target: str, size: int) -> None:
        if arguments.json:
            emit(_sent(action, source, target, size), "", as_json=True)

    copy_each(plan, settled, progress=not arguments.quiet)


def _sent(action: str, source: str, target: str, size: int) -> dict[str, Any]:
    return {"action": action, "source": source, "target": target, "size": size}


def would(record: dict[str, Any]) -> None:
    """Print a change that is not made."""
    print(json.dumps(record | {"dry_run": True}))


def _from_pipe(arguments: Namespace) -> None:
    target = uri_of(arguments.target)
    if arguments.source != [PIPE] or is_folder(target) or arguments.target == PIPE:
        raise InvalidUriError("what comes by a pipe is one object, and needs a name")
    if arguments.dry_run:
        would({"action": "copy", "source": PIPE, "target": target})
        return
    result = blocking.put(target, cast("BufferedReader", sys.stdin.buffer))
    record = {"action": "copy", "source": PIPE, "target": target, "etag": result.etag}
    if arguments.json:
        emit(record, "", as_json=True)


def _to_pipe(arguments: Namespace) -> None:
    for source in map(uri_of, arguments.source):
        for found in objects(source):
            if arguments.dry_run:
                would(_sent("copy", found.uri, PIPE, found.meta.size))
            else:
                pour(found.uri)


def sync(arguments: Namespace) -> int:
    """Have one folder hold what the other does."""
    source, target = uri_of(arguments.source), uri_of(arguments.target)
    if arguments.dry_run:
        for change in plan_sync(source, target, delete=arguments.delete):
            would(change._asdict())
        return OK
    done = blocking.sync(source, target, delete=arguments.delete, progress=not arguments.quiet)
    names = ("objects", "bytes", "same", "removed", "seconds")
    emit({name: getattr(done, name) for name in names}, str(done), as_json=arguments.json)
    nothing = not (done.objects or done.removed)
    return NOTHING if nothing and arguments.error_on_no_transfer else OK


def rm(arguments: Namespace) -> None:
    """Remove objects; absent ones are no error."""
    uris = [uri_of(each, follow=False) for each in arguments.uri]
    if not arguments.recursive and any(map(is_folder, uris)):
        raise InvalidUriError("to remove all that lies below a folder, say -r")
    if arguments.dry_run:
        for uri in _removed(uris):
            would({"action": "delete", "target": uri})
        return
    _remove([*_removed(uris)], arguments)


def _remove(uris: list[str], arguments: Namespace) -> None:
    done: Iterable[str] = uris
    try:
        blocking.delete_many(uris, progress=not arguments.quiet)
    except BulkError as error:
        done = error.done
        raise
    finally:
        for uri in done if arguments.json else ():
            emit({"action": "delete", "target": uri}, "", as_json=True)


def _removed(uris: Iterable[str]) -> Iterator[str]:
    for uri in uris:
        if is_folder(uri) or is_pattern(uri):
            yield from (found.uri for found in objects(uri))
        else:
            yield uri
