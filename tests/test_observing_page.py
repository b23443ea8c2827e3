"""The page `docs/observing.md`: every piece of Python in it runs as printed, and shows what it says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from s3dlio import Config
from s3dlio.blocking import BlockingStore
from s3dlio.observers import Attempt
from s3dlio.urls import parse_uri

from .servers.seaweedfs import SeaweedFS, seaweedfs

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "observing.md"
BUCKET = "training-data"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def training_data() -> Iterator[SeaweedFS]:
    """The bucket that the page names, with something to train on; other pages name one like it, so its own server."""
    with seaweedfs() as server, pytest.MonkeyPatch.context() as patch:
        server.create_bucket(BUCKET)
        for name, value in server.environment().items():
            patch.setenv(name, value)
        store = BlockingStore(parse_uri(f"s3://{BUCKET}", Config()), Config())
        for number in range(40):
            store.put(f"train/{number:03}", f"sample {number}".encode() * 1000)
        patch.undo()
        yield server


@pytest.fixture(scope="module")
def ran(
    training_data: SeaweedFS, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """All snippets, one after the other, as one program; and the folder that it ran in."""
    folder = tmp_path_factory.mktemp("observing")
    (folder / "page.py").write_text("\n\n".join(SNIPPETS))
    command = [sys.executable, "-W", "ignore", "page.py"]
    environment = os.environ | training_data.environment() | {"PYTHONPATH": str(ROOT)}
    return folder, subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )


def test_it_runs_as_printed(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, done = ran
    assert done.returncode == 0, done.stderr
    table, rest = done.stdout.split("connections\n", 1)
    assert table.startswith("endpoint")
    stats, sums, hook = rest.splitlines()
    assert " in " in stats
    assert all(float(spent) > 0 for spent in sums.split())
    assert re.match(r"attempt.complete train/000 20[06] None 0\.", hook)
    assert "DEBUG:s3dlio:GetObject (GET) training-data/train/000 at http://" in done.stderr


def test_there_is_a_trace_of_every_process(ran: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    traces = [json.loads((ran[0] / name).read_text()) for name in ("epoch.json", "worker-0.json", "worker-1.json")]
    read = [{event["args"]["key"] for event in events if event["name"] == "GetObject"} for events in traces]
    assert len(read[0]) == 41
    assert len(read[1] | read[2]) == 41
    assert len({event["pid"] for events in traces for event in events}) == 3


async def test_the_page_lists_what_a_hook_is_told() -> None:
    section = PAGE.read_text().partition("## A hook")[2].partition("## OpenTelemetry")[0]
    names = {
        name for row in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert names == set(Attempt((), "GetObject", "GET", "b", "k", "http://e").info())
