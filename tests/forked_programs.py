"""Runs programs one after the other: `python -m tests.forked_programs MODULES PROGRAM...`.

Each is a fork of one interpreter, which has imported what takes longest: `MODULES`, with commas between them. It runs
in its own folder, and what it writes goes into the files beside it that end in `.out` and `.err`. Printed is a list of
their exit codes. :func:`.interpreter.run_forked` is how tests call it.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from pathlib import Path


def main(modules: list[str], programs: list[Path]) -> None:
    """In the parent all of them; in each child its own, to its end as that of a program."""
    for module in modules:
        importlib.import_module(module)
    codes = []
    for program in programs:
        child = os.fork()
        if child == 0:
            for descriptor, suffix in ((1, ".out"), (2, ".err")):
                os.dup2(os.open(program.with_suffix(suffix), os.O_WRONLY | os.O_CREAT), descriptor)
            os.chdir(program.parent)
            sys.argv = [str(program)]
            runpy.run_path(str(program), run_name="__main__")
            return
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(codes)


if __name__ == "__main__":
    main(sys.argv[1].split(","), [Path(each) for each in sys.argv[2:]])
