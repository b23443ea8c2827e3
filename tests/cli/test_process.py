"""The command as a process: start, pipes, interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from s3dlio.config import MiB

from ..servers.loopback import Handler, listening

COMMAND = [sys.executable, "-m", "s3dlio.cli"]


@pytest.mark.parametrize("argv", [("--version",), ("--help",), ("ls",), ("completion", "nosuch")])
def test_what_needs_no_engine_does_not_wait_for_it(argv: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", *COMMAND[1:], *argv], capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"trio", "numpy", "numba", "ssl", "httptools", "botocore", "torch", "urllib.request"}


@pytest.fixture(params=["", "1"])
def buffering(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers often have this set: standard output takes a part of what it is given then."""
    monkeypatch.setenv("PYTHONUNBUFFERED", request.param)


@pytest.mark.usefixtures("buffering")
def test_bytes_go_through_pipes_unchanged(tmp_path: Path) -> None:
    data = os.urandom(100_000)
    subprocess.run([*COMMAND, "cp", "-", str(tmp_path / "file")], input=data, check=True)
    assert (tmp_path / "file").read_bytes() == data
    done = subprocess.run([*COMMAND, "cat", str(tmp_path / "file")], stdout=subprocess.PIPE, check=True)
    assert done.stdout == data


@pytest.mark.usefixtures("buffering")
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        file.truncate(4 * MiB)
    with subprocess.Popen(
        [*COMMAND, "cat", str(tmp_path / "file")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1) == b"\0"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.usefixtures("buffering")
def test_what_nobody_has_read_is_not_written_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, "ls", str(tmp_path)], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_interrupt_ends_it_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, ended = threading.Event(), threading.Event()

    class Silent(Handler):
        def do_GET(self) -> None:
            asked.set()
            ended.wait()

        do_HEAD = do_GET

    with listening(Silent) as url:
        settings = {"AWS_ENDPOINT_URL": url, "S3DLIO_ANONYMOUS": "1"}
        with subprocess.Popen(
            [*COMMAND, "cat", "s3://bucket/key"], env=os.environ | settings, stderr=subprocess.PIPE
        ) as process:
            asked.wait()
            process.send_signal(signal.SIGINT)
            assert process.wait() == 130
            assert process.stderr is not None
            assert process.stderr.read() == b""
        ended.set()
