"""What counts as another environment."""

from __future__ import annotations

import pytest

from s3dlio.auth.environment import environment_mark


@pytest.mark.parametrize(
    "variable",
    [
        "AWS_ACCESS_KEY_ID",
        "AWS_PROFILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_ROLE_ARN",
        "AWS_CREDENTIAL_EXPIRATION",
        "AWS_NO_SIGN_REQUEST",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        "AZURE_CLIENT_ID",
        "AZURE_CLIENT_SECRET",
        "AZURE_TENANT_ID",
        "AZURE_FEDERATED_TOKEN_FILE",
        "AZURE_STORAGE_SAS_TOKEN",
        "IDENTITY_ENDPOINT",
        "MSI_ENDPOINT",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "CLOUDSDK_CONFIG",
        "GCE_METADATA_HOST",
        "SSL_CERT_FILE",
        "HTTPS_PROXY",
        "http_proxy",
        "ALL_PROXY",
        "no_proxy",
        "HOME",
    ],
)
def test_what_credentials_depend_on_is_noticed(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    marks = [environment_mark()]
    for value in ("one", "two", "three"):
        monkeypatch.setenv(variable, value)
        marks.append(environment_mark())
    monkeypatch.delenv(variable)
    marks.append(environment_mark())
    assert len(set(marks)) >= 4
    monkeypatch.setenv(variable, "two")
    assert environment_mark() == marks[2]


def test_other_variables_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment_mark()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert environment_mark() == before
