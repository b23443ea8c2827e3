"""Answers that ask for another try elsewhere or with another signature: followed once, remembered, never led astray."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import formatdate
from functools import cache
from pathlib import Path

import pytest
import trio

from s3dlio.auth.aws import ProfileSettings
from s3dlio.auth.sigv4 import Credentials
from s3dlio.config import Config
from s3dlio.errors import (
    BucketNotFoundError,
    ConnectionFailedError,
    NoCredentialsError,
    PermissionDeniedError,
    RequestError,
    StoreError,
    WrongRegionError,
)
from s3dlio.stores.s3.settings import with_profile
from s3dlio.stores.s3.store import S3Store

from ...servers.faults import Asked, Fault, FaultServer, fault_server, refusal
from ...transport.conftest import DATA, MakeStore

ELSEWHERE = refusal(400, "AuthorizationHeaderMalformed", Region="eu-west-1")
MOVED = Fault(301, {"x-amz-bucket-region": "eu-west-1"})
WITHOUT_BODY = Fault(400, {"x-amz-bucket-region": "eu-west-1"})


def signed_for(asked: Asked) -> str:
    return asked.headers["authorization"].split("/")[2]


@pytest.mark.parametrize("answer", [ELSEWHERE, MOVED, refusal(301, "PermanentRedirect", Region="eu-west-1")])
async def test_a_bucket_elsewhere_is_found_once(server: FaultServer, store: S3Store, answer: Fault) -> None:
    server.script += [answer]
    assert await store.get("key") == DATA
    assert await store.get("key") == DATA
    await store.put("new", DATA)
    assert [signed_for(asked) for asked in server.requests] == ["us-east-1"] + ["eu-west-1"] * 3


@pytest.mark.parametrize("answer", [WITHOUT_BODY, MOVED])
async def test_a_head_request_finds_it_too(server: FaultServer, store: S3Store, answer: Fault) -> None:
    server.script += [answer]
    assert (await store.head("key")).size == len(DATA)
    assert [signed_for(asked) for asked in server.requests] == ["us-east-1", "eu-west-1"]


async def test_many_requests_learn_it_together(server: FaultServer, make_store: MakeStore) -> None:
    """Also those that wait for a connection when the first of them learns it."""
    store, got = make_store(connections=4), []
    server.script += [ELSEWHERE] * 4

    async def get() -> None:
        got.append(await store.get("key"))

    async with trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(get)
    assert got == [DATA] * 40
    assert len(server.requests) == 44
    assert await store.get("key") == DATA
    assert signed_for(server.requests[-1]) == "eu-west-1"
    assert store._service is not None
    assert store._service.rotation.first.pool.leased == 0


async def test_a_region_is_followed_once(server: FaultServer, store: S3Store) -> None:
    server.script += [ELSEWHERE]
    server.always = refusal(400, "AuthorizationHeaderMalformed", Region="ap-south-1")
    with pytest.raises(WrongRegionError) as caught:
        await store.get("key")
    assert caught.value.region == "ap-south-1"
    assert len(server.requests) == 2


async def test_the_same_region_is_no_news(server: FaultServer, store: S3Store) -> None:
    server.always = Fault(403, {"x-amz-bucket-region": "us-east-1"})
    with pytest.raises(PermissionDeniedError):
        await store.get("key")
    assert len(server.requests) == 1


def elsewhere(region: str, *, in_header: bool) -> Fault:
    body_says = refusal(400, "AuthorizationHeaderMalformed", Region=region)
    return Fault(301, {"x-amz-bucket-region": region}) if in_header else body_says


@pytest.mark.parametrize("region", ["RegionOne", "GRA", "zh_CN", "evil.com", "a@evil.com", ".."])
@pytest.mark.parametrize("in_header", [False, True])
async def test_any_name_of_a_region_is_followed_at_the_same_server(
    server: FaultServer, store: S3Store, region: str, *, in_header: bool
) -> None:
    server.script += [elsewhere(region, in_header=in_header)]
    assert await store.get("key") == DATA
    assert [signed_for(asked) for asked in server.requests] == ["us-east-1", region]


@pytest.mark.parametrize(
    "region", ["a/b", "evil.com/#", "a b", "a,b", "\N{LATIN SMALL LETTER E WITH ACUTE}", "a" * 200]
)
@pytest.mark.parametrize("in_header", [False, True])
async def test_a_region_that_cannot_be_signed_for_is_not_followed(
    server: FaultServer, store: S3Store, region: str, *, in_header: bool
) -> None:
    server.always = elsewhere(region, in_header=in_header)
    with pytest.raises(WrongRegionError) as caught:
        await store.get("key")
    assert len(server.requests) == 1
    assert caught.value.endpoint == server.endpoint


@pytest.mark.parametrize("region", ["RegionOne", "not to be signed/for"])
async def test_a_refusal_that_names_a_region_stays_one(server: FaultServer, store: S3Store, region: str) -> None:
    server.always = refusal(403, "AccessDenied", Region=region)
    with pytest.raises(PermissionDeniedError) as caught:
        await store.get("key")
    assert (caught.value.status, caught.value.code) == (403, "AccessDenied")
    assert server.requests[-1].headers["authorization"].split("/")[2] in ("us-east-1", "RegionOne")


@pytest.mark.parametrize("region", ["RegionOne", "GRA", "zh_CN"])
async def test_the_environment_may_name_any_region(
    server: FaultServer, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch, region: str
) -> None:
    monkeypatch.setenv("AWS_REGION", region)
    assert await make_store().get("key") == DATA
    assert signed_for(server.requests[0]) == region


PROFILE = """
[profile job]
region = GRA
endpoint_url = {endpoint}
aws_access_key_id = AKIDJOB
aws_secret_access_key = secret
"""


@pytest.fixture
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("nothing_set")
async def test_what_a_missing_profile_said_is_not_kept(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "job")
    async with S3Store("bucket", Config()) as store:
        with pytest.raises(NoCredentialsError):
            await store.get("key")
        (tmp_path / "config").write_text(PROFILE.format(endpoint=server.endpoint))
        assert await store.get("key") == DATA
    assert (signed_for(server.requests[0]), keys(server.requests)) == ("GRA", ["AKIDJOB"])


@pytest.mark.parametrize("first", ["refused", "unreachable"])
async def test_a_profile_may_be_corrected_until_something_has_worked(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, first: str
) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    async with fault_server() as other:
        other.always = refusal(403, "InvalidAccessKeyId")
        wrong = other.endpoint if first == "refused" else "http://127.0.0.1:1"
        (tmp_path / "config").write_text(PROFILE.format(endpoint=wrong))
        store = S3Store("bucket", Config(profile="job", max_attempts=1))
        with pytest.raises((PermissionDeniedError, ConnectionFailedError)):
            await store.get("key")
        for endpoint in (server.endpoint, wrong):
            (tmp_path / "config").write_text(PROFILE.format(endpoint=endpoint))
            assert await store.get("key") == DATA
        server.always = refusal(403, "AccessDenied")
        for _ in range(2):
            with pytest.raises(PermissionDeniedError):
                await store.get("key")
    assert len(server.requests) == 4
    await store.aclose()


@pytest.mark.usefixtures("nothing_set")
def test_the_profile_fills_what_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://environment")
    said = ProfileSettings("eu-west-1", "https://profile", "/profile.pem", "path", use_fips_endpoint=True)
    filled = with_profile(Config(use_dualstack_endpoint=False), said)
    assert (filled.region, filled.endpoint, filled.addressing) == ("eu-west-1", "https://environment", "path")
    assert (filled.use_fips_endpoint, filled.use_dualstack_endpoint, filled.ca_bundle) == (True, False, "/profile.pem")
    ignoring = ProfileSettings(ignore_configured_endpoint_urls=True)
    assert not with_profile(Config(), ignoring).endpoint
    assert with_profile(Config(endpoint="https://asked"), ignoring).endpoint == "https://asked"


def test_aws_variables_name_the_authorities_of_s3_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/requests.pem")
    assert with_profile(Config(), ProfileSettings()).ca_bundle == "/requests.pem"
    assert with_profile(Config(), ProfileSettings(ca_bundle="/profile.pem")).ca_bundle == "/profile.pem"
    monkeypatch.setenv("AWS_CA_BUNDLE", "/aws.pem")
    assert with_profile(Config(), ProfileSettings(ca_bundle="/profile.pem")).ca_bundle == "/aws.pem"
    assert with_profile(Config(ca_bundle="/asked.pem"), ProfileSettings()).ca_bundle == "/asked.pem"
    assert Config().ca_bundle is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["get", "put"])
async def test_redirects_are_not_followed(server: FaultServer, store: S3Store, status: int, method: str) -> None:
    """Not with credentials to another origin, and not without them either."""
    async with fault_server() as other:
        server.always = Fault(status, {"location": f"{other.endpoint}/bucket/key"})
        with pytest.raises(RequestError) as caught:
            await (store.get("key") if method == "get" else store.put("key", DATA))
        assert caught.value.status == status
        assert len(server.requests) == 1
        assert not other.connections


class Rotating:
    """A provider of numbered credentials that says how often it was asked for new ones."""

    def __init__(self) -> None:
        self.issued = 0
        self.refreshes = 0
        self.last = False

    @cache  # noqa: B019
    def _numbered(self, number: int) -> Credentials:
        return Credentials(f"AKID{number}", "secret", "token")

    async def get(self) -> Credentials | None:
        return self._numbered(self.issued)

    async def refresh(self, rejected: Credentials) -> bool:
        self.refreshes += 1
        self.issued += 0 if self.last else 1
        return not self.last


def keys(requests: Sequence[Asked]) -> list[str]:
    return [asked.headers["authorization"].partition("Credential=")[2].partition("/")[0] for asked in requests]


async def test_an_expired_token_is_renewed_once(server: FaultServer, make_store: MakeStore) -> None:
    provider = Rotating()
    store = make_store(provider, max_attempts=1)
    server.script += [refusal(400, "ExpiredToken")]
    assert await store.get("key") == DATA
    assert keys(server.requests) == ["AKID0", "AKID1"]
    assert provider.refreshes == 1


async def test_a_token_that_stays_expired(server: FaultServer, make_store: MakeStore) -> None:
    provider = Rotating()
    server.always = refusal(400, "ExpiredToken")
    with pytest.raises(PermissionDeniedError) as caught:
        await make_store(provider).get("key")
    assert (len(server.requests), provider.refreshes, caught.value.code) == (2, 1, "ExpiredToken")


async def test_an_expired_token_is_seen_in_a_refusal_without_a_text(server: FaultServer, make_store: MakeStore) -> None:
    provider = Rotating()
    server.script += [Fault(400)]
    assert (await make_store(provider).head("key")).size == len(DATA)
    assert keys(server.requests) == ["AKID0", "AKID1"]


async def test_what_stays_refused_is_looked_into_once(server: FaultServer, make_store: MakeStore) -> None:
    provider = Rotating()
    provider.last = True
    store = make_store(provider)
    server.always = Fault(400)
    for _ in range(3):
        with pytest.raises(RequestError):
            await store.head("key")
    assert (len(server.requests), provider.refreshes) == (3, 1)


async def test_nothing_newer_than_the_expired(server: FaultServer, make_store: MakeStore) -> None:
    provider = Rotating()
    provider.last = True
    server.always = refusal(403, "ExpiredToken")
    with pytest.raises(PermissionDeniedError):
        await make_store(provider).get("key")
    assert len(server.requests) == provider.refreshes == 1


async def test_denied_is_not_expired(server: FaultServer, make_store: MakeStore) -> None:
    provider = Rotating()
    server.always = refusal(403, "AccessDenied")
    with pytest.raises(PermissionDeniedError):
        await make_store(provider).get("key")
    assert (len(server.requests), provider.refreshes) == (1, 0)


def sent_at(asked: Asked) -> float:
    return datetime.strptime(asked.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize("offset", [-3600, 3600])
async def test_the_servers_clock_is_learned(server: FaultServer, make_store: MakeStore, offset: int) -> None:
    store = make_store(max_attempts=1)
    skewed = refusal(403, "RequestTimeTooSkewed")
    server.script += [Fault(403, {"date": formatdate(time.time() + offset, usegmt=True)}, skewed.body)]
    assert await store.get("key") == DATA
    assert await store.get("key") == DATA
    first, *later = [sent_at(asked) for asked in server.requests]
    assert [moment - first for moment in later] == [pytest.approx(offset, abs=5)] * 2


async def test_a_clock_that_is_right_is_left_alone(server: FaultServer, store: S3Store) -> None:
    server.always = refusal(403, "RequestTimeTooSkewed")
    with pytest.raises(StoreError):
        await store.get("key")
    assert len(server.requests) == 1


async def test_a_missing_bucket(server: FaultServer, store: S3Store) -> None:
    server.always = refusal(404, "NoSuchBucket")
    with pytest.raises(BucketNotFoundError):
        await store.list_page()
    assert len(server.requests) == 1
