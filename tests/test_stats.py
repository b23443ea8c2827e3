"""Counts of what was asked of each endpoint: right, merged, and shown without anybody's secret."""

from __future__ import annotations

import re

import pytest

import s3dlio
from s3dlio import Config, EndpointStats, Stats
from s3dlio.blocking import BlockingStore
from s3dlio.stores.s3.store import S3Store
from s3dlio.transfer import ParallelStore
from s3dlio.urls import parse_uri

from .servers.faults import NOTHING, Fault, fault_server, refusal
from .servers.seaweedfs import SeaweedFS

MiB = 1 << 20
DATA = bytes(3 * MiB)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")


async def test_what_is_counted(keys: None) -> None:
    async with fault_server() as one, fault_server() as other:
        one.objects = other.objects = {"/bucket/key": DATA, "/bucket/small": b"12345"}
        store = ParallelStore(
            S3Store("bucket", Config(endpoint=f"{one.endpoint},{other.endpoint}")), part_size=MiB, parts_in_flight=2
        )
        assert store.stats() == Stats()
        assert await store.get("key") == DATA
        for server in (one, other):
            server.script.extend([refusal(503, "SlowDown"), Fault(cut=NOTHING)])
        for _ in range(8):
            assert await store.get("small") == b"12345"
        await store.put("written", b"1234567")
        first, second = store.stats().endpoints
        assert {first.endpoint, second.endpoint} == {one.endpoint, other.endpoint}
        assert first.received + second.received == len(DATA) + 8 * 5
        assert first.sent + second.sent == 7
        assert first.requests + second.requests == 3 + 8 + 1
        assert first.failures["throttled"] == second.failures["throttled"] == 1
        assert first.connections_in_use == second.connections_in_use == 0
        assert first.connections_idle >= 1
        await store.aclose()
        assert sum(each.connections_idle for each in store.stats().endpoints) == 0
        assert "canary" not in f"{store.stats()} {store.stats()!r} {store.stats()._repr_html_()}"


def test_the_blocking_face(s3_environment: SeaweedFS, bucket: str) -> None:
    before = {each.endpoint: each for each in s3dlio.stats().endpoints}.get(s3_environment.endpoint)
    s3dlio.put(f"s3://{bucket}/key", b"12345")
    assert s3dlio.get(f"s3://{bucket}/key") == b"12345"
    (after,) = (each for each in s3dlio.stats().endpoints if each.endpoint == s3_environment.endpoint)
    known = before or EndpointStats(s3_environment.endpoint)
    assert after.sent - known.sent == after.received - known.received == 5
    assert after.requests - known.requests == 2
    assert re.search(rf"^{s3_environment.endpoint} +in +[1-9]", str(s3dlio.stats()), re.MULTILINE)
    store = BlockingStore(parse_uri(f"s3://{bucket}", Config()), Config())
    assert store.stats().endpoints[0].endpoint == s3_environment.endpoint


def test_stores_without_endpoints(tmp_path: object) -> None:
    s3dlio.put(f"file://{tmp_path}/key", b"1")
    assert str(Stats()).startswith("endpoint")
    assert all(not each.endpoint.startswith("file") for each in s3dlio.stats().endpoints)


def test_an_endpoint_of_several_stores_is_there_once() -> None:
    one = EndpointStats("http://a", "in", 1, {"late": 2, "broken": 1}, 10, 0, 3, 1, 2)
    two = EndpointStats("http://a", "out", 2, {"late": 1}, 5, 7, 1, 0, 1)
    alone = EndpointStats("http://b", "tried")
    assert Stats.of_all([Stats((one, alone)), Stats((two,))]) == Stats(
        (EndpointStats("http://a", "out", 3, {"late": 3, "broken": 1}, 15, 7, 4, 1, 3), alone)
    )


def test_how_they_are_shown() -> None:
    stats = Stats((EndpointStats("http://<a>", "in", 12345, {"late": 2}, 1_234_000_000, 999, 3, 1, 2),))
    cells = [*re.split(" {2,}", str(stats).splitlines()[1])]
    assert cells == ["http://<a>", "in", "12,345", "2 late", "1.23 GB", "999 B", "1 in use, 2 idle"]
    assert "<td>http://&lt;a&gt;</td><td>in</td><td>12,345</td>" in stats._repr_html_()
