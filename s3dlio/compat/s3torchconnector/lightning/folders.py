"""Lightning looks at folders itself, through fsspec. What that needs so that folders of files can be named by a URI.

Of `file:///folder` Lightning makes a path of the machine, as if it were relative: `<working directory>/file:/folder`.
`direct:///folder` is no file system of fsspec's; for looking at names it is that of the same files.
"""

from __future__ import annotations

import os
from typing import Any

import fsspec  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]


def as_given(path: str) -> str:
    """The URI that a checkpoint's `path` was, before Lightning took it for a relative one."""
    _, made_relative, rest = path.partition("/file:/")
    return f"file:///{rest.lstrip('/')}" if made_relative and os.path.isabs(path) else path


class DirectFolders(LocalFileSystem):  # type: ignore[misc]
    """The folders of files that are read and written past the page cache."""

    protocol = "direct"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).removeprefix("direct://"))


def register() -> None:
    """Tell fsspec. Doing so again changes nothing."""
    fsspec.register_implementation("direct", DirectFolders, clobber=True)
