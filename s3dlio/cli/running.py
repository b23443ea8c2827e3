"""From a parsed command to its exit code."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from . import looking, sending
from .codes import OK, code_of
from .completion import script
from .output import OURS, complain, emit

Command = Callable[[Namespace], int | None]


def _complete(arguments: Namespace) -> None:
    text = script(arguments.shell)
    emit({"shell": arguments.shell, "script": text}, text, as_json=arguments.json)


def _doctor(arguments: Namespace) -> int:
    from .doctor import doctor

    return doctor(arguments)


def _run_lines(arguments: Namespace) -> int:
    from .lines import run_lines

    return run_lines(arguments, run)


def _bench(arguments: Namespace) -> None:
    from .speed import bench

    bench(arguments)


def _manifest(arguments: Namespace) -> int:
    from .manifests import manifest

    return manifest(arguments)


_COMMANDS: dict[str, Command] = {
    "ls": looking.ls,
    "cat": looking.cat,
    "head": looking.head,
    "du": looking.du,
    "stat": looking.stat,
    "presign": looking.presign,
    "cp": sending.cp,
    "mv": sending.mv,
    "sync": sending.sync,
    "rm": sending.rm,
    "run": _run_lines,
    "bench": _bench,
    "manifest": _manifest,
    "doctor": _doctor,
    "completion": _complete,
}


def run(arguments: Namespace) -> int:
    """Do what is asked, and return the exit code. Errors: `BrokenPipeError`, `KeyboardInterrupt`."""
    try:
        return _COMMANDS[arguments.command](arguments) or OK
    except BrokenPipeError:
        raise
    except OURS as error:
        complain(arguments.command, error, as_json=arguments.json)
        return code_of(error)
