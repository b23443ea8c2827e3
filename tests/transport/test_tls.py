"""TLS: bodies arrive where they belong, and a peer that cannot prove its name gets not one request.

All of it by pyOpenSSL, and by the pump where that is compiled, and by `ssl`.
"""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from trio.testing import MockClock

from s3dlio.errors import (
    ConfigError,
    ConnectionFailedError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    StallError,
    StoreError,
)
from s3dlio.model import PutOptions
from s3dlio.stores.s3.store import S3Store
from s3dlio.transport.batch import Batch

from ..servers.faults import NOTHING, Fault, FaultServer, error_body, fault_server
from .conftest import DATA, ROOT, MakeStore
from .test_cancellation import cancelled_at

if TYPE_CHECKING:
    from OpenSSL import SSL

MiB = 1 << 20
LARGE = bytes(range(256)) * (3 * MiB // 256)


pytestmark = pytest.mark.usefixtures("way", "compiled_pump_for_tls")


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


async def test_small_objects_in_batches(
    way: str, make_store: MakeStore, authority: trustme.CA, ca_bundle: str, compiled_pump: bool
) -> None:
    """By the pump, which needs pyOpenSSL; otherwise none are asked for, and none of what asks breaks down."""
    async with fault_server(tls=server_context(authority)) as server:
        server.objects[f"{ROOT}key"] = DATA
        store, batch = make_store(endpoint=server.endpoint, ca_bundle=ca_bundle), Batch[str]()
        assert await store.get("key") == DATA
        pumped = way == "openssl" and compiled_pump
        assert store.batches == pumped
        assert await store.ask(batch, [("name", "key", len(DATA))]) == pumped
        while len(batch):
            for reply in await batch.answers():
                assert reply.answer is not None
                assert reply.answer.body == DATA


@pytest.mark.parametrize("cut", [0, 1, 16_384, MiB, len(LARGE) - 1])
async def test_a_cut_body_is_continued(make_store: MakeStore, authority: trustme.CA, ca_bundle: str, cut: int) -> None:
    async with fault_server(tls=server_context(authority)) as server:
        server.objects[f"{ROOT}large"] = LARGE
        server.script += [Fault(cut=cut)]
        assert await make_store(endpoint=server.endpoint, ca_bundle=ca_bundle).get("large") == LARGE
        assert server.requests[1].range == (f"bytes={cut}-{len(LARGE) - 1}" if cut else None)


@pytest.fixture
def ca_folder(ca_bundle: str, tmp_path: Path) -> str:
    """As `openssl rehash` makes one: the file's name is the hash of its subject."""
    asked = ["openssl", "x509", "-noout", "-hash", "-in", ca_bundle]
    folder = tmp_path / "authorities"
    folder.mkdir()
    name = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    (folder / f"{name}.0").write_bytes(Path(ca_bundle).read_bytes())
    return str(folder)


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        *product(["S3DLIO_CA_BUNDLE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"], ["ca_bundle", "ca_folder"]),
        ("SSL_CERT_FILE", "ca_bundle"),
        ("SSL_CERT_DIR", "ca_folder"),
    ],
)
async def test_the_environments_authorities(
    request: pytest.FixtureRequest,
    make_store: MakeStore,
    authority: trustme.CA,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    place: str,
) -> None:
    monkeypatch.setenv(variable, request.getfixturevalue(place))
    async with fault_server(tls=server_context(authority)) as server:
        server.objects[f"{ROOT}key"] = DATA
        assert await make_store(endpoint=server.endpoint).get("key") == DATA


def self_signed(address: str) -> ssl.SSLContext:
    """Of a server whose certificate nobody vouches for."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now, day = datetime.now(UTC), timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
    certificate = builder.add_extension(names, critical=True).sign(key, SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with trustme.Blob(pem).tempfile() as path:
        context.load_cert_chain(path)
    return context


FLAWS = {
    "wrong name": (64, "IP address mismatch, certificate is not valid for '127.0.0.1'"),
    "wrong address": (64, "IP address mismatch, certificate is not valid for '127.0.0.1'"),
    "unknown authority": (20, "unable to get local issuer certificate"),
    "self-signed": (18, "self.signed certificate"),
    "expired": (10, "certificate has expired"),
}
"""And OpenSSL's codes and words for them."""


