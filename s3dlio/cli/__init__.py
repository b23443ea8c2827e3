"""The command `s3dlio`: objects of any store from a shell, see `docs/command-line.md`.

It is argparse's, which takes 20 ms to import where click takes 90 and typer more. What a command needs is imported when
it is known which one it is, so that help, versions and mistakes do not wait for the engine.
"""

from __future__ import annotations

import os
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence

from .arguments import parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `argv`, by default the process's, and return its exit code. Errors: `SystemExit` of usage."""
    arguments = parser().parse_args(argv)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as `head` does
        _close_output()
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return code


def _run(arguments: Namespace) -> int:
    from .running import run

    return run(arguments)


def _close_output() -> None:
    """What is still in the buffer is not written when the process ends, which would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
