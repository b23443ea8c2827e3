"""The page of the command line: its commands run as printed, one after the other, and show every one there is."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import s3dlio
from s3dlio.cli import main
from s3dlio.cli.arguments import parser

from .servers.seaweedfs import SeaweedFS

PAGE = (Path(__file__).parents[1] / "docs" / "command-line.md").read_text()
PIECES = "".join(re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", PIECES, re.MULTILINE)
SHELL = re.compile(r"[|>]")


def by_shell(line: str, folder: Path) -> str:
    """What a line with pipes prints."""
    shim = folder / "bin" / "s3dlio"
    shim.parent.mkdir(exist_ok=True)
    shim.write_text(f'#!/bin/sh\nPYTHONPATH={Path(__file__).parents[1]} exec {sys.executable} -m s3dlio.cli "$@"\n')
    shim.chmod(0o755)
    environment = os.environ | {"PATH": f"{shim.parent}:{os.environ['PATH']}"}
    return subprocess.run(["bash", "-c", line], env=environment, check=True, capture_output=True, text=True).stdout


def test_the_page_runs_as_printed(
    s3_bucket: SeaweedFS,
    s3_environment: SeaweedFS,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes").mkdir()
    for name in ("monday", "tuesday"):
        Path("notes", f"{name}.md").write_text(f"{name}\n" * 5)
    for line, printed in COMMANDS:
        if SHELL.search(line):
            shown = by_shell(line, tmp_path)
        else:
            assert main(shlex.split(line)[1:]) == 0, line
            shown = capsys.readouterr().out
        assert printed in shown, line
    assert sorted(path.name for path in Path("copies").iterdir()) == ["monday.md", "tuesday.md"]
    assert "complete -o default" in Path("completion.sh").read_text()
    assert not s3dlio.list("s3://bucket/cli/")


def test_the_page_shows_every_command_and_code() -> None:
    shown = {words[words.index("s3dlio") + 1] for words in (line.split() for line, _ in COMMANDS)}
    (commands,) = (action.choices for action in parser()._actions if action.dest == "command")
    assert shown == set(commands or ())
    from s3dlio.cli import codes

    known = {value for value in vars(codes).values() if type(value) is int}
    assert known == {int(code) for code in re.findall(r"^\| (\d) \|", PAGE, re.MULTILINE)}
