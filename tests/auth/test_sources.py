"""Where credentials come from is told; what they are is not."""

from __future__ import annotations

import base64

import pytest

from s3dlio.auth.aws import credentials_source
from s3dlio.auth.azure import azure_source
from s3dlio.auth.google import google_source
from s3dlio.config import Config
from s3dlio.errors import NoCredentialsError

from ..canary import CANARY
from .conftest import WriteFiles

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": CANARY}
KEY = base64.b64encode(CANARY.encode()).decode()


def test_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    assert credentials_source(Config()) == "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    assert credentials_source(Config(anonymous=True)) == "none: requests are not signed"


def test_keys_of_a_profile_come_before(monkeypatch: pytest.MonkeyPatch, write_files: WriteFiles) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    write_files("", f"[job]\naws_access_key_id = other\naws_secret_access_key = {CANARY}\n")
    told = credentials_source(Config(profile="job"))
    assert told.startswith("shared-credentials-file, of profile 'job' in ")
    assert CANARY not in told


def test_nowhere() -> None:
    with pytest.raises(NoCredentialsError):
        credentials_source(Config())


def test_of_azure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    assert azure_source(Config()) == "Entra ID, by azure-identity, when they are needed"
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", f"sv=2024-01-01&sig={CANARY}")
    assert azure_source(Config()) == "AZURE_STORAGE_SAS_TOKEN"
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    assert azure_source(Config()) == "AZURE_STORAGE_ACCOUNT_KEY"
    assert azure_source(Config(anonymous=True)) == "none: requests are not signed"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"AccountName=account;AccountKey={KEY}")
    assert azure_source(Config()) == "the connection string"


def test_of_google(monkeypatch: pytest.MonkeyPatch) -> None:
    assert google_source() == "the metadata server, when they are needed"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/secrets/key.json")
    assert google_source() == "/secrets/key.json"
