"""Commands from a file, and how fast a place is."""

from __future__ import annotations

import io
import os
import signal
from argparse import ArgumentTypeError
from pathlib import Path

import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import s3dlio
from s3dlio.blocking.portal import portal
from s3dlio.cli.arguments import size
from s3dlio.cli.lines import parsed
from s3dlio.errors import ConfigError

from ..servers.clouds import WritableS3, on_portal, serving
from ..servers.faults import NOTHING, Fault
from .conftest import Run


def test_the_commands_of_a_file(run: Run, root: str, tmp_path: Path) -> None:
    file = tmp_path / "commands"
    names = [f"{number:02}" for number in range(40)]
    for name in names:
        (tmp_path / name).write_text(name)
    file.write_text("".join(f"cp {tmp_path}/{name} {root}{name}\n\n# nothing\n" for name in names))
    assert run("run", str(file)) == (0, "", "")
    assert [content for _, content in s3dlio.get_many(s3dlio.list(root).uris)] == [name.encode() for name in names]
    file.write_text(f"s3dlio stat --json {root}00\nrm '{root}01' # a note\n")
    done = run("run", "--json", "-j", "1", str(file))
    assert done.code == 0
    assert [record.get("action", record.get("size")) for record in done.records] == [2, "delete"]
    assert not s3dlio.exists(f"{root}01")


def test_standard_input(run: Run, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3dlio.put(f"{root}a", b"content")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"cp {root}a {root}b\n"))
    assert run("run", "-").code == 0
    assert s3dlio.get(f"{root}b") == b"content"


def test_failures_are_told_and_the_others_are_done(run: Run, root: str, tmp_path: Path) -> None:
    s3dlio.put(f"{root}a", b"content")
    file = tmp_path / "commands"
    file.write_text(f"cp {root}absent {root}b\ncp {root}a {root}c\n")
    done = run("run", str(file))
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert s3dlio.get(f"{root}c") == b"content"
    file.write_text(f"cp {root}absent {root}b\ncp nowhere://a/b {root}c\n")
    assert run("run", str(file)).code == 1


@pytest.mark.parametrize("line", ["copy a b", "cp a", "cp 'a b", "run other", "ls --nothing a", "--version", "-h"])
def test_a_line_that_is_no_command(line: str, run: Run, root: str, tmp_path: Path) -> None:
    file = tmp_path / "commands"
    file.write_text(f"rm {root}a\n{line}\n")
    s3dlio.put(f"{root}a", b"content")
    done = run("run", str(file))
    assert (done.code, "line 2" in done.err) == (2, True)
    assert s3dlio.exists(f"{root}a"), "something was done before"


@given(st.text())
def test_any_text_is_commands_or_an_error_that_names_the_line(text: str) -> None:
    found, told = 0, ""
    try:
        found = len([*parsed(text)])
    except ConfigError as error:
        told = str(error)
    assert told.startswith("line ") if told else found <= len(text.splitlines())


def test_an_interrupt_ends_all_of_them(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "commands"
    file.write_text("".join(f"stat s3://bucket/{number}\n" for number in range(20)))
    with on_portal(serving(WritableS3)) as server:
        server.always = Fault(stall=NOTHING)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        monkeypatch.setenv("S3DLIO_ANONYMOUS", "1")

        async def interrupt() -> None:
            while len(server.requests) < 4:
                await trio.testing.wait_all_tasks_blocked(0.001)
            os.kill(os.getpid(), signal.SIGINT)

        portal().start_task_soon(interrupt)
        assert run("run", "-j", "4", str(file)).code == 130
        assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("text", "wanted"), [("7", 7), ("1k", 1000), ("1KiB", 1024), ("2 MB", 2_000_000), ("1GiB", 1 << 30), ("3b", 3)]
)
def test_sizes(text: str, wanted: int) -> None:
    assert size(text) == wanted


@pytest.mark.parametrize("text", ["", "k", "-1", "1.5k", "1x", "1 TiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        size(text)


def test_how_fast_a_place_is(run: Run, root: str) -> None:
    done = run("bench", "--count", "20", "--size", "1KiB", "--json", root)
    assert done.code == 0
    assert [(each["what"], each["objects"], each["bytes"]) for each in done.records] == [
        ("write", 20, 20480),
        ("list", 20, 0),
        ("read", 20, 20480),
        ("again", 20, 20480),
        ("remove", 20, 0),
    ]
    assert all(each["seconds"] > 0 for each in done.records)
    assert not s3dlio.list(root)
    assert "objects/s" in run("bench", "--count", "2", "--size", "1KiB", root).out
