"""What can be written after `s3dlio`."""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import NoReturn

from ..version import __version__

_EPILOG = """\
A place is a URI (s3://, az://, gs://, file://, direct://, memory://) or a path. It is a folder
where it ends in /, or is a directory. * ? [a-c] and ** are patterns; quote them for the shell.

exit codes: 0 done, 1 other error, 2 usage or settings, 3 no such bucket or directory,
4 no such object, 5 an outage: try again, 6 refused for what was there already, 7 not allowed,
or not possible, 9 nothing to transfer, 130 interrupted, 141 nobody reads the output"""

Command = Callable[..., ArgumentParser]
"""Makes a command of its name, what it does, and its places; `URI+` is one or more."""


class _Silent(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


SHELLS = ("bash", "zsh", "fish")


def count(text: str) -> int:
    """A number of things. Errors: `ArgumentTypeError` for what is none, or negative."""
    if not text.isdecimal():
        raise ArgumentTypeError(f"a number is wanted, not {text!r}")
    return int(text)


def size(text: str) -> int:
    """A number of bytes, such as `131072`, `128KiB` or `1MB`. Errors: `ArgumentTypeError` for what is none."""
    found = re.fullmatch(r"(\d+)\s*([kmg]i?)?b?", text, re.IGNORECASE)
    if found is None:
        raise ArgumentTypeError(f"a size is wanted, such as 128KiB, not {text!r}")
    unit = (found[2] or "").lower()
    step = 1024 if unit.endswith("i") else 1000
    return int(found[1]) * int(step ** " kmg".index(unit[:1] or " "))


def parser(*, exit_on_error: bool = True) -> ArgumentParser:
    """The parser of all commands. Without `exit_on_error` it says nothing of a mistake."""
    kind = ArgumentParser if exit_on_error else _Silent
    top = kind(
        "s3dlio", description="Objects of any store.", epilog=_EPILOG, formatter_class=RawDescriptionHelpFormatter
    )
    top.add_argument("--version", action="version", version=f"s3dlio {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, *places: str) -> ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--json", action="store_true", help="print JSON, one object a line")
        for place in places:
            made.add_argument(place.rstrip("+").lower(), metavar=place.rstrip("+"), nargs="+" if "+" in place else None)
        return made

    _looking(command)
    _changing(command)
    made = command("presign", "print a URL that lets whoever has it read an object, or write it", "URI")
    made.add_argument("--seconds", type=count, default=3600, help="how long it is good for, default 3600")
    made.add_argument("--method", choices=("GET", "PUT"), default="GET", help="default GET")
    made = command("run", "run the commands of a file, one a line, several at once; - is standard input", "FILE")
    made.add_argument("-j", "--jobs", type=count, default=16, help="how many at once, default 16")
    made = command("bench", "measure how fast objects are written, listed, read and removed below a place", "URI")
    made.add_argument("--count", type=count, default=1000, help="so many objects, default 1000")
    made.add_argument("--size", type=size, default=128 << 10, help="of so many bytes each, default 128KiB")
    made = command("manifest", "write down what begins with a URI, or tell what of a manifest has changed since")
    made.add_argument("action", choices=("create", "check"))
    made.add_argument("uri", metavar="URI", help="what to list; or the manifest to check")
    made.add_argument("-o", "--output", metavar="TARGET", help="where the new manifest goes")
    made = command("doctor", "tell what was found, try one request, and name the mend")
    made.add_argument("uri", metavar="URI", nargs="?", help="what to try a request with")
    made = command("completion", "print a script that completes commands in a shell")
    made.add_argument("shell", choices=SHELLS)
    return top


def _looking(command: Command) -> None:
    made = command("ls", "list a folder, an object, or what a pattern matches", "URI+")
    made.add_argument("-r", "--recursive", action="store_true", help="all that lies below")
    command("cat", "write objects to standard output", "URI+")
    made = command("head", "write the beginning of objects to standard output", "URI+")
    how = made.add_mutually_exclusive_group()
    how.add_argument("-n", "--lines", type=count, default=10, help="so many lines, default 10")
    how.add_argument("-c", "--bytes", type=count, help="so many bytes")
    command("du", "count the objects of folders, and their bytes", "URI+")
    command("stat", "tell the metadata of objects", "URI+")


def _changing(command: Command) -> None:
    for name, text in (("cp", "copy objects and folders"), ("mv", "copy objects and folders, then remove the sources")):
        _sending(command(name, f"{text}; - is standard input or output" if name == "cp" else text, "SOURCE+", "TARGET"))
    made = command("sync", "have a folder hold what another does: send what is missing or differs", "SOURCE", "TARGET")
    made.add_argument("--delete", action="store_true", help="remove from the target what the source has not")
    made.add_argument("--error-on-no-transfer", action="store_true", help="exit with 9 where nothing was to be sent")
    _sending(made)
    made = command("rm", "remove objects, and with -r folders", "URI+")
    made.add_argument("-r", "--recursive", action="store_true", help="all that lies below a folder")
    _sending(made)


def _sending(made: ArgumentParser) -> None:
    made.add_argument("--dry-run", action="store_true", help="change nothing: print as JSON what would be done")
    made.add_argument("-q", "--quiet", action="store_true", help="do not show how far it is")
