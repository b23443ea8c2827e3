"""What a command prints and how it ends, run in this process; and places for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest

from s3dlio.cli import main

from ..places import place_of


class Ran(NamedTuple):
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """The JSON that was printed."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def ran(*argv: str) -> Ran:
        try:
            code = main(argv)
        except SystemExit as end:  # argparse's
            code = int(str(end.code))
        return Ran(code, *capsys.readouterr())

    return ran


@pytest.fixture(params=("memory", "file", "s3"))
def root(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """The URI of an empty folder, with a slash at its end."""
    with place_of(request.param, request) as place:
        for name, value in place.environment.items():
            monkeypatch.setenv(name, value)
        yield f"{place.root}/{uuid4()}/"
