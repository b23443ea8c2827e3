"""`s3dlio manifest`: what a prefix holds, written down, and what has become of it."""

from __future__ import annotations

from argparse import Namespace

from ..errors import ConfigError
from ..manifest import check, create
from .codes import OK, REFUSED
from .output import counted, emit, printable
from .places import uri_of


def manifest(arguments: Namespace) -> int:
    """Make one, or check one: then the code is that of what was replaced, where anything has changed."""
    if (arguments.action == "create") != (arguments.output is not None):
        raise ConfigError("a new manifest needs a place, by -o; one that is checked has it")
    return _create(arguments) if arguments.action == "create" else _check(arguments)


def _create(arguments: Namespace) -> int:
    made = create(uri_of(arguments.uri), uri_of(arguments.output))
    record = {"uri": made.uri, "manifest": arguments.output, "objects": made.count, "bytes": made.size}
    emit(record | {"made": made.made}, counted(made.uri, made.count, made.size), as_json=arguments.json)
    return OK


def _check(arguments: Namespace) -> int:
    code = OK
    for change in check(uri_of(arguments.uri)):
        emit(change._asdict(), f"{change.action:8}  {printable(change.uri)}", as_json=arguments.json)
        code = REFUSED
    return code
