"""Each command, on memory, files and a real server, in this process."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

import s3dlio

from .conftest import Run


@pytest.fixture
def filled(root: str) -> str:
    s3dlio.put_many({f"{root}{name}": name for name in ("a.txt", "b.bin", "sub/a.txt", "sub/deep/c.txt")})
    return root


def keys(uri: str) -> list[str]:
    return [found.removeprefix(uri) for found in s3dlio.list(uri).uris]


def test_ls_lists_one_level(filled: str, run: Run) -> None:
    ran = run("ls", filled)
    names = [line.split()[-1] for line in ran.out.splitlines()]
    assert sorted(names) == ["a.txt", "b.bin", "sub/"]
    records = run("ls", "--json", filled).records
    assert {record["uri"] for record in records} == {f"{filled}{name}" for name in names}
    assert [record["uri"] for record in records if record.get("folder")] == [f"{filled}sub/"]


@pytest.mark.parametrize("given", ["sub", "sub/"])
def test_ls_of_a_folder_needs_no_slash(filled: str, given: str, run: Run) -> None:
    assert {r["uri"].removeprefix(filled) for r in run("ls", "--json", filled + given).records} == {
        "sub/a.txt",
        "sub/deep/",
    }


def test_ls_lists_all_below_and_what_matches(filled: str, run: Run) -> None:
    assert len(run("ls", "-r", "--json", filled).records) == 4
    assert [r["size"] for r in run("ls", "--json", f"{filled}**/*.txt").records] == [5, 9, 14]
    assert run("ls", f"{filled}*.png").code == run("ls", f"{filled}absent").code == 4


def test_cat_and_head_write_what_is_there(filled: str, run: Run) -> None:
    assert run("cat", f"{filled}a.txt", f"{filled}sub/*.txt").out == "a.txtsub/a.txt"
    s3dlio.put(f"{filled}lines", "".join(f"line {number}\n" for number in range(20)))
    assert run("head", f"{filled}lines").out.splitlines()[-1] == "line 9"
    assert run("head", "-n", "2", f"{filled}lines").out == "line 0\nline 1\n"
    assert run("head", "-c", "4", "--json", f"{filled}lines").records == [{"uri": f"{filled}lines", "text": "line"}]
    assert run("head", "-c", "0", f"{filled}lines").out == run("head", "-n", "0", f"{filled}lines").out == ""
    s3dlio.put(f"{filled}raw", b"\xff")
    assert run("cat", "--json", f"{filled}raw").records[0]["base64"] == "/w=="


def test_du_and_stat_tell_of_objects(filled: str, run: Run) -> None:
    assert run("du", "--json", filled).records == [{"uri": filled, "objects": 4, "bytes": 33}]
    (told,) = run("stat", "--json", f"{filled}a.txt").records
    assert (told["uri"], told["size"]) == (f"{filled}a.txt", 5)
    assert "size" in run("stat", f"{filled}a.txt").out


def test_cp_copies_an_object_a_folder_and_what_matches(filled: str, run: Run) -> None:
    assert run("cp", "-q", f"{filled}a.txt", f"{filled}one").code == 0
    assert s3dlio.get(f"{filled}one") == b"a.txt"
    assert run("cp", "-q", f"{filled}sub/", f"{filled}two").code == 0
    assert keys(f"{filled}two/") == ["a.txt", "deep/c.txt"]
    ran = run("cp", "-q", "--json", f"{filled}sub/**/*.txt", f"{filled}b.bin", "memory://scratch/cp/")
    assert [record["size"] for record in ran.records] == [9, 14, 5]
    assert keys("memory://scratch/cp/") == ["a.txt", "b.bin", "deep/c.txt"]


def test_several_objects_need_a_folder(filled: str, run: Run) -> None:
    ran = run("cp", f"{filled}*", f"{filled}one")
    assert (ran.code, ran.out) == (2, "")
    assert "end the target in /" in ran.err


def test_a_dry_run_tells_and_does_nothing(filled: str, run: Run) -> None:
    before = keys(filled)
    for name in ("cp", "mv"):
        told = run(name, "--dry-run", f"{filled}sub/", f"{filled}new/").records
        assert [record["target"] for record in told] == [f"{filled}new/a.txt", f"{filled}new/deep/c.txt"]
    assert [r["target"] for r in run("rm", "-r", "--dry-run", f"{filled}sub/").records] == [
        f"{filled}sub/a.txt",
        f"{filled}sub/deep/c.txt",
    ]
    assert keys(filled) == before


def test_mv_takes_the_sources_away(filled: str, run: Run) -> None:
    assert run("mv", "-q", f"{filled}sub/", f"{filled}moved/").code == 0
    assert keys(filled) == ["a.txt", "b.bin", "moved/a.txt", "moved/deep/c.txt"]


@pytest.mark.parametrize("command", ["cp", "mv"])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        *[("a.txt", "a.txt"), ("a.txt", ""), ("*.txt", ""), ("sub/", "sub/"), ("sub/", "sub/new/"), ("sub/", "")],
        *[("**", "new/"), ("sub/**/*.txt", "sub/new/")],
    ],
)
def test_nothing_is_sent_to_where_it_is_or_would_be_found_again(
    filled: str, command: str, source: str, target: str, run: Run
) -> None:
    before = keys(filled)
    assert run(command, f"{filled}{source}", f"{filled}{target}").code == 2
    assert keys(filled) == before


def test_one_file_by_two_schemes_is_one_file(tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").write_text("kept")
    assert run("mv", f"file://{tmp_path}/file", f"direct://{tmp_path}/file").code == 2
    (tmp_path / "link").symlink_to(tmp_path)
    assert run("mv", str(tmp_path / "link" / "file"), str(tmp_path / "file")).code == 2
    assert (tmp_path / "file").read_text() == "kept"


def test_to_remove_a_link_is_not_to_remove_its_file(tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "link").symlink_to("file")
    assert run("rm", "-q", str(tmp_path / "link")).code == 7
    assert (tmp_path / "file").read_text() == "kept"


def test_rm_removes_objects_and_folders_when_told(filled: str, run: Run) -> None:
    assert run("rm", f"{filled}sub/").code == 2
    assert run("rm", "-q", f"{filled}*.txt", f"{filled}absent").code == 0
    assert [r["target"] for r in run("rm", "-q", "-r", "--json", f"{filled}sub/").records] == [
        f"{filled}sub/a.txt",
        f"{filled}sub/deep/c.txt",
    ]
    assert keys(filled) == ["b.bin"]
    assert run("rm", f"{filled}*.txt").code == 4


def test_what_was_removed_is_told_where_something_was_not(tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("absent")
    ran = run("rm", "-q", "--json", str(tmp_path / "file"), str(tmp_path / "link"))
    assert (ran.code, [each["target"] for each in ran.records]) == (7, [f"file://{tmp_path}/file"])
    assert f'"uri": "file://{tmp_path}/link"' in ran.err


def test_sync_sends_what_differs(filled: str, tmp_path: Path, run: Run) -> None:
    here = f"{tmp_path}/here"
    assert run("sync", "-q", "--json", filled, here).records[0]["objects"] == 4
    Path(here, "extra").write_text("extra")
    Path(here, "b.bin").write_text("longer than it was")
    told = run("sync", "--dry-run", "--delete", filled, here).records
    assert [(each["action"], Path(each["target"]).name) for each in told] == [("copy", "b.bin"), ("delete", "extra")]
    assert Path(here, "extra").exists()
    assert run("sync", "-q", "--delete", filled, here).code == 0
    assert not Path(here, "extra").exists()
    assert run("sync", "-q", "--error-on-no-transfer", filled, here).code == 9


def test_a_pipe_is_a_source_and_a_target(root: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"by a pipe")))
    assert run("cp", "-q", "-", f"{root}piped").code == 0
    assert run("cp", f"{root}piped", "-").out == "by a pipe"
    assert run("cp", "-", root).code == run("mv", "-", f"{root}x").code == 2


def test_paths_are_places(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("folder", "name").write_text("text")
    assert run("cp", "-q", "folder/name", ".").code == 0
    assert Path("name").read_text() == "text"
    assert run("cp", "-q", "folder", "memory://scratch/paths/").code == 0
    assert s3dlio.get("memory://scratch/paths/name") == b"text"


def test_a_key_cannot_move_the_cursor(run: Run) -> None:
    s3dlio.put("memory://scratch/ansi/\x1b[31mred", b"")
    assert "\x1b" not in run("ls", "memory://scratch/ansi/").out


def test_presign_prints_a_url(bucket: str, s3_environment: object, run: Run) -> None:
    (told,) = run("presign", "--json", "--seconds", "60", f"s3://{bucket}/key").records
    assert "X-Amz-Expires=60" in told["url"]
    assert run("presign", "memory://b/key").code == 7
    assert run("presign", "--seconds", "999999999", f"s3://{bucket}/key").code == 2


def test_errors_are_told_as_json_where_that_is_asked(run: Run) -> None:
    ran = run("cat", "--json", "memory://scratch/absent")
    assert ran.code == 4
    assert '"error": "NotFoundError"' in ran.err
    assert "Traceback" not in ran.err
