"""Profile files, and services that hand out numbered credentials."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .fakes import FakeService, hence, serving

WriteFiles = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def own_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)


@pytest.fixture
def write_files(tmp_path: Path) -> WriteFiles:
    """Write the config file and the credentials file."""

    def write(config: str, credentials: str) -> None:
        (tmp_path / "config").write_text(config)
        (tmp_path / "credentials").write_text(credentials)

    return write


class Issuer:
    """Numbered credentials as containers, instances and STS hand them out; `lifetime` in seconds, `status` to fail.

    `refusals` are statuses to answer first, whatever is asked for.
    """

    def __init__(self) -> None:
        self.issued = 0
        self.lifetime = 3600.0
        self.status = 200
        self.body: str | None = None
        self.refusals: list[int] = []

    def answer(self, method: str, path: str) -> tuple[int, str]:
        if self.refusals:
            return self.refusals.pop(0), "busy"
        if path == "/latest/api/token":
            return 200, "metadata-token"
        if path == "/latest/meta-data/iam/security-credentials/":
            return 200, "the-role"
        if self.status != 200 or self.body is not None:
            return self.status, self.body or "broken"
        self.issued += 1
        return 200, self._sts() if method == "POST" else self._json()

    def _json(self) -> str:
        return json.dumps(
            {
                "AccessKeyId": f"AKID{self.issued}",
                "SecretAccessKey": f"secret-{self.issued}",
                "Token": f"token-{self.issued}",
                "Expiration": hence(self.lifetime),
            }
        )

    def _sts(self) -> str:
        return f"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
            <AssumedRoleUser><Arn>arn:x</Arn><AssumedRoleId>x:y</AssumedRoleId></AssumedRoleUser><Credentials>
            <AccessKeyId>AKID{self.issued}</AccessKeyId><SecretAccessKey>secret-{self.issued}</SecretAccessKey>
            <SessionToken>token-{self.issued}</SessionToken><Expiration>{hence(self.lifetime)}</Expiration>
            </Credentials></AssumeRoleResult></AssumeRoleResponse>"""


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def service(issuer: Issuer) -> Iterator[FakeService]:
    with serving(issuer.answer) as running:
        yield running


@pytest.fixture
def container(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> FakeService:
    """The service as a container's source of credentials."""
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{service.url}/task")
    return service


@pytest.fixture
def instance(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> FakeService:
    """The service as the instance's metadata service."""
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    return service
