"""A manifest of many keys takes no memory for them, neither while it is made nor when it is opened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from ..servers.loopback import Handler, listening

PAGES = 200
ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys
from itertools import islice
from pathlib import Path
from s3dlio import manifest

target = Path(sys.argv[1])

def most():
    (told,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(told.split()[1]) << 10

manifest.create("s3://bucket/short/", target)
warm = most()
made = manifest.create("s3://bucket/long/", target)
grown = most() - warm
first = list(islice(manifest.load(target), 1000))
print(json.dumps([made.count, made.text, grown, most() - warm, first[-1].key]))
"""


class Endless(Handler):
    """A bucket of a thousand keys a page, of which few are read before the last one where the prefix is short."""

    def do_GET(self) -> None:
        asked = {name: value for name, (value, *_) in parse_qs(urlsplit(self.path).query).items()}
        number, pages = int(asked.get("continuation-token", 0)), PAGES if asked["prefix"] == "long/" else 10
        entry = '<Contents><Key>%s%09d</Key><ETag>"%032x"</ETag><Size>%d</Size></Contents>'
        rows = ((asked["prefix"], row, row, row) for row in range(number * 1000, number * 1000 + 1000))
        goes_on = number + 1 < pages
        token = f"<NextContinuationToken>{number + 1}</NextContinuationToken>" if goes_on else ""
        entries = "".join(entry % row for row in rows)
        head = f"<IsTruncated>{str(goes_on).lower()}</IsTruncated>{token}"
        self.answer(200, f"<ListBucketResult>{head}{entries}</ListBucketResult>".encode())


def test_memory_does_not_grow_with_the_keys(tmp_path: Path) -> None:
    target = tmp_path / "manifest"
    with listening(Endless) as url:
        settings = {"AWS_ENDPOINT_URL": url, "S3DLIO_ANONYMOUS": "1", "S3DLIO_PART_SIZE": "1048576"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(target)],
            env=os.environ | settings,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    count, text, made, opened, last = json.loads(done.stdout)
    assert (count, last) == (PAGES * 1000, "long/000000999")
    size = target.stat().st_size
    assert size - text <= 24 * count
    assert made < 32_000_000, "what is read and written at a time has 25 MB; all keys, as texts, 14 more"
    assert opened - made < size // 4