@pytest.mark.parametrize("flaw", FLAWS)
async def test_peers_that_prove_nothing(
    make_store: MakeStore, authority: trustme.CA, ca_bundle: str, flaw: str
) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    context = {
        "wrong name": lambda: server_context(authority, "example.com"),
        "wrong address": lambda: server_context(authority, "127.0.0.2"),
        "unknown authority": lambda: server_context(trustme.CA()),
        "self-signed": lambda: self_signed("127.0.0.1"),
        "expired": lambda: server_context(authority, not_after=yesterday),
    }[flaw]()
    async with fault_server(tls=context) as server:
        with pytest.raises(ConnectionFailedError, match=f"certificate verify failed: .*{FLAWS[flaw][1]}") as caught:
            await make_store(endpoint=server.endpoint, ca_bundle=ca_bundle).get("key")
        assert caught.value.attempts == 1
        cause = caught.value.__cause__
        assert isinstance(cause, ssl.SSLCertVerificationError)
        assert (cause.library, cause.reason) == ("SSL", "CERTIFICATE_VERIFY_FAILED")
        assert cause.verify_code == FLAWS[flaw][0]
        assert cause.verify_message.casefold() in str(cause).casefold()
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


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_a_common_name_alone_proves_nothing(
    make_store: MakeStore, authority: trustme.CA, ca_bundle: str, name: str
) -> None:
    """RFC 9525 section 6.3 and RFC 6125: names are those of the extension."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(common_name=name).configure_cert(context)
    async with fault_server(tls=context) as server:
        endpoint = server.endpoint.replace("127.0.0.1", name)
        with pytest.raises(ConnectionFailedError, match="certificate verify failed") as caught:
            await make_store(endpoint=endpoint, ca_bundle=ca_bundle).get("key")
        assert caught.value.attempts == 1
        assert not server.requests


ANSWERS_WITHOUT_TLS = {
    "http": b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.6\r\n",
    "smtp": b"220 mail.example.com ESMTP ready\r\n",
    "TLS 1.1": bytes.fromhex("1603020031 0200002d 0302") + bytes(32) + bytes.fromhex("00 c014 00 0005 ff01000100"),
    "alert": bytes.fromhex("1503010002 02 46"),  # fatal: protocol_version
}


@pytest.mark.parametrize("says", ANSWERS_WITHOUT_TLS)
@pytest.mark.parametrize("verb", ["get", "put"])
async def test_another_protocol_is_final(make_store: MakeStore, ca_bundle: str, says: str, verb: str) -> None:
    connections = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        await stream.receive_some(10_000)
        await stream.send_all(ANSWERS_WITHOUT_TLS[says])

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        endpoint = f"https://127.0.0.1:{listener.socket.getsockname()[1]}"
        store = make_store(endpoint=endpoint, ca_bundle=ca_bundle)
        with pytest.raises(ConnectionFailedError, match="does not speak TLS") as caught:
            await (store.get("key") if verb == "get" else store.put("key", b""))
        assert caught.value.attempts == connections == 1
        nursery.cancel_scope.cancel()


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


@pytest.mark.parametrize("lingers", [False, True], ids=["and goes", "and stays"])
@pytest.mark.parametrize("told_to_wait", [False, True])
async def test_an_upload_refused_in_its_middle(
    clock: MockClock, make_store: MakeStore, authority: trustme.CA, ca_bundle: str, *, lingers: bool, told_to_wait: bool
) -> None:
    """The server reads a little, refuses, and reads no more: its answer counts."""
    async with fault_server(tls=server_context(authority)) as server:
        refused = Fault(403, body=error_body("AccessDenied"), refuse_after=100_000, lingers=lingers)
        server.script += [replace(refused, proceed=0.0 if told_to_wait else None)]
        store = make_store(endpoint=server.endpoint, ca_bundle=ca_bundle)
        with pytest.raises(PermissionDeniedError) as caught:
            await store.put("large", LARGE * 8)
        assert (caught.value.code, len(server.requests)) == ("AccessDenied", 1)
        await store.put("large", LARGE)
        assert server.objects[f"{ROOT}large"] == LARGE


async def test_interim_answers_during_an_upload(make_store: MakeStore, authority: trustme.CA, ca_bundle: str) -> None:
    async with fault_server(tls=server_context(authority)) as server:
        server.always = Fault(hints=b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n", sip=(50_000, 0.0))
        await make_store(endpoint=server.endpoint, ca_bundle=ca_bundle).put("large", LARGE * 2)
        assert server.objects[f"{ROOT}large"] == LARGE * 2
        assert len(server.requests) == 1


class TestEndsWithoutGoodbye:
    """Answers without a length whose connection ends without a `close_notify`: the fault server never sends one."""

    @pytest.fixture
    async def server(self, authority: trustme.CA) -> AsyncIterator[FaultServer]:
        async with fault_server(tls=server_context(authority)) as server:
            server.objects[f"{ROOT}key"] = DATA
            yield server

    @pytest.fixture
    def store(self, server: FaultServer, make_store: MakeStore, ca_bundle: str) -> S3Store:
        return make_store(endpoint=server.endpoint, ca_bundle=ca_bundle)

    @pytest.mark.parametrize(("status", "error"), [(403, PermissionDeniedError), (404, NotFoundError)])
    @pytest.mark.parametrize("code", [b"", error_body("SomeCode")], ids=["empty", "xml"])
    async def test_an_error(
        self, server: FaultServer, store: S3Store, status: int, error: type[StoreError], code: bytes
    ) -> None:
        server.always = Fault(status, {"content-length": None}, code, hang_up=True)
        for operation in (lambda: store.get("key"), lambda: store.put("new", DATA), lambda: store.list_page()):
            with pytest.raises(error) as caught:
                await operation()
            assert (caught.value.status, caught.value.attempts) == (status, 1)
            assert caught.value.code == ("SomeCode" if code else None)

    async def test_a_write(self, server: FaultServer, store: S3Store) -> None:
        """Its success has no body, so there is nothing that could have been cut."""
        server.always = Fault(headers={"content-length": None}, hang_up=True)
        await store.put("new", DATA, PutOptions(if_none_match=True))
        assert len(server.requests) == 1

    async def test_an_object(self, clock: MockClock, server: FaultServer, store: S3Store) -> None:
        server.always = Fault(headers={"content-length": None}, hang_up=True)
        with pytest.raises(ProtocolError, match="length"):
            await store.get("key")

    async def test_a_listing(self, clock: MockClock, server: FaultServer, store: S3Store) -> None:
        server.always = Fault(headers={"content-length": None}, hang_up=True)
        with pytest.raises(ConnectionFailedError):
            await store.list_page()


async def test_a_name_of_more_than_ascii(make_store: MakeStore, authority: trustme.CA, ca_bundle: str) -> None:
    async with fault_server(tls=server_context(authority, "b\u00fccher.localhost")) as server:
        server.objects[f"{ROOT}key"] = DATA
        endpoint = server.endpoint.replace("127.0.0.1", "xn--bcher-kva.localhost")
        assert await make_store(endpoint=endpoint, ca_bundle=ca_bundle).get("key") == DATA


async def test_much_of_it(make_store: MakeStore, authority: trustme.CA, ca_bundle: str) -> None:
    """Larger than what sockets hold, and read in other pieces than written."""
    body = LARGE * 16 + b"end"
    async with fault_server(tls=server_context(authority)) as server:
        store = make_store(endpoint=server.endpoint, ca_bundle=ca_bundle)
        await store.put("large", body)
        assert server.objects[f"{ROOT}large"] == body
        server.always = Fault(pace=(333_333, 0))
        assert await store.get("large") == body


@pytest.mark.parametrize("verb", ["get", "put"])
async def test_cancelled_at_every_step(make_store: MakeStore, authority: trustme.CA, ca_bundle: str, verb: str) -> None:
    async with fault_server(tls=server_context(authority)) as server:
        server.objects[f"{ROOT}large"] = LARGE
        for step in range(1, 1000):
            store = make_store(endpoint=server.endpoint, ca_bundle=ca_bundle, connections=1)
            operation = partial(store.get, "large") if verb == "get" else partial(store.put, "large", LARGE)
            cancelled = await cancelled_at(step, operation)
            assert await store.get("large") == LARGE
            await store.aclose()
            await server.settled(lambda: 0)
            if not cancelled:
                break
        assert not cancelled
        assert step > 3


async def test_renegotiation_is_refused(make_store: MakeStore, authority: trustme.CA, ca_bundle: str) -> None:
    """The server of a TLS 1.2 connection asks for it in the middle of an answer: that comes nevertheless."""
    pytest.importorskip("OpenSSL", reason="the server that asks for it is pyOpenSSL's")
    from OpenSSL import SSL

    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    replied, reply = trio.Event(), b""

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal reply
        secure = SSL.Connection(context)
        secure.set_accept_state()
        await relay(stream, secure, secure.do_handshake)
        await relay(stream, secure, lambda: secure.recv(10_000))
        secure.send(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")
        assert secure.renegotiate()
        secure.do_handshake()
        secure.send(b"half")
        await send_pending(stream, secure)
        reply = await stream.receive_some(1)
        replied.set()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        endpoint = f"https://127.0.0.1:{listener.socket.getsockname()[1]}"
        store = make_store(endpoint=endpoint, ca_bundle=ca_bundle, max_attempts=1)
        assert await store.get("key") == b"halfhalf"
        await replied.wait()
        assert reply == b"\x15"  # an alert, not a handshake
        nursery.cancel_scope.cancel()


async def relay(stream: trio.SocketStream, secure: SSL.Connection, step: Callable[[], object]) -> None:
    """Do `step` with what the client sends for it."""
    from OpenSSL import SSL

    while True:
        try:
            step()
        except SSL.WantReadError:
            await send_pending(stream, secure)
            received = await stream.receive_some(100_000)
            if not received:
                raise EOFError from None
            secure.bio_write(received)
        else:
            return await send_pending(stream, secure)


async def send_pending(stream: trio.SocketStream, secure: SSL.Connection) -> None:
    from OpenSSL import SSL

    with suppress(SSL.WantReadError):
        while True:
            await stream.send_all(secure.bio_read(100_000))
