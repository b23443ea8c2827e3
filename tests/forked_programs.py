"""Runs programs one after the other: `python -m tests.forked_programs PROGRAM...`.

Each is a fork of one interpreter, which has imported what takes longest. It runs in its own folder, and what it writes
to standard error goes into the file beside it that ends in `.err`. Printed is a list of their exit codes.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import lightning.pytorch
import torch

__all__ = ["lightning", "torch"]


def main(programs: list[Path]) -> None:
    """In the parent all of them; in each child its own, to its end as that of a program."""
    codes = []
    for program in programs:
        child = os.fork()
        if child == 0:
            errors = os.open(program.with_suffix(".err"), os.O_WRONLY | os.O_CREAT)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(errors, 2)
            os.chdir(program.parent)
            runpy.run_path(str(program), run_name="__main__")
            return
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(codes)


if __name__ == "__main__":
    main([Path(each) for each in sys.argv[1:]])
