"""The same steps with `s3torchconnector` itself and with ours, on one server: the same outcome, or the stated one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ...servers.seaweedfs import SeaweedFS
from . import (  # noqa: F401 - importing them registers their cases
    cases_checkpoints,
    cases_client,
    cases_config,
    cases_datasets,
    cases_dcp,
    cases_differences,
    cases_lightning,
    cases_readers,
    cases_writers,
)
from .contents import filled
from .kit import CASES, DIFFERENCES, ORIGINAL, OURS, Case, Difference, Place, outcome


@pytest.fixture(scope="module")
def filled_place(s3_server: SeaweedFS) -> Iterator[Place]:
    with filled(s3_server) as place:
        yield place


@pytest.fixture
def place(filled_place: Place, s3_environment: SeaweedFS) -> Place:
    """The shared place, where every client finds it."""
    return filled_place


@pytest.mark.parametrize("compared", CASES.values(), ids=CASES)
def test_the_outcome_is_the_same(compared: Case, place: Place) -> None:
    expected = outcome(compared.steps, ORIGINAL, place)
    assert outcome(compared.steps, OURS, place) == expected


@pytest.mark.parametrize("compared", DIFFERENCES.values(), ids=DIFFERENCES)
def test_the_outcomes_differ_as_stated(compared: Difference, place: Place) -> None:
    assert compared.original != compared.ours
    assert outcome(compared.steps, ORIGINAL, place) == compared.original
    assert outcome(compared.steps, OURS, place) == compared.ours
