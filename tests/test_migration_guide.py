"""The guide in `docs/migration.md`: every piece of Python in it runs as printed, against a real server."""

from __future__ import annotations

import re
from pathlib import Path

import boto3
import pytest

from .compat.additions import ADDITIONS
from .interpreter import Ended, run_forked
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


@pytest.fixture(scope="module")
def ran(training_data: None, s3_server: SeaweedFS, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """Each section as a program of its own."""
    folder = tmp_path_factory.mktemp("sections")
    return run_forked(snippets(), folder, "lightning.pytorch", "-W", "ignore", variables=s3_server.environment())


@pytest.mark.timeout(300)
@pytest.mark.parametrize("title", snippets())
def test_a_section_runs_as_printed(title: str, ran: dict[str, Ended]) -> None:
    assert ran[title].returncode == 0, ran[title].stderr


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
