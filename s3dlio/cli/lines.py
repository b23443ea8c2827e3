"""`s3dlio run`: the commands of a file, several at once, in one process."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..blocking.portal import Interruption
from ..errors import ConfigError
from .arguments import parser
from .codes import OK, code_of_many
from .places import PIPE

Run = Callable[[Namespace], int]


def run_lines(arguments: Namespace, run: Run) -> int:
    """Do what the lines say, each by `run`; the code is that of all failures, that of an outage, or 1.

    Errors: `ConfigError` for a line that is no command; then none was begun.
    """
    text = sys.stdin.read() if arguments.file == PIPE else Path(arguments.file).read_text("utf-8")
    commands = [*parsed(text)]
    for command in commands:
        command.json, command.quiet = command.json or arguments.json, True
    interruption = Interruption()
    with ThreadPoolExecutor(max(1, arguments.jobs)) as threads:
        try:
            codes = {*threads.map(lambda command: interruption.run(lambda: run(command)), commands)} - {OK}
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            interruption.interrupt()
            raise
    return code_of_many(codes) if codes else OK


def parsed(text: str) -> Iterator[Namespace]:
    """The commands in `text`, one a line; empty lines and what follows a `#` count for nothing.

    Errors: `ConfigError`.
    """
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise ConfigError(f"line {number}: {error}") from None
        if not words:
            continue
        try:
            command = parser(exit_on_error=False).parse_args(words[words[0] == "s3dlio" :])
        except (SystemExit, Exception):
            raise ConfigError(f"line {number} is no command: {line.strip()}") from None
        if command.command == "run":
            raise ConfigError(f"line {number}: a file of commands cannot run another")
        yield command
