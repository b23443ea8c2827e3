"""Handles of stores: what making one costs, which of them share one, and that a changed environment counts."""

from __future__ import annotations

import gc
import pickle
from collections import Counter
from uuid import uuid4

import pytest
import trio.testing

import s3dlio
from s3dlio import urls
from s3dlio.blocking import store as handles
from s3dlio.blocking.portal import portal
from s3dlio.blocking.store import BlockingStore
from s3dlio.config import Config
from s3dlio.urls import Uri

from ..descriptors import open_sockets
from ..places import Place
from ..servers.seaweedfs import SeaweedFS

BUCKET = Uri("s3", "bucket", "")


def test_equal_handles_are_one_store() -> None:
    one, other = (BlockingStore(BUCKET, Config(region="r")) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AZURE_STORAGE_ACCOUNT_KEY", "GOOGLE_APPLICATION_CREDENTIALS"]
)
def test_handles_made_under_other_credentials_are_not_equal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = BlockingStore(BUCKET, Config())
    monkeypatch.setenv(name, "a-secret")
    after = BlockingStore(BUCKET, Config())
    assert before != after
    assert "a-secret" not in repr(after)
    assert b"a-secret" not in pickle.dumps(after)
    monkeypatch.delenv(name)
    assert BlockingStore(BUCKET, Config()) == before


def test_a_call_splits_its_uri_once_and_makes_one_config(
    place: Place, environment: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: Counter[str] = Counter()
    scheme, _, _ = place.root.partition("://")
    kind = urls._KINDS[scheme]

    def split(rest: str, config: Config | None) -> tuple[str, str]:
        counted["split"] += 1
        return kind.split(rest, config)

    def made() -> Config:
        counted["config"] += 1
        return Config()

    monkeypatch.setitem(urls._KINDS, scheme, kind._replace(split=split))
    for module in (handles, urls):
        monkeypatch.setattr(module, "Config", made)
    uri = f"{place.root}/split-{uuid4()}"
    s3dlio.put(uri, b"data")
    assert counted == {"split": 1, "config": 1}
    for number in (2, 3):
        assert s3dlio.get(uri) == b"data"
        assert counted == {"split": number, "config": number}
    assert len(list(s3dlio.list(uri))) == 1
    assert counted == {"split": 4, "config": 4}
    s3dlio.delete(uri)


def test_a_wrong_key_can_be_corrected(s3_environment: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(PermissionError):
        s3dlio.put(f"s3://{bucket}/key", b"data")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_environment.secret_key)
    s3dlio.put(f"s3://{bucket}/key", b"data")
    assert s3dlio.get(f"s3://{bucket}/key") == b"data"


def _sockets() -> int:
    gc.collect()
    return open_sockets()


def test_rotated_credentials_leave_one_store_and_its_connections(
    s3_environment: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3dlio.put(f"s3://{bucket}/key", b"data")
    first = BlockingStore(Uri("s3", bucket, ""), Config())
    stores, sockets = len(portal().stores), _sockets()
    for number in range(50):
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", f"/rotated/{number}")  # any of them counts
        assert s3dlio.get(f"s3://{bucket}/key") == b"data"
    newest = portal().stores[first.bucket, first.config]
    assert first.get("key") == b"data"
    assert portal().stores[first.bucket, first.config] is newest
    portal().call(trio.testing.wait_all_tasks_blocked)
    assert len(portal().stores) == stores
    assert _sockets() <= sockets + 1


def test_what_is_under_way_when_credentials_are_rotated_goes_on(
    s3_environment: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = BlockingStore(Uri("s3", bucket, ""), Config())
    writer = old.open_writer("key")
    writer.write(bytes(9 << 20))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/rotated")
    s3dlio.put(f"s3://{bucket}/other", b"data")
    writer.write(bytes(9 << 20))
    writer.close()
    assert len(s3dlio.get(f"s3://{bucket}/key")) == 18 << 20
