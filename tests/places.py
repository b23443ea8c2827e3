"""Fixtures of one place per scheme, on its real server, and of the environment that leads there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from .servers.azurite import Azurite, azurite
from .servers.gcs import GCSServer, fake_gcs
from .servers.seaweedfs import SeaweedFS

SCHEMES = ("s3", "az", "gs", "file", "direct")


@dataclass(frozen=True)
class Place:
    """A bucket of some kind: `root` is its URI without a slash at the end, `bucket` what readers call it."""

    root: str
    bucket: str
    environment: Mapping[str, str] = field(default_factory=dict)


@pytest.fixture(scope="session")
def s3_bucket(s3_server: SeaweedFS) -> SeaweedFS:
    s3_server.create_bucket("bucket")
    return s3_server


@pytest.fixture(scope="session")
def azure_container() -> Iterator[Azurite]:
    with azurite() as server:
        server.create_container("container")
        yield server


@pytest.fixture(scope="session")
def gcs_bucket() -> Iterator[GCSServer]:
    with fake_gcs() as server:
        server.create_bucket("bucket")
        yield server


@contextmanager
def place_of(scheme: str, request: pytest.FixtureRequest) -> Iterator[Place]:
    """The guide's names of buckets, and for files a directory of the test's own, on a disk."""
    if scheme == "s3":
        s3: SeaweedFS = request.getfixturevalue("s3_bucket")
        yield Place("s3://bucket", "bucket", s3.environment())
    elif scheme == "az":
        azure: Azurite = request.getfixturevalue("azure_container")
        yield Place("az://container", "container", azure.environment())
    elif scheme == "gs":
        gcs: GCSServer = request.getfixturevalue("gcs_bucket")
        yield Place("gs://bucket", "bucket", {"STORAGE_EMULATOR_HOST": gcs.endpoint})
    elif scheme == "memory":
        yield Place("memory://bucket", "bucket")
    else:
        with tempfile.TemporaryDirectory(dir=Path(__file__).parents[1], prefix=".disk-") as name:
            yield Place(f"{scheme}://{name}", name)


@pytest.fixture(params=SCHEMES)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A place of each scheme, one after the other."""
    with place_of(request.param, request) as made:
        yield made


@pytest.fixture
def places(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Place]]:
    """One place of each scheme, side by side, with the variables that lead to all of them."""
    with ExitStack() as stack:
        made = [stack.enter_context(place_of(scheme, request)) for scheme in SCHEMES]
        for place in made:
            for name, value in place.environment.items():
                monkeypatch.setenv(name, value)
        yield made


@pytest.fixture(params=(*SCHEMES, "memory"))
def tree(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of an empty folder, with a slash at its end, in a place of each scheme, and the variables to reach it."""
    with place_of(request.param, request) as place:
        for name, value in place.environment.items():
            monkeypatch.setenv(name, value)
        yield f"{place.root}/{uuid4()}/"


@pytest.fixture
def environment(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that lead to the place."""
    for name, value in place.environment.items():
        monkeypatch.setenv(name, value)
