"""Requests by way of a proxy: tunnels to https endpoints, absolute targets to http ones, and what proxies do wrong.

All of it by the pump where that is compiled, without, and by the `ssl` of Python.
"""

from __future__ import annotations

import logging
import re
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import trio
import trustme
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from s3dlio.auth.azure import AzureAccount
from s3dlio.auth.bearer import Token
from s3dlio.config import Config
from s3dlio.errors import (
    ConfigError,
    ConnectionFailedError,
    ConnectTimeoutError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    ProxyError,
    ServerError,
    StoreError,
    ThrottledError,
)
from s3dlio.stores.azure.store import AzureStore
from s3dlio.stores.gcs.store import GCSStore
from s3dlio.stores.s3.store import S3Store
from s3dlio.transport import pump_code
from s3dlio.transport.batch import Batch
from s3dlio.transport.http1 import MAX_HEAD
from s3dlio.transport.pool import ConnectionPool
from s3dlio.transport.proxied import take_final
from s3dlio.transport.tls import openssl_functions

from ..canary import CANARY
from ..servers import faults
from ..servers.faults import FaultServer, fault_server
from ..servers.proxy import Fault, ProxyServer, answer, proxy_server
from .conftest import BUCKET, DATA, ROOT, MakeStore
from .test_secrets_in_frames import CLOUDS, SIGNATURES, Bearer, full_story, told_secrets
from .test_tls import server_context

