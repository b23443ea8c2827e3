"""The page about dask and Ray, run as printed: results are those of plain reads, and every worker has read.

Each half is a process of its own, as it starts others. What is looked at stands behind the page's own code.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..places import place_of

PAGE = (Path(__file__).parents[2] / "docs" / "dask-ray.md").read_text()
pytestmark = pytest.mark.timeout(900)  # Ray starts eight processes, some of which import a lot
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
"""Ray would report its use to its makers."""

OF_DASK = """
import json

plain = pd.concat(pd.read_parquet(f"s3dlio+{uri}") for uri in s3dlio.list("s3://bucket/table/").uris)
asked = client.run(s3dlio.stats).values()
print(json.dumps({
    "sums": [part.groupby("part").value.sum().to_dict() == sums.to_dict() for part in (plain, table)],
    "sizes": dict(sizes),
    "asked": [sum(each.requests for each in stats.endpoints) for stats in asked],
}))
client.close()
cluster.close()
"""

OF_RAY = """
import json
import os


def told(batch):
    asked = sum(each.requests for each in s3dlio.stats().endpoints)
    sizes = [len(data) for data in batch["bytes"]]
    return {"uri": batch["uri"], "size": sizes, "pid": [os.getpid()] * len(sizes), "asked": [asked] * len(sizes)}


rows = again.map_batches(told).take_all()
files = ray.data.read_binary_files("bucket/few", filesystem=S3FileSystem(), include_paths=True).take_all()
s3dlio.delete("s3://bucket/few/007")
try:
    again.materialize()
except Exception as error:
    refused = str(error)
print(json.dumps({
    "total": total,
    "lengths": {row["uri"]: row["size"] for row in lengths},
    "rows": {row["uri"]: row["size"] for row in rows},
    "files": {row["path"]: len(row["bytes"]) for row in files},
    "asked": {row["pid"]: row["asked"] for row in rows},
    "refused": refused,
}))
ray.shutdown()
"""


def pieces(half: str) -> str:
    """The code below that heading."""
    (text,) = re.findall(rf"^## {half}$(.*?)^## ", PAGE, re.DOTALL | re.MULTILINE)
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


def sizes(folder: str) -> dict[str, int]:
    """Bytes of what the page writes there."""
    return {f"s3://bucket/{folder}/{number:03}": number for number in range(200)}


def run(program: str, request: pytest.FixtureRequest) -> Any:
    """The last line of JSON that it prints, beside what others print."""
    with place_of("s3", request) as place:
        environment = {**os.environ, **QUIET, **place.environment}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    return json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])


def test_dask(request: pytest.FixtureRequest) -> None:
    found = run(f"{pieces('dask')}\n{OF_DASK}", request)
    assert found["sums"] == [True, True]
    assert found["sizes"] == sizes("many")
    assert len(found["asked"]) == 2
    assert min(found["asked"]) > 0


def test_ray(request: pytest.FixtureRequest) -> None:
    found = run(f"{pieces('Ray Data')}\n{OF_RAY}", request)
    assert found["total"] == sum(range(8000))
    assert found["lengths"] == found["rows"] == sizes("few")
    assert {f"s3://{path}": size for path, size in found["files"].items()} == sizes("few")
    assert len(found["asked"]) >= 2
    assert min(found["asked"].values()) > 0
    assert "NotFoundError" in found["refused"]
    assert "few/007" in found["refused"]
