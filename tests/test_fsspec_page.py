"""The page about fsspec: its Python runs as printed, in a process of its own, as it changes what URIs mean."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from .servers.seaweedfs import SeaweedFS

PAGE = (Path(__file__).parents[1] / "docs" / "fsspec.md").read_text()
PIECES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_runs_as_printed(s3_bucket: SeaweedFS, s3_environment: SeaweedFS) -> None:
    program = "\n".join([*PIECES, 'print(files.find("bucket/many"), type(files).__module__)'])
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("b'name,size\\n'\n" * 2 + "[] s3dlio.fsspec\n", "")
