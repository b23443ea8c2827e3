"""`s3dlio manifest`: what it prints, and its exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

import s3dlio

from .conftest import Run


def test_the_command_makes_one_and_checks_it(root: str, tmp_path: Path, run: Run) -> None:
    s3dlio.put_many({f"{root}{name}": name for name in ("a", "b/é", "c")})
    path = str(tmp_path / "manifest")
    (record,) = run("manifest", "create", "--json", root, "-o", path).records
    assert (record["objects"], record["bytes"], record["manifest"]) == (3, 6, path)
    ran = run("manifest", "check", path)
    assert (ran.code, ran.out) == (0, "")
    s3dlio.put(f"{root}a", b"other")
    s3dlio.delete(f"{root}c")
    s3dlio.put(f"{root}d", b"")
    ran = run("manifest", "check", "--json", path)
    assert ran.code == 6
    actions = {"changed": "a", "removed": "c", "added": "d"}
    assert {record["action"]: record["uri"] for record in ran.records} == {
        action: f"{root}{name}" for action, name in actions.items()
    }


@pytest.mark.parametrize("argv", [("create", "memory://b/"), ("check", "memory://b/m", "-o", "x")])
def test_the_command_wants_a_place_for_a_new_one_alone(argv: tuple[str, ...], run: Run) -> None:
    ran = run("manifest", *argv)
    assert (ran.code, "-o" in ran.err) == (2, True)


def test_the_command_tells_of_a_damaged_one(tmp_path: Path, run: Run) -> None:
    (tmp_path / "manifest").write_bytes(b"s3dlio-m")
    assert run("manifest", "check", str(tmp_path / "manifest")).code == 2
