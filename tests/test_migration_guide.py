"""The guide in `docs/migration.md`: every piece of Python in it runs as printed, against a real server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from .compat.additions import ADDITIONS
from .servers.seaweedfs import SeaweedFS

GUIDE = Path(__file__).parents[1] / "docs" / "migration.md"
BUCKET = "training-data"
TITLE = re.compile(r"^## (.+)$", re.MULTILINE)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
OURS = re.compile(r"s3dlio\.compat\.s3torchconnector")


def snippets() -> dict[str, str]:
    """The Python of each section, its blocks one after the other; the two forms of the import are the introduction."""
    pieces = TITLE.split(GUIDE.read_text())
    sections = dict(zip(["Introduction", *pieces[1::2]], pieces[0::2], strict=True))
    return {title: "\n".join(PYTHON.findall(text)) for title, text in sections.items() if PYTHON.search(text)}


@pytest.fixture(scope="module")
def training_data(s3_server: SeaweedFS) -> None:
    """The bucket that the guide names, with something to train on."""
    s3_server.create_bucket(BUCKET)
    client = boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint,
        region_name=s3_server.region,
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
    )
    for number in range(100):
        client.put_object(Bucket=BUCKET, Key=f"train/{number:03}", Body=f"sample {number}".encode())
    client.close()


@pytest.mark.usefixtures("training_data", "s3_environment")
@pytest.mark.parametrize("title", snippets())
def test_a_section_runs_as_printed(title: str, tmp_path: Path) -> None:
    program = tmp_path / "snippet.py"
    program.write_text(snippets()[title])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(program)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_guide_shows_every_part_of_the_interface() -> None:
    titles = {
        "Introduction",
        "Datasets",
        "Checkpoints",
        "Readers",
        "Distributed checkpoints",
        "Lightning",
        "The client",
    }
    assert titles <= set(snippets())
    assert all(OURS.search(text) for text in snippets().values())


def test_the_guide_links_to_what_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", GUIDE.read_text()):
        assert (GUIDE.parent / target).exists()


def test_the_guide_lists_all_additions() -> None:
    section = GUIDE.read_text().partition("## What is there in addition")[2]
    assert dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE)) == ADDITIONS
