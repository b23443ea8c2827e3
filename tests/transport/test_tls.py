"""TLS: bodies arrive where they belong, and a peer that cannot prove its name gets not one request."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trustme
from trio.testing import MockClock

from s3dlio.errors import ConfigError, ConnectionFailedError, PermissionDeniedError, StallError
from s3dlio.model import PutOptions

from ..servers.faults import NOTHING, Fault, error_body, fault_server
from .conftest import DATA, ROOT, MakeStore

MiB = 1 << 20
LARGE = bytes(range(256)) * (3 * MiB // 256)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_bundle(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


def server_context(authority: trustme.CA, name: str = "127.0.0.1", not_after: datetime | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, not_after=not_after).configure_cert(context)
    return context


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_bodies_both_ways(make_store: MakeStore, authority: trustme.CA, ca_bundle: str, host: str) -> None:
    async with fault_server(host, server_context(authority, host)) as server:
        store = make_store(endpoint=server.endpoint, ca_bundle=ca_bundle)
        await store.put("large", LARGE)
        view = bytearray(len(LARGE))
        result = await store.get_into("large", memoryview(view))
        assert view == LARGE
        assert (result.start, result.end) == (0, len(LARGE))
        assert await store.get("large") == LARGE
        assert server.connections == 1
        assert [asked.headers.get("expect") for asked in server.requests] == ["100-continue", None, None]
        assert server.requests[0].headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"


@pytest.mark.parametrize("cut", [0, 1, 16_384, MiB, len(LARGE) - 1])
async def test_a_cut_body_is_continued(make_store: MakeStore, authority: trustme.CA, ca_bundle: str, cut: int) -> None:
    async with fault_server(tls=server_context(authority)) as server:
        server.objects[f"{ROOT}large"] = LARGE
        server.script += [Fault(cut=cut)]
        assert await make_store(endpoint=server.endpoint, ca_bundle=ca_bundle).get("large") == LARGE
        assert server.requests[1].range == (f"bytes={cut}-{len(LARGE) - 1}" if cut else None)


async def test_the_environments_authorities(
    make_store: MakeStore, authority: trustme.CA, ca_bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", ca_bundle)
    async with fault_server(tls=server_context(authority)) as server:
        server.objects[f"{ROOT}key"] = DATA
        assert await make_store(endpoint=server.endpoint).get("key") == DATA


@pytest.mark.parametrize("flaw", ["wrong name", "unknown authority", "expired"])
async def test_peers_that_prove_nothing(
    make_store: MakeStore, authority: trustme.CA, ca_bundle: str, flaw: str
) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    context = {
        "wrong name": lambda: server_context(authority, "example.com"),
        "unknown authority": lambda: server_context(trustme.CA()),
        "expired": lambda: server_context(authority, not_after=yesterday),
    }[flaw]()
    async with fault_server(tls=context) as server:
        with pytest.raises(ConnectionFailedError, match="certificate verify failed") as caught:
            await make_store(endpoint=server.endpoint, ca_bundle=ca_bundle).get("key")
        assert caught.value.attempts == 1
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        assert not server.requests


async def test_the_systems_authorities_do_not_know_ours(make_store: MakeStore, authority: trustme.CA) -> None:
    async with fault_server(tls=server_context(authority)) as server:
        with pytest.raises(ConnectionFailedError, match="certificate verify failed"):
            await make_store(endpoint=server.endpoint).get("key")


async def test_switching_the_check_off_warns(make_store: MakeStore, authority: trustme.CA) -> None:
    async with fault_server(tls=server_context(authority, "example.com")) as server:
        server.objects[f"{ROOT}key"] = DATA
        with pytest.warns(UserWarning, match="not checked"):
            assert await make_store(endpoint=server.endpoint, verify_tls=False).get("key") == DATA


async def test_old_protocols_are_refused(make_store: MakeStore, authority: trustme.CA, ca_bundle: str) -> None:
    context = server_context(authority)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with fault_server(tls=context) as server:
        with pytest.raises(ConnectionFailedError):
            await make_store(endpoint=server.endpoint, ca_bundle=ca_bundle).get("key")
        assert not server.requests


async def test_a_server_that_speaks_no_tls(clock: MockClock, make_store: MakeStore, ca_bundle: str) -> None:
    async with fault_server() as server:
        endpoint = server.endpoint.replace("http:", "https:")
        with pytest.raises(ConnectionFailedError):
            await make_store(endpoint=endpoint, ca_bundle=ca_bundle, max_attempts=1).get("key")
        assert not server.requests


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_bundle_that_cannot_be_read(make_store: MakeStore, tmp_path: Path, content: str | None) -> None:
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_text(content)
    with pytest.raises(ConfigError, match=r"bundle\.pem"):
        await make_store(endpoint="https://127.0.0.1:1", ca_bundle=str(bundle)).get("key")


async def test_a_connection_closed_while_idle(make_store: MakeStore, authority: trustme.CA, ca_bundle: str) -> None:
    async with fault_server(tls=server_context(authority)) as server:
        store = make_store(endpoint=server.endpoint, ca_bundle=ca_bundle, max_attempts=1)
        await store.put("key", DATA)
        await server.hang_up_all()
        assert await store.get("key") == DATA
        assert len(server.requests) == 2


async def test_silence(clock: MockClock, make_store: MakeStore, authority: trustme.CA, ca_bundle: str) -> None:
    async with fault_server(tls=server_context(authority)) as server:
        server.objects[f"{ROOT}large"] = LARGE
        server.script += [Fault(stall=NOTHING), Fault(stall=100_000)]
        store = make_store(endpoint=server.endpoint, ca_bundle=ca_bundle, stall_timeout=30)
        began = trio.current_time()
        assert await store.get("large") == LARGE
        assert trio.current_time() - began == pytest.approx(60, abs=1)
        server.always = Fault(stall=NOTHING)
        with pytest.raises(StallError):
            await store.put("new", DATA, PutOptions(if_none_match=True))


async def test_an_upload_refused_early(make_store: MakeStore, authority: trustme.CA, ca_bundle: str) -> None:
    async with fault_server(tls=server_context(authority)) as server:
        server.always = Fault(403, body=error_body("AccessDenied"), early=True)
        with pytest.raises(PermissionDeniedError):
            await make_store(endpoint=server.endpoint, ca_bundle=ca_bundle).put("large", LARGE)
        assert len(server.requests) == 1
