"""Runs the migration guide's complete example, exactly as printed, and reports what it read: `fork`, `spawn` or both.

The printed text expects a `model` and says nothing of how workers start, so both are set here. It runs in a namespace
that notes every body it reads, for each way in a fork of its own. A report is one line of JSON: `reads`, a list of
(bucket, key, SHA-256 of the body), and `restored`, whether the checkpoint it loaded is the model it saved.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

EXAMPLE = Path(__file__).with_name("guide_example.py.txt")


class Journal(dict[str, Any]):
    """A namespace that notes bucket, key and digest each time `data` is set in it."""

    def __init__(self, **names: Any) -> None:
        super().__init__(names)
        self.reads: list[tuple[str, str, str]] = []

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        if name == "data":
            self.reads.append((self["bucket"], self["key"], hashlib.sha256(value).hexdigest()))


def run(start_method: str) -> None:
    """Run the example with workers started by `start_method`, then print the report."""
    torch.multiprocessing.set_start_method(start_method)
    model = torch.nn.Linear(16, 4)
    journal = Journal(model=model)
    exec(compile(EXAMPLE.read_text(), str(EXAMPLE), "exec"), {}, journal)
    saved, loaded = model.state_dict(), journal["state_dict"]
    restored = saved.keys() == loaded.keys() and all(torch.equal(saved[name], loaded[name]) for name in saved)
    print(json.dumps({"reads": journal.reads, "restored": restored}))


def main(start_methods: list[str]) -> None:
    """In the parent all of them; in each child its own, to its end as that of a program."""
    for start_method in start_methods:
        if not (child := os.fork()):
            run(start_method)
            return
        if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
