"""What is printed: lines for people, or JSON, one object a line. Pure, but for what prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any

from ..endpoint_stats import size_text
from ..errors import BulkError, StoreError
from ..model import ObjectMeta
from .codes import code_of


def emit(record: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print one of them. Errors: `BrokenPipeError`."""
    print(json.dumps(record) if as_json else text)


def write(data: bytes | memoryview) -> None:
    """Write all of `data` to standard output, which with `PYTHONUNBUFFERED` takes less. Errors: `BrokenPipeError`."""
    rest = memoryview(data)
    while rest:
        rest = rest[sys.stdout.buffer.write(rest) :]


def described(uri: str, meta: ObjectMeta) -> dict[str, Any]:
    """All that is known of an object, as JSON has it; times as ISO 8601 tells them."""
    known = {field.name: getattr(meta, field.name) for field in fields(meta) if field.name not in ("key", "metadata")}
    shown = {name: _plain(value) for name, value in known.items() if value is not None}
    return {"uri": uri, **shown, **({"metadata": dict(meta.metadata)} if meta.metadata else {})}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value


def entry(meta: ObjectMeta, name: str) -> str:
    """A line of a listing."""
    when = f"{meta.last_modified:%Y-%m-%d %H:%M:%S}" if meta.last_modified is not None else ""
    return f"{meta.size:>14,}  {when:19}  {printable(name)}"


def folder_entry(name: str) -> str:
    """The line of a folder in a listing."""
    return f"{'':14}  {'folder':19}  {printable(name)}"


def table(record: Mapping[str, Any]) -> str:
    """What is known of something, a line each."""
    width = max(map(len, record))
    return "\n".join(f"{name:{width}}  {printable(str(value))}" for name, value in record.items())


def counted(uri: str, count: int, size: int) -> str:
    """A line that sums up."""
    return f"{size:>18,}  {size_text(size):>8}  {count:>10,} objects  {printable(uri)}"


def printable(text: str) -> str:
    """The same, where no letter of a key can move the cursor, or is no letter."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def complain(command: str, error: Exception, *, as_json: bool) -> None:
    """Tell of an error on standard error; of many, one by one."""
    for uri, failure in _single(error):
        message = printable(str(failure))
        record = {"error": type(failure).__name__, "message": message, "code": code_of(failure)}
        where = f"{printable(uri)}: " if uri else ""
        text = json.dumps(record | ({"uri": uri} if uri else {})) if as_json else f"s3dlio {command}: {where}{message}"
        print(text, file=sys.stderr)


def _single(error: Exception) -> list[tuple[str | None, Exception]]:
    return [*error.failures.items()] if isinstance(error, BulkError) else [(None, error)]


OURS = (StoreError, OSError, ValueError)
"""Errors that are told of without a traceback."""
