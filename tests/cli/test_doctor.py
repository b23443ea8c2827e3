"""The doctor's causes, each of a server, or an environment, that has them."""

from __future__ import annotations

import ssl
from email.utils import formatdate
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from time import time
from typing import Any

import pytest
import trustme

from ..canary import CANARY
from ..servers.loopback import Handler, listening
from ..servers.process import HOST, free_ports
from ..servers.proxy import proxy_in_thread
from ..servers.seaweedfs import SeaweedFS
from .conftest import Ran, Run

Environment = pytest.MonkeyPatch
LISTING = b"<ListBucketResult><Name>b</Name><IsTruncated>false</IsTruncated></ListBucketResult>"


def lead_to(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": CANARY,
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)


def last(ran: Ran) -> dict[str, Any]:
    assert CANARY not in ran.out + ran.err
    return ran.records[-1]


def refusing(code: str, status: int, region: str = "", *, ahead: float = 0.0, once: bool = False) -> type[Handler]:
    """A server whose clock is so many seconds ahead, and that says no, or says it to the first request alone."""
    asked: list[str] = []

    class Refusing(Handler):
        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate((time() if timestamp is None else timestamp) + ahead, usegmt=True)

        def do_GET(self) -> None:
            asked.append(self.path)
            if once and len(asked) > 1:
                self.answer(200, LISTING)
                return
            named = f"<Region>{region}</Region>" if region else ""
            self.answer(status, f"<Error><Code>{code}</Code><Message>no</Message>{named}</Error>".encode())

    return Refusing


@pytest.fixture
def doctor(run: Run) -> Any:
    return lambda uri="s3://bucket": run("doctor", "--json", uri)


def test_all_is_well(bucket: str, s3_environment: SeaweedFS, doctor: Any) -> None:
    ran = doctor(f"s3://{bucket}")
    told = {each["about"]: each for each in ran.records}
    assert ran.code == 0
    assert told["request"]["state"] == "ok"
    assert s3_environment.endpoint in told["request"]["found"]
    assert told["endpoint"]["found"] == f"{s3_environment.endpoint}, by AWS_ENDPOINT_URL"
    assert told["credentials"]["found"] == "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    assert {"s3dlio", "torch", "kernels", "TLS", "region"} <= set(told)
    assert s3_environment.secret_key not in ran.out


def test_credentials_of_a_profile_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"[job]\naws_access_key_id = key\naws_secret_access_key = {CANARY}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "job")
    told = last(run("doctor", "--json"))
    assert told["state"] == "ok"
    assert "profile 'job' in" in told["found"]


def test_what_the_profile_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    file = tmp_path / "config"
    file.write_text(f"[default]\nregion = eu-west-3\nendpoint_url = http://user:{CANARY}@host\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    monkeypatch.setenv("S3DLIO_ANONYMOUS", "1")
    ran = run("doctor", "--json")
    told = {each["about"]: each["found"] for each in ran.records}
    assert (told["region"], told["endpoint"]) == ("eu-west-3, by the profile", "..., by the profile")
    assert told["credentials"] == "none: requests are not signed"
    assert CANARY not in ran.out + ran.err


def test_no_credentials(doctor: Any) -> None:
    ran = doctor()
    assert (ran.code, last(ran)["about"]) == (7, "credentials")
    assert "AWS_ACCESS_KEY_ID" in last(ran)["mend"]


def test_a_wrong_secret(bucket: str, s3_environment: object, monkeypatch: pytest.MonkeyPatch, doctor: Any) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
    ran = doctor(f"s3://{bucket}")
    assert (ran.code, last(ran)["about"]) == (7, "secret")


def test_a_missing_bucket(s3_environment: object, doctor: Any) -> None:
    ran = doctor("s3://no-such-bucket")
    assert (ran.code, last(ran)["about"]) == (3, "bucket")


@pytest.mark.parametrize("named", ["eu-west-3", ""])
def test_a_wrong_region_that_stays_wrong(named: str, monkeypatch: pytest.MonkeyPatch, doctor: Any) -> None:
    with listening(refusing("AuthorizationHeaderMalformed", 400, named)) as url:
        lead_to(monkeypatch, url)
        ran = doctor()
    assert (ran.code, last(ran)["about"]) == (1, "region")
    assert "AWS_REGION" in last(ran)["mend"]


def test_a_wrong_region_that_was_found_out(monkeypatch: pytest.MonkeyPatch, doctor: Any) -> None:
    with listening(refusing("AuthorizationHeaderMalformed", 400, "eu-west-3", once=True)) as url:
        lead_to(monkeypatch, url)
        ran = doctor()
    assert (ran.code, last(ran)["about"], last(ran)["state"]) == (0, "region", "note")


@pytest.mark.parametrize(("once", "code", "state"), [(False, 7, "failed"), (True, 0, "note")])
def test_a_clock_an_hour_off(once: bool, code: int, state: str, monkeypatch: pytest.MonkeyPatch, doctor: Any) -> None:
    with listening(refusing("RequestTimeTooSkewed", 403, ahead=3600.0, once=once)) as url:
        lead_to(monkeypatch, url)
        ran = doctor()
    assert (ran.code, last(ran)["about"], last(ran)["state"]) == (code, "clock", state)


def test_an_endpoint_that_is_down(monkeypatch: pytest.MonkeyPatch, doctor: Any) -> None:
    lead_to(monkeypatch, f"http://{HOST}:{free_ports(1)[0]}")
    ran = doctor()
    assert (ran.code, last(ran)["about"]) == (5, "endpoint")


def test_an_authority_that_nobody_knows(monkeypatch: pytest.MonkeyPatch, doctor: Any) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(HOST).configure_cert(context)
    with listening(refusing("AccessDenied", 403), context) as url:
        lead_to(monkeypatch, url)
        ran = doctor()
    assert last(ran)["about"] == "certificates"
    assert "S3DLIO_CA_BUNDLE" in last(ran)["mend"]


def test_a_proxy_in_the_way(monkeypatch: pytest.MonkeyPatch, doctor: Any) -> None:
    with proxy_in_thread(f"user:{CANARY}") as proxy:
        lead_to(monkeypatch, f"http://{HOST}:{free_ports(1)[0]}")
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("//", "//user:wrong@"))
        ran = doctor()
    assert (ran.code, last(ran)["about"]) == (5, "proxy")
    assert proxy.url in last(ran)["found"]
    assert "NO_PROXY" in last(ran)["mend"]


def test_no_torch(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def absent(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("s3dlio.cli.doctor.version", absent)
    told = {each["about"]: each for each in run("doctor", "--json").records}
    assert told["torch"]["state"] == "note"
    assert "pip install 's3dlio[torch]'" in told["torch"]["mend"]


def test_a_setting_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setenv("S3DLIO_CONNECTIONS", "many")
    ran = run("doctor")
    assert ran.code == 2
    assert "failed  settings: S3DLIO_CONNECTIONS must be a number" in ran.out
