"""What decides, by itself: exit codes, completion."""

from __future__ import annotations

import subprocess

import pytest

from s3dlio import errors
from s3dlio.cli.codes import code_of

from .conftest import Run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.StoreError("no"), 1),
        (errors.InvalidUriError("no"), 2),
        (errors.ConfigError("no"), 2),
        (errors.BucketNotFoundError("no"), 3),
        (errors.NotFoundError("no"), 4),
        (FileNotFoundError(2, "no"), 4),
        (errors.ProxyError("no"), 5),
        (errors.ThrottledError("no"), 5),
        (errors.PreconditionFailedError("no"), 6),
        (errors.NoCredentialsError("no"), 7),
        (errors.UnsupportedError("no"), 7),
        (OSError(28, "full"), 1),
    ],
)
def test_an_error_has_a_code(error: Exception, code: int) -> None:
    assert code_of(error) == code
    assert code_of(errors.BulkError("many", None, {"one": error, "two": error})) == code


def test_of_several_kinds_an_outage_tells_to_try_again() -> None:
    absent, down, refused = errors.NotFoundError("no"), errors.StallError("no"), errors.PermissionDeniedError("no")
    assert code_of(errors.BulkError("many", None, {"one": absent, "two": down})) == 5
    assert code_of(errors.BulkError("many", None, {"one": absent, "two": refused})) == 1


@pytest.mark.parametrize(("words", "proposed"), [("s3dlio sy", "sync"), ("s3dlio sync --del", "--delete")])
def test_bash_completes_commands_and_options(words: str, proposed: str, run: Run) -> None:
    script = run("completion", "bash").out
    asked = f"COMP_WORDS=({words}); COMP_CWORD={len(words.split()) - 1}; _s3dlio; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == proposed


def test_other_shells_have_scripts(run: Run) -> None:
    assert "bashcompinit" in run("completion", "zsh").out
    assert "-a sync" in run("completion", "fish").out


@pytest.mark.parametrize("argv", [(), ("unknown",), ("ls",), ("head", "-n", "-1", "x"), ("ls", "--unknown", "x")])
def test_what_is_not_understood_is_told_with_2(argv: tuple[str, ...], run: Run) -> None:
    ran = run(*argv)
    assert ran.code == 2
    assert "usage: s3dlio" in ran.err
