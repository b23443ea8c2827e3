"""One listing for a job of many ranks, and none where there is a manifest: counted at the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.listing_server import PREFIX, listing_of
from benchmarks.many_ranks import listed_by_one, of_a_manifest, shares
from s3dlio import manifest
from s3dlio.config import Config

RANKS, WORKERS, KEYS = 16, 2, 1100


def test_one_rank_lists_and_with_a_manifest_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    with listing_of(KEYS) as (endpoint, asked):
        times = shares(listed_by_one(endpoint, RANKS), WORKERS)
        assert (len(times), {*times.values()}, asked) == (KEYS, {1}, {"pages": 2})
        place = tmp_path / "keys.manifest"
        manifest.create(f"s3://bucket/{PREFIX}", place, config=Config(endpoint=endpoint, region="us-east-1"))
        asked.clear()
        assert shares(of_a_manifest(place, RANKS), WORKERS) == times
        assert not asked
