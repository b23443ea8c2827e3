"""The pages on how to do one thing: their Python runs as printed, and every link of every page leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import ChainMap
from contextlib import ExitStack
from pathlib import Path

import pytest

from .interpreter import run_forked
from .places import place_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
BY_SCHEME = {
    "index": "memory",
    "install": "memory",
    "arrays": "memory",
    "minio-ceph": "s3",
    "endpoints": "s3",
    "cache": "s3",
    "weights": "s3",
    "azure": "az",
    "google": "gs",
    "resume": "s3",
    "manifests": "s3",
}
OF_TORCHDATA = "ignore:'set_vital' is deprecated"
"""A warning that torchdata's loader causes, and its users cannot avoid."""
FOLDERS = "import fsspec\nprint(fsspec.filesystem('direct'))"
CODE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def pieces(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def run(*command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command], env=os.environ | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.timeout(300)
def test_their_python_runs_as_printed(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Each page a program of its own; that of checkpoints with what the two about Lightning say."""
    programs = {page: "\n".join(pieces(f"{page}.md")) for page in BY_SCHEME}
    _, programs["saves in the background"], *about_lightning = pieces("checkpoints.md")
    programs["checkpoints"] = "\n".join([*about_lightning, FOLDERS])
    with ExitStack() as stack:
        places = [stack.enter_context(place_of(scheme, request)) for scheme in sorted({*BY_SCHEME.values()})]
        variables = {"AWS_REGION": "us-east-1", **ChainMap(*(dict(place.environment) for place in places))}
        ended = run_forked(programs, tmp_path, "lightning.pytorch", "-W", OF_TORCHDATA, variables=variables)
    lightning, background = ended.pop("checkpoints"), ended.pop("saves in the background")
    assert (lightning.returncode, "s3dlio.fsspec" in lightning.stdout) == (0, True), lightning.stderr
    assert background.returncode == 0, background.stderr  # PyTorch warns there that there is but one process
    assert {page: (done.returncode, done.stderr) for page, done in ended.items()} == dict.fromkeys(ended, (0, ""))


def test_a_program_for_torchrun(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    program = tmp_path / "save.py"
    program.write_text(pieces("checkpoints.md")[0])
    with place_of("s3", request) as place:
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
        environment = {**place.environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = run(*command, "s3://bucket/checkpoints/step-1/", environment=environment)
    assert (done.returncode, done.stdout) == (0, "step 1\n"), done.stderr


def test_the_log_speaks_at_debug() -> None:
    (piece,) = pieces("troubleshooting.md")
    program = f"{piece}\nimport s3dlio\ntry:\n    s3dlio.get('s3://bucket/key')\nexcept s3dlio.StoreError:\n    pass\n"
    variables = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1", "S3DLIO_ANONYMOUS": "1"}
    done = run("-c", program, environment=variables)
    assert done.stderr.startswith("DEBUG:s3dlio:GetObject (GET) bucket/key at http://127.0.0.1:1, attempt 1")


def anchors(page: Path) -> set[str]:
    """Those of its headings, as both the site and code forges make them."""
    titles = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", [*(f"docs/{page}" for page in PAGES), "README.md", "CONTRIBUTING.md"])
def test_its_links_lead_somewhere(path: str) -> None:
    page = ROOT / path
    for file, anchor in LINK.findall(CODE.sub("", page.read_text())):
        target = page.parent / file if file else page
        assert target.exists(), file
        assert not anchor or anchor in anchors(target), anchor


def test_every_page_is_on_the_site() -> None:
    shown = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(shown) == PAGES
