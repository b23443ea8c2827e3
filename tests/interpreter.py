"""Programs in an interpreter of their own, or in forks of one that has imported what takes longest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

Ended = subprocess.CompletedProcess[str]
ROOT = Path(__file__).parents[1]


def run_python(code: str, **variables: str) -> Ended:
    """Run `code` with this environment and `variables`; warnings are errors, and the output is kept."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | variables,
    )


def run_forked(
    programs: Mapping[str, str], folder: Path, modules: str, *options: str, variables: Mapping[str, str]
) -> dict[str, Ended]:
    """Run each program in a folder of its own, below `folder`, as a fork of an interpreter that has the `modules`.

    The interpreter gets the `options`, as `-W error`, and this environment with `variables`.
    """
    paths = {name: folder / str(number) / "program.py" for number, name in enumerate(programs)}
    for name, path in paths.items():
        path.parent.mkdir()
        path.write_text(programs[name])
    done = subprocess.run(
        [sys.executable, *options, "-m", "tests.forked_programs", modules, *map(str, paths.values())],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=ROOT,
        env=os.environ | variables,
    )
    assert done.returncode == 0, done.stderr
    codes: list[int] = json.loads(done.stdout)
    return {
        name: Ended([name], code, path.with_suffix(".out").read_text(), path.with_suffix(".err").read_text())
        for (name, path), code in zip(paths.items(), codes, strict=True)
    }
