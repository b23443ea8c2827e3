"""The wheel, as the README installs it: built from the tree, put into a folder of its own, imported from there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
import s3dlio, sys
from pathlib import Path
assert Path(s3dlio.__file__).is_relative_to(sys.argv[1]), s3dlio.__file__
assert (Path(s3dlio.__file__).parent / "py.typed").is_file()
s3dlio.put(f"file://{sys.argv[2]}/key", b"content")
print(s3dlio.__version__, hasattr(s3dlio, "open_store"), s3dlio.get(f"file://{sys.argv[2]}/key"))
"""


def test_a_wheel_has_all_that_is_needed(tmp_path: Path) -> None:
    target, data = tmp_path / "installed", tmp_path / "data"
    data.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(ROOT)]
    subprocess.run(pip, check=True, capture_output=True, timeout=200)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    command = [sys.executable, "-c", PROGRAM, str(target), str(data)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "1.0.0 True b'content'\n"
    command = [str(target / "bin" / "s3dlio"), "cat", str(data / "key")]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "content", "")
