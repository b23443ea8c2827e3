"""Lightning looks at folders itself, through fsspec. What that needs so that folders of files can be named by a URI.

Of `file:///folder` Lightning makes a path of the machine, as if it were relative: `<working directory>/file:/folder`.
`direct:///folder` is no file system of fsspec's own; for looking at names it is that of the same files.
"""

from __future__ import annotations

import os

from fsspec import register_implementation  # type: ignore[import-untyped]

from ....fsspec import DirectFileSystem


def as_given(path: str) -> str:
    """The URI that a checkpoint's `path` was, before Lightning took it for a relative one."""
    _, made_relative, rest = path.partition("/file:/")
    return f"file:///{rest.lstrip('/')}" if made_relative and os.path.isabs(path) else path


def register() -> None:
    """Tell fsspec, which may not have been told when s3dlio was installed. Doing so again changes nothing."""
    register_implementation("direct", DirectFileSystem, clobber=True)
