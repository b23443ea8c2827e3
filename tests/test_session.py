"""Handles of stores: which of them share one, and that a changed environment counts."""

from __future__ import annotations

import pickle

import pytest

import s3dlio
from s3dlio.config import Config
from s3dlio.session import blocking_store

from .servers.seaweedfs import SeaweedFS


def test_equal_handles_are_one_store() -> None:
    one, other = (blocking_store("s3://bucket", Config(region="r")) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert pickle.loads(pickle.dumps(one)) == one


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AZURE_STORAGE_ACCOUNT_KEY", "GOOGLE_APPLICATION_CREDENTIALS"]
)
def test_handles_made_under_other_credentials_are_not_equal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = blocking_store("s3://bucket", Config())
    monkeypatch.setenv(name, "a-secret")
    after = blocking_store("s3://bucket", Config())
    assert before != after
    assert "a-secret" not in repr(after)
    assert b"a-secret" not in pickle.dumps(after)
    monkeypatch.delenv(name)
    assert blocking_store("s3://bucket", Config()) == before


def test_a_wrong_key_can_be_corrected(s3_environment: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(PermissionError):
        s3dlio.put(f"s3://{bucket}/key", b"data")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_environment.secret_key)
    s3dlio.put(f"s3://{bucket}/key", b"data")
    assert s3dlio.get(f"s3://{bucket}/key") == b"data"
