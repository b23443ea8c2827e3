"""Directory buckets (S3 Express One Zone): where they are, how requests are signed, and how they are listed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import botocore.httpsession
import botocore.session
import pytest
import trio
from botocore.config import Config as BotocoreConfig

from s3dlio.auth.express import ExpressSigner, Sessions
from s3dlio.auth.sigv4 import EMPTY_SHA256, PAYLOAD_HASH, Credentials
from s3dlio.config import Config
from s3dlio.errors import ConfigError, PermissionDeniedError, ProtocolError, UnsupportedError
from s3dlio.model import ListOptions, PutOptions
from s3dlio.stores.s3.directory import folder_of, parse_session, zone_of
from s3dlio.stores.s3.route import Variant, route
from s3dlio.stores.s3.store import S3Store

from ...canary import CANARY
from ...servers.clouds import WritableS3, serving
from ...servers.faults import Asked, Fault, FaultServer, Truth, refusal

BUCKET = "data--usw2-az1--x-s3"
REGION = "us-west-2"


def session_body(number: int = 1, expiry: str = "2126-11-27T00:00:00Z") -> bytes:
    told = (
        f"<SessionToken>session-{number}</SessionToken><SecretAccessKey>{CANARY}</SecretAccessKey>"
        f"<AccessKeyId>AKIASESSION{number}</AccessKeyId><Expiration>{expiry}</Expiration>"
    )
    return f"<CreateSessionResult><Credentials>{told}</Credentials></CreateSessionResult>".encode()


# Where they are


@pytest.mark.parametrize("name", [BUCKET, "a--b--use1-az4--x-s3", "data--usgw1-az1--x-s3"])
def test_the_zone_is_in_the_name(name: str) -> None:
    assert zone_of(name) == name.split("--")[-2]
    assert zone_of(name.removesuffix("-s3")) is None
    assert zone_of("--x-s3") is None


def asked_by_botocore(work: str, config: dict[str, bool], endpoint: str | None = None, **arguments: Any) -> list[Any]:
    """The requests that botocore sends for one operation."""
    sent = []

    def send(_: object, request: Any) -> Any:
        sent.append(request)
        body = session_body() if "session" in request.url else b"<CopyObjectResult/>"
        return SimpleNamespace(status_code=200, headers={}, content=body, text=body.decode(), raw=None)

    with mock.patch.object(botocore.httpsession.URLLib3Session, "send", send):
        client = botocore.session.Session().create_client(
            "s3", region_name=REGION, endpoint_url=endpoint, config=BotocoreConfig(**config)
        )
        getattr(client, work)(Bucket=BUCKET, **arguments)
    return sent


@pytest.mark.parametrize("fips", [False, True])
@pytest.mark.parametrize("dualstack", [False, True])
@pytest.mark.parametrize("endpoint", [None, "http://127.0.0.1:9000"])
def test_a_directory_is_found_where_botocore_finds_it(fips: bool, dualstack: bool, endpoint: str | None) -> None:
    if endpoint and (fips or dualstack):
        fips = dualstack = False
    config = {"use_fips_endpoint": fips, "use_dualstack_endpoint": dualstack}
    *_, asked = asked_by_botocore("head_object", config, endpoint, Key="k")
    place = route(BUCKET, REGION, endpoint, "auto", Variant(fips, dualstack))
    assert f"{place.endpoint}{place.path}/k" == asked.url
    assert (place.express, place.aws) == (True, False)


def test_there_is_no_acceleration_for_directories() -> None:
    with pytest.raises(ConfigError, match="directory"):
        route(BUCKET, REGION, None, "auto", Variant(accelerate=True))
    assert route(BUCKET, REGION, None, "path").endpoint.host.startswith(BUCKET)


# How requests are signed


class Keys:
    def __init__(self, credentials: Credentials | None) -> None:
        self.credentials = credentials

    async def get(self) -> Credentials | None:
        return self.credentials

    async def refresh(self, rejected: Credentials) -> bool:
        return False


@pytest.mark.parametrize(
    ("method", "path", "query", "more", "work", "arguments"),
    [
        ("HEAD", "/k", "", {}, "head_object", {"Key": "k"}),
        ("GET", "/", "session=", {}, None, {}),
        (
            *("PUT", "/k", "", {"x-amz-copy-source": f"{BUCKET}/s"}),
            *("copy_object", {"Key": "k", "CopySource": f"{BUCKET}/s"}),
        ),
        ("DELETE", "/k", "uploadId=1", {}, "abort_multipart_upload", {"Key": "k", "UploadId": "1"}),
    ],
)
async def test_requests_are_signed_as_botocore_signs_them(
    method: str, path: str, query: str, more: dict[str, str], work: str | None, arguments: dict[str, Any]
) -> None:
    asked = asked_by_botocore(work or "head_object", {}, **(arguments or {"Key": "k"}))
    theirs = {name.lower(): value for name, value in asked[-1 if work else 0].headers.items()}
    theirs = {name: value.decode() if isinstance(value, bytes) else value for name, value in theirs.items()}
    own = Credentials(
        os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_SESSION_TOKEN"]
    )
    moment = datetime.strptime(theirs["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    signer = ExpressSigner(Keys(own), Keys(parse_session(session_body())), REGION, clock=moment.timestamp)
    headers = {"host": urlsplit(asked[0].url).netloc, PAYLOAD_HASH: EMPTY_SHA256, **more}
    assert await signer.sign(method, path, query, headers) == query
    assert headers["authorization"] == theirs["authorization"]
    for name in ("x-amz-s3session-token", "x-amz-security-token"):
        assert headers.get(name) == theirs.get(name)


async def test_who_is_anonymous_asks_for_no_session() -> None:
    signer = ExpressSigner(Keys(None), Sessions(mock.Mock(side_effect=AssertionError)), REGION)
    headers = {"host": "localhost", PAYLOAD_HASH: EMPTY_SHA256}
    await signer.sign("GET", "/", "", headers)
    assert "authorization" not in headers


# Sessions


class ExpressS3(WritableS3):
    """Gives out sessions, numbered, and objects in no order."""

    sessions = 0
    expiry = "2126-11-27T00:00:00Z"

    def answer(self, asked: Asked, fault: Fault) -> Truth:
        query = parse_qs(urlsplit(asked.target).query, keep_blank_values=True)
        if "session" in query:
            self.sessions += 1
            return Truth(200, {}, session_body(self.sessions, self.expiry))
        if "list-type" in query:
            assert query.get("prefix", ["/"])[0].endswith("/"), "so directories want it"
            assert "start-after" not in query
            truth = super().answer(asked, fault)
            first, *entries = truth.body.decode().replace("</ListBucketResult>", "").split("<Contents>")
            listed = first + "".join(f"<Contents>{entry}" for entry in reversed(entries)) + "</ListBucketResult>"
            return Truth(200, {}, listed.encode())
        return super().answer(asked, fault)


@pytest.fixture
async def server() -> AsyncIterator[ExpressS3]:
    async with serving(ExpressS3) as running:
        yield running


@pytest.fixture
async def store(server: FaultServer) -> AsyncIterator[S3Store]:
    async with S3Store(BUCKET, Config(endpoint=server.endpoint, max_attempts=3)) as made:
        yield made


def tokens(server: ExpressS3) -> list[str | None]:
    return [asked.headers.get("x-amz-s3session-token") for asked in server.requests]


async def test_all_tasks_share_a_session(server: ExpressS3, store: S3Store) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(store.put, f"key {number}", b"content")
    assert await store.get("key 3") == b"content"
    await store.copy("key 3", "copy")
    assert server.sessions == 1
    assert tokens(server) == [None, *["session-1"] * 11, None]
    assert all("/s3express/aws4_request" in asked.headers["authorization"] for asked in server.requests)
    assert all("x-amz-security-token" not in asked.headers for asked in server.requests[1:-1])


async def test_a_session_that_was_refused_is_replaced(server: ExpressS3, store: S3Store) -> None:
    await store.put("key", b"content")
    server.script.append(refusal(403, "ExpiredToken"))
    assert await store.get("key") == b"content"
    assert tokens(server)[1:] == ["session-1", "session-1", None, "session-2"]


async def test_a_session_is_renewed_before_it_ends(
    server: ExpressS3, store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.expiry = "2026-11-27T00:05:00Z"
    now = datetime(2026, 11, 27, tzinfo=UTC).timestamp()
    sessions = Sessions(store._create_session)
    sessions._clock = lambda: now
    assert (await sessions.get()).token == "session-1"
    now += 30
    assert (await sessions.get()).token == "session-1"
    now += 200
    assert (await sessions.get()).token == "session-2"
    assert server.sessions == 2


async def test_a_session_that_is_not_given_is_the_error(server: ExpressS3, store: S3Store) -> None:
    server.always = refusal(403, "AccessDenied")
    with pytest.raises(PermissionDeniedError, match="no session"):
        await store.get("key")
    assert all("session" in asked.target for asked in server.requests)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<CreateSessionResult/>",
        session_body().replace(b"Expiration", b"Other"),
        session_body().replace(b"SecretAccessKey", b"Other"),
        session_body()[:-5],
    ],
)
def test_an_answer_without_a_session_shows_nothing(body: bytes) -> None:
    with pytest.raises(ProtocolError, match="no session") as caught:
        parse_session(body)
    assert caught.value.__context__ is None
    assert CANARY not in repr([entry.frame.f_locals for entry in caught.traceback[1:]])


async def test_a_session_is_for_the_encryption_that_was_asked_for(server: ExpressS3) -> None:
    settings = Config(endpoint=server.endpoint, sse_kms_key_id="key")
    async with S3Store(BUCKET, settings) as store:
        await store.put("key", b"content")
        await store.get("key")
    told = [asked.headers.get("x-amz-server-side-encryption-aws-kms-key-id") for asked in server.requests]
    assert told == ["key", "key", None]


# What is asked


async def test_a_directory_is_listed_by_what_is_picked_out(server: ExpressS3, store: S3Store) -> None:
    for key in ("a/1", "a/2", "a/21", "b", "ab"):
        server.objects[f"/{BUCKET}/{key}"] = b""

    async def keys(prefix: str, start_after: str = "") -> set[str]:
        pages = [page async for page in store.list(prefix, start_after=start_after)]
        return {meta.key for page in pages for meta in page.objects}

    assert await keys("") == {"a/1", "a/2", "a/21", "b", "ab"}
    assert await keys("a") == {"a/1", "a/2", "a/21", "ab"}
    assert await keys("a/") == {"a/1", "a/2", "a/21"}
    assert await keys("a/2") == {"a/2", "a/21"}
    assert await keys("", "a/21") == {"b", "ab"}
    assert (folder_of("a/b/c"), folder_of("a/"), folder_of("a")) == ("a/b/", "a/", "")


async def test_what_a_directory_has_not_is_refused(server: ExpressS3, store: S3Store) -> None:
    for options in (ListOptions("-"), ListOptions("/", start_after="a")):
        with pytest.raises(UnsupportedError):
            await store.list_page("", options)
    for work in (
        store.put("k", b"", PutOptions(tags={"a": "b"})),
        store.create_upload("k", PutOptions(tags={"a": "b"})),
    ):
        with pytest.raises(UnsupportedError, match="tags"):
            await work
    assert server.requests == []