MiB = 1 << 20
LARGE = bytes(range(256)) * (3 * MiB // 256)
NAME = "store.example"
"""Only the proxy knows where that is."""

USER = f"us@er:{CANARY}/:?"
QUOTED = f"us%40er:{CANARY}%2F%3A%3F"
"""The same, as a URL spells it."""


@pytest.fixture(scope="module", autouse=True)
def compiled_pump_for_tls() -> None:
    pump_code.wait_for_code(120, openssl_functions())


@pytest.fixture(params=["pump", "no pump", "ssl"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Who moves the bytes."""
    if request.param == "no pump":
        request.getfixturevalue("without_pump")
    elif request.param == "ssl":
        monkeypatch.setitem(sys.modules, "s3dlio.transport.openssl", None)
    return str(request.param)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trust(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
async def secure(authority: trustme.CA) -> AsyncIterator[FaultServer]:
    """An https server that can prove to be :data:`NAME`."""
    async with fault_server(tls=server_context(authority, NAME)) as running:
        running.objects[f"{ROOT}key"] = DATA
        yield running


@pytest.fixture
async def proxy(server: FaultServer, secure: FaultServer) -> AsyncIterator[ProxyServer]:
    """It knows both servers by :data:`NAME`, at the ports that https and http have."""
    async with proxy_server() as running:
        for port, known in ((443, secure), (80, server)):
            host, _, number = known.endpoint.partition("//")[2].rpartition(":")
            running.hosts[f"{NAME}:{port}"] = (host, int(number))
        yield running


def with_user(proxy: ProxyServer, quoted: str = QUOTED) -> str:
    """The proxy's URL, for the user that it wants from now on."""
    proxy.user = USER
    return proxy.url.replace("//", f"//{quoted}@")


SCHEMES = ["https", "http"]


@pytest.fixture
async def make(make_store: MakeStore, proxy: ProxyServer, trust: str) -> MakeStore:
    """Makes stores at the server of that name, which is reached by the proxy unless told otherwise."""

    def make(scheme: str = "https", **settings: Any) -> S3Store:
        return make_store(**{"endpoint": f"{scheme}://{NAME}", "ca_bundle": trust, "proxy": proxy.url, **settings})

    return make


def pool_of(store: S3Store) -> ConnectionPool:
    assert store._service is not None
    return store._service.rotation.first.pool


# Ways


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_tunnel_leads_to_an_https_endpoint(
    way: str, make: MakeStore, secure: FaultServer, proxy: ProxyServer, host: str
) -> None:
    async with proxy_server(host, USER) as other:
        other.hosts = proxy.hosts
        store = make(proxy=with_user(other))
        await store.put("large", LARGE)
        view = bytearray(len(LARGE))
        await store.get_into("large", memoryview(view))
        assert view == LARGE == secure.objects[f"{ROOT}large"]
        assert await store.get("key") == DATA
        assert [found.key for found in (await store.list_page()).objects] == ["key", "large"]
        with pytest.raises(NotFoundError):
            await store.head("absent")
    assert [(asked.method, asked.target, asked.headers["host"]) for asked in other.asked] == [
        ("CONNECT", f"{NAME}:443", f"{NAME}:443")
    ]
    assert {asked.headers["host"] for asked in secure.requests} == {NAME}
    assert {asked.target.partition("/")[0] for asked in secure.requests} == {""}
    assert not [asked for asked in secure.requests if "proxy-authorization" in asked.headers]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_requests_to_an_http_endpoint_are_forwarded(
    way: str, make: MakeStore, server: FaultServer, proxy: ProxyServer, host: str
) -> None:
    async with proxy_server(host, USER) as other:
        other.hosts = proxy.hosts
        store = make("http", proxy=with_user(other))
        await store.put("large", LARGE)
        view = bytearray(len(LARGE))
        await store.get_into("large", memoryview(view))
        assert view == LARGE == server.objects[f"{ROOT}large"]
        assert await store.get("key") == DATA
        assert [found.key for found in (await store.list_page()).objects] == ["key", "large"]
        with pytest.raises(NotFoundError):
            await store.head("absent")
    assert [f"http://{NAME}{asked.target}" for asked in server.requests] == [asked.target for asked in other.asked]
    assert other.connections == 1
    for asked, arrived in zip(other.asked, server.requests, strict=True):
        assert asked.headers["host"] == arrived.headers["host"] == NAME
        assert "proxy-authorization" in asked.headers
        assert "proxy" not in arrived.headers["authorization"].lower()


async def test_a_signer_sees_neither_the_proxys_header_nor_the_absolute_target(
    make: MakeStore, proxy: ProxyServer
) -> None:
    store, seen = make("http", proxy=with_user(proxy)), list[tuple[str, bool]]()
    await store.get("key")
    assert store._service is not None
    signer = store._service.rotation.first.signer

    class Recording:
        async def sign(self, method: str, path: str, query: str, headers: dict[str, str]) -> str:
            seen.append((path, "proxy-authorization" in headers))
            return await signer.sign(method, path, query, headers)

        async def recover(self, code: str | None, status: int, headers: Mapping[str, str]) -> bool:
            return False

    store._service.rotation.first.signer = Recording()
    await store.get("key")
    assert set(seen) == {(f"{ROOT}key", False)}  # without the pump, what was asked may be signed once more


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_batch_goes_by_the_proxy(compiled_pump: bool, make: MakeStore, proxy: ProxyServer, scheme: str) -> None:
    if not compiled_pump:
        pytest.skip("the pump cannot be compiled here, or is not to be")
    store = make(scheme, proxy=with_user(proxy))
    await store.get("key")
    proxy.asked.clear()
    batch: Batch[str] = Batch()
    assert await store.ask(batch, [("a", "key", len(DATA))]) == 1
    (reply,) = await batch.answers()
    assert reply.answer is not None
    assert reply.answer.body == DATA
    expected = [] if scheme == "https" else [f"http://{NAME}{ROOT}key"]
    assert [asked.target for asked in proxy.asked] == expected
    assert all("proxy-authorization" in asked.headers for asked in proxy.asked)


async def test_an_endpoint_that_is_an_ipv6_address(make: MakeStore, authority: trustme.CA, proxy: ProxyServer) -> None:
    async with fault_server("::1", server_context(authority, "::1")) as other, fault_server("::1") as plain:
        for known in (other, plain):
            known.objects[f"{ROOT}key"] = DATA
            assert await make(endpoint=known.endpoint).get("key") == DATA
    targets = [asked.target for asked in proxy.asked]
    assert targets == [other.endpoint.removeprefix("https://"), f"{plain.endpoint}{ROOT}key"]


async def test_connections_are_kept(make: MakeStore, proxy: ProxyServer, secure: FaultServer) -> None:
    store = make()
    for _ in range(3):
        await store.get("key")
    assert proxy.connections == secure.connections == pool_of(store).opened == 1
    await secure.hang_up_all()
    await store.get("key")
    assert proxy.connections == secure.connections == 2


async def test_a_cut_body_is_continued(
    way: str, make: MakeStore, server: FaultServer, secure: FaultServer, proxy: ProxyServer
) -> None:
    for scheme, known in (("https", secure), ("http", server)):
        known.script += [faults.Fault(cut=5)]
        assert await make(scheme).get("key") == DATA
        assert known.requests[-1].range == f"bytes=5-{len(DATA) - 1}"
    assert proxy.connections == 4


async def test_the_endpoint_proves_its_own_name(make: MakeStore, proxy: ProxyServer) -> None:
    """And the proxy cannot do so in its place."""
    proxy.hosts["other.example:443"] = proxy.hosts[f"{NAME}:443"]
    with pytest.raises(ConnectionFailedError, match="by way of the proxy") as caught:
        await make(endpoint="https://other.example").get("key")
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    assert (len(proxy.asked), caught.value.attempts) == (1, 1)


# Which proxy


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_the_environments_proxy(
    make: MakeStore, proxy: ProxyServer, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", with_user(proxy))
    assert await make(scheme, proxy=None).get("key") == DATA
    assert len(proxy.asked) == 1


@pytest.mark.parametrize(
    ("settings", "variables", "used"),
    [
        ({"proxy": None}, {}, True),
        ({"proxy": None}, {"NO_PROXY": "127.0.0.0/8"}, False),
        ({"proxy": "none"}, {}, False),
        ({"proxy": ""}, {}, False),
        ({"proxy": None}, {"S3DLIO_PROXY": "none"}, False),
        ({}, {"NO_PROXY": "*"}, True),
    ],
)
async def test_who_says_whether_one_is_used(
    make: MakeStore,
    server: FaultServer,
    proxy: ProxyServer,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    variables: dict[str, str],
    used: bool,
) -> None:
    for name, value in {"http_proxy": proxy.url, **variables}.items():
        monkeypatch.setenv(name, value)
    assert await make(endpoint=server.endpoint, **settings).get("key") == DATA
    assert bool(proxy.asked) is used
    (asked,) = server.requests
    assert asked.target == f"{ROOT}key"


@pytest.mark.parametrize("url", ["https://h:1", "socks5://h:1", "http://h:x"])
async def test_an_unusable_one_is_named_before_anything_is_sent(
    make: MakeStore, server: FaultServer, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", url)
    with pytest.raises(ConfigError, match="http_proxy or all_proxy"):
        await make("http", proxy=None).get("key")
    assert server.requests == []


# Refusals


@pytest.mark.parametrize(
    ("fault", "status", "attempts", "words"),
    [
        (answer(407, 'proxy-authenticate: Basic realm="x"'), 407, 1, "asks for a user and a password"),
        (answer(403, body=b"not there"), 403, 1, "does not lead there: it answered 403"),
        (answer(405), 405, 1, "405"),
        (answer(302, "location: http://elsewhere"), 302, 1, "302"),
        (answer(502, body=bytes(100_000)), 502, 3, "502"),
        (answer(503), 503, 3, "503"),
        (answer(504), 504, 3, "504"),
        (answer(429), 429, 3, "429"),
        (Fault(b"SSH-2.0-x\r\n\r\n"), None, 3, "does not answer as one: not an HTTP response"),
        (Fault(b"HTTP/1.1 101 Switching\r\n\r\n"), None, 3, "does not answer as one"),
        (Fault(b"HTTP/1.1 200 OK\r\n\r\n\x16\x03"), None, 3, "something follows its answer"),
        (Fault(b"HTTP/1.1 200 OK\r\nx: " + bytes(MAX_HEAD)), None, 3, f"more than {MAX_HEAD} bytes"),
        (Fault(b"HTTP/1.1 200 OK\r\nx: " + b"x" * MAX_HEAD + b"\r\n\r\n"), None, 3, f"more than {MAX_HEAD} bytes"),
        (Fault(b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_HEAD // 20)), None, 3, f"more than {MAX_HEAD} bytes"),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_tunnel_that_is_refused(
    clock: MockClock,
    make: MakeStore,
    proxy: ProxyServer,
    secure: FaultServer,
    fault: Fault,
    status: int | None,
    attempts: int,
    words: str,
) -> None:
    proxy.always = fault
    with pytest.raises(ProxyError, match=words) as caught:
        await make().get("key")
    assert f"the proxy {proxy.url} " in caught.value.message
    assert (caught.value.status, caught.value.attempts) == (status, attempts)
    assert (caught.value.operation, caught.value.endpoint) == ("GetObject", f"https://{NAME}")
    assert len(proxy.asked) == attempts
    assert secure.requests == []


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nx: y\r\n"])
@pytest.mark.parametrize(
    ("reset", "words"), [(False, "it ended the connection"), (True, "the connection broke: .*reset")]
)
async def test_a_proxy_that_ends_the_connection(
    clock: MockClock, make: MakeStore, proxy: ProxyServer, said: bytes, reset: bool, words: str
) -> None:
    proxy.always = Fault(said, reset=reset)
    with pytest.raises(ProxyError, match=f"does not answer as one: {words}") as caught:
        await make().get("key")
    assert (caught.value.status, caught.value.attempts) == (None, 3)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(stall=True),
        Fault(b"HTTP/1.1 200 OK\r\n", stall=True),
        Fault(b"HTTP/1.1 200 OK\r\nx: " + b"x" * 1000, piece=1, pause=1.0),
        Fault(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, piece=25, pause=1.0),
    ],
)
async def test_a_proxy_that_takes_its_time_is_given_up(
    clock: MockClock, make: MakeStore, proxy: ProxyServer, fault: Fault
) -> None:
    proxy.always = fault
    with pytest.raises(ConnectTimeoutError, match=r"no connection by way of the proxy http://.* within 5 seconds"):
        await make(connect_timeout=5, max_attempts=1).get("key")
    assert trio.current_time() == pytest.approx(5, abs=0.5)


async def test_a_proxy_that_is_not_there(clock: MockClock, make: MakeStore) -> None:
    for scheme in SCHEMES:
        with pytest.raises(ConnectionFailedError, match=r"cannot connect by way of the proxy http://127\.0\.0\.1:1: "):
            await make(scheme, proxy="http://127.0.0.1:1").get("key")


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_refusal_that_passes(clock: MockClock, make: MakeStore, proxy: ProxyServer, scheme: str) -> None:
    proxy.script += [answer(502), answer(503), Fault()]
    assert await make(scheme, max_attempts=4).get("key") == DATA


async def test_what_comes_before_the_answer(make: MakeStore, proxy: ProxyServer) -> None:
    """Of an HTTP/1.0 proxy, too; whatever length it tells, there is no body (RFC 9110 section 9.3.6)."""
    secret = b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\nx: y\r\n\r\n"
    received = bytearray(secret + b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\n")
    assert (take_final(received), bytes(received)) == (200, b"")


@given(st.lists(st.integers(1, 40)), st.binary(max_size=5))
def test_an_answer_that_comes_in_pieces(sizes: list[int], rest: bytes) -> None:
    whole = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\na: b\r\n\r\n" + rest
    received, start, status = bytearray(), 0, None
    for size in (*sizes, len(whole)):
        received += whole[start : start + size]
        start += size
        status = status or take_final(received)
        if status is None:
            assert start < len(whole) - len(rest)
    assert (status, bytes(received)) == (200, rest)


@pytest.mark.parametrize(
    ("fault", "kind", "status", "attempts"),
    [
        (answer(407), ProxyError, 407, 1),
        (answer(403), PermissionDeniedError, 403, 1),
        (answer(502), ServerError, 502, 3),
        (answer(503), ThrottledError, 503, 3),
        (Fault(b"SSH-2.0-x\r\n\r\n"), ProtocolError, None, 3),
        (Fault(), ConnectionFailedError, None, 3),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_request_that_is_not_forwarded(
    clock: MockClock,
    make: MakeStore,
    proxy: ProxyServer,
    fault: Fault,
    kind: type[StoreError],
    status: int | None,
    attempts: int,
) -> None:
    proxy.always = fault
    with pytest.raises(kind) as caught:
        await make("http").get("key")
    assert (type(caught.value), caught.value.status, caught.value.attempts) == (kind, status, attempts)
    assert status is None or proxy.url in caught.value.message


async def test_an_error_of_the_endpoints_is_told_as_ever(make: MakeStore, server: FaultServer) -> None:
    server.always = faults.Fault(403, body=faults.error_body("AccessDenied", Message="not you"))
    with pytest.raises(PermissionDeniedError, match=r"^not you"):
        await make("http").get("key")


async def test_cancelled_at_any_moment_nothing_is_left(clock: MockClock, make: MakeStore, proxy: ProxyServer) -> None:
    proxy.always = Fault(b"HTTP/1.1 200 OK\r\n", stall=True)
    store = make()
    with trio.move_on_after(1):
        await store.get("key")
    await trio.testing.wait_all_tasks_blocked(0.005)
    assert pool_of(store).leased == 0
    proxy.always = None
    assert await store.get("key") == DATA


# Secrets


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_wrong_password(make: MakeStore, proxy: ProxyServer, scheme: str) -> None:
    for quoted in ("", "us%40er@", f"us%40er:{CANARY}@"):
        proxy.user = USER
        with pytest.raises(ProxyError, match="407") as caught:
            await make(scheme, proxy=proxy.url.replace("//", f"//{quoted}")).get("key")
        assert caught.value.attempts == 1
        assert not SIGNATURES.search(full_story(caught.value))


FAULTS = {
    "refused": answer(403, f"authorization: {CANARY}", body=CANARY.encode()),
    "failing": answer(502, f"authorization: {CANARY}", body=CANARY.encode()),
    "unauthorised": answer(407, f"proxy-authenticate: Basic realm={CANARY}"),
    "no http": Fault(b"hello\r\n\r\n"),
    "silence": Fault(stall=True),
    "closed": Fault(),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("cloud", CLOUDS)
async def test_nobody_sees_the_password(
    clock: MockClock,
    proxy: ProxyServer,
    trust: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    cloud: str,
    fault: str,
) -> None:
    """Neither the one of the proxy nor what is sent through it, nor what was made of them."""
    token = Token({"authorization": f"Bearer {CANARY}"})
    monkeypatch.setattr("s3dlio.auth.azure.entra_loader", lambda *_: lambda: token)
    proxy.always = FAULTS[fault]
    config = Config(ca_bundle=trust, max_attempts=2, stall_timeout=5, connect_timeout=5, proxy=with_user(proxy))
    proxy.user = None
    scheme = "http" if cloud in ("s3", "azure key") else "https"
    with caplog.at_level(logging.DEBUG, "s3dlio"):
        async with CLOUDS[cloud](f"{scheme}://{NAME}", config) as store:
            assert await told_secrets(store) == {}
            service = store._service
            shown: list[object] = [store]
            if service is not None:  # a store that has had no success finds its way anew
                upstream = service.rotation.first
                shown += [service, upstream.pool, upstream.endpoint, upstream._forwarding]
                shown += map(vars, (service, upstream, upstream.pool, upstream.pool._connect))
            assert not re.search(f"{CANARY}|Basic ", repr(shown))
    assert not SIGNATURES.search(caplog.text)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_no_token_is_sent_in_clear_by_a_proxy(host: str) -> None:
    """Without one it does not leave this machine."""
    endpoint = f"http://{host}:1"
    sas, direct = AzureAccount("acct", endpoint, sas=f"sig={CANARY}"), Config(gcs_endpoint=endpoint)
    AzureStore("con", direct, sas)
    GCSStore(BUCKET, direct, Bearer())
    proxied = replace(direct, proxy="http://h:1")
    with pytest.raises(ConfigError, match="not sent in clear"):
        AzureStore("con", proxied, sas)
    with pytest.raises(ConfigError, match="not sent in clear"):
        GCSStore(BUCKET, proxied, Bearer())
