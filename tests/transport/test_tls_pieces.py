"""The two ways of TLS, piece by piece: who is believed, what is offered, how a connection ends, which way it is."""

from __future__ import annotations

import errno
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType

import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from s3dlio.alignment.checksum import Fold, crc64nvme
from s3dlio.transport.endpoint import Endpoint
from s3dlio.transport.stall import StallWatch
from s3dlio.transport.stream import StaleError, Stream, connect
from s3dlio.transport.tls import tls_context

Serve = Callable[[trio.SSLStream[trio.SocketStream]], Awaitable[None]]

pytestmark = pytest.mark.usefixtures("compiled_pump_for_tls")


class Certified:
    """A server's context, and a file with the certificate that vouches for it: its own."""

    def __init__(self, folder: Path, *names: str, common_name: str = "s3dlio") -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
        now, day = datetime.now(UTC), timedelta(days=1)
        builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, now - day, now + day)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(map(general_name, names)), critical=False)
        certificate = builder.sign(key, SHA256()).public_bytes(Encoding.PEM)
        self.authority = str(folder / "authority.pem")
        Path(self.authority).write_bytes(certificate)
        both = folder / "server.pem"
        both.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(both)


def general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@pytest.fixture
def certified(tmp_path: Path) -> Certified:
    return Certified(tmp_path, "localhost", "127.0.0.1")


@asynccontextmanager
async def connected(
    context: ssl.SSLContext, bundle: str | None, serve: Serve, name: str = "localhost", *, verify: bool = True
) -> AsyncIterator[Stream]:
    """A stream to a server of that name, which serves one connection."""

    async def handle(plain: trio.SocketStream) -> None:
        secure = trio.SSLStream(plain, context, server_side=True, https_compatible=True)
        with suppress(trio.BrokenResourceError):
            await secure.do_handshake()
            await serve(secure)
        await trio.aclose_forcefully(plain)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, [listener])
        endpoint = Endpoint("https", name, listener.socket.getsockname()[1])
        opened = await trio.open_tcp_stream("127.0.0.1", endpoint.port)
        stream = await connect(opened, endpoint, tls_context(bundle, verify=verify), StallWatch(60))
        try:
            yield stream
        finally:
            stream.close()
            nursery.cancel_scope.cancel()


async def say_nothing(secure: trio.SSLStream[trio.SocketStream]) -> None:
    await trio.sleep_forever()


def test_whose_it_is(way: str) -> None:
    assert is_openssls(tls_context(None, verify=True)) == (way == "openssl")


def is_openssls(context: object) -> bool:
    return type(context).__name__ == "OpenSSLContext"


NAMES = {
    "its name": (["localhost"], "localhost", True),
    "one of its names": (["a.example.com", "b.example.com"], "b.example.com", True),
    "another case": (["A.Example.com"], "a.example.com", True),
    "an underscore": (["my_bucket.example.com"], "my_bucket.example.com", True),
    "another name": (["a.example.com"], "b.example.com", False),
    "the end of a name": (["example.com"], "a.example.com", False),
    "any label": (["*.example.com"], "a.example.com", True),
    "no label": (["*.example.com"], "example.com", False),
    "two labels": (["*.example.com"], "a.b.example.com", False),
    "part of a label": (["f*.example.com"], "foo.example.com", False),
    "a label in the middle": (["a.*.com"], "a.example.com", False),
    "all of a domain": (["*.com"], "example.com", False),
    "all names": (["*"], "localhost", False),
    "what no certificate should have": (["*", "a.*.com", "localhost"], "localhost", True),
    "a short name beside a pattern": (["*.example.com", "minio"], "minio", True),
    "its address": (["127.0.0.1"], "127.0.0.1", True),
    "its address, version 6": (["2001:db8::1"], "2001:db8:0::1", True),
    "another address": (["127.0.0.1"], "127.0.0.2", False),
    "a name like its address": (["localhost"], "127.0.0.1", False),
    "an address like its name": (["127.0.0.1"], "localhost", False),
    "no name": ([], "localhost", False),
}


@pytest.mark.parametrize("case", NAMES)
async def test_names(way: str, tmp_path: Path, case: str) -> None:
    names, name, good = NAMES[case]
    server = Certified(tmp_path, *names, common_name=name)
    if good:
        async with connected(server.context, server.authority, say_nothing, name):
            return
    with pytest.RaisesGroup(pytest.RaisesExc(ssl.SSLCertVerificationError, match="mismatch, certificate is not valid")):
        async with connected(server.context, server.authority, say_nothing, name):
            pytest.fail("it is not this server's certificate")


async def test_who_is_not_checked_may_have_any_name(way: str, tmp_path: Path) -> None:
    server = Certified(tmp_path, "example.com")
    with pytest.warns(UserWarning, match="not checked"):
        async with connected(server.context, None, say_nothing, verify=False) as stream:
            assert stream.tls


async def test_an_authority_below_another(way: str, tmp_path: Path) -> None:
    """Whether it may be trusted alone differs between versions of Python, and is for both ways as `ssl` has it."""
    child = trustme.CA().create_child_ca()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    child.issue_cert("localhost").configure_cert(context)
    child.cert_pem.write_to_path(bundle := tmp_path / "child.pem")
    if ssl.create_default_context().verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN:
        async with connected(context, str(bundle), say_nothing):
            return
    with pytest.RaisesGroup(ssl.SSLCertVerificationError):
        async with connected(context, str(bundle), say_nothing):
            pytest.fail("nobody vouches for the authority")


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-NULL-SHA", "ECDHE-ECDSA-AES128-SHA"])
async def test_weak_ciphers_are_not_offered(way: str, certified: Certified, cipher: str) -> None:
    """Systems differ in what they take for weak: both ways offer what `ssl` does, which is never a plain text."""
    certified.context.maximum_version = ssl.TLSVersion.TLSv1_2
    certified.context.set_ciphers(f"{cipher}:@SECLEVEL=0")
    if cipher in {offered["name"] for offered in ssl.create_default_context().get_ciphers()}:
        assert "NULL" not in cipher
        async with connected(certified.context, certified.authority, say_nothing):
            return
    with pytest.RaisesGroup(ssl.SSLError):
        async with connected(certified.context, certified.authority, say_nothing):
            pytest.fail("it is not among what `ssl` offers")


@pytest.mark.parametrize(("name", "sent"), [("localhost", "localhost"), ("127.0.0.1", None)])
async def test_what_is_offered(way: str, certified: Certified, name: str, sent: str | None) -> None:
    names, chosen = [], []

    async def serve(secure: trio.SSLStream[trio.SocketStream]) -> None:
        chosen.append(secure.selected_alpn_protocol())
        await secure.send_all(b"x")

    certified.context.set_alpn_protocols(["h2", "http/1.1"])
    certified.context.sni_callback = lambda _, name, __: names.append(name)
    async with connected(certified.context, certified.authority, serve, name) as stream:
        assert await stream.receive_into(memoryview(bytearray(10))) == 1
    assert (names, chosen) == ([sent], ["http/1.1"])


class Landing:
    filled = 0
    fold: Fold | None = None


@pytest.mark.parametrize("pumped", [True, False])
class TestEnds:
    """In the middle of a body, which the pump receives, or a task."""

    @pytest.fixture(autouse=True)
    def without_pump(self, monkeypatch: pytest.MonkeyPatch, *, pumped: bool) -> None:
        if not pumped:
            monkeypatch.setattr("s3dlio.transport.stream.pump_of_run", lambda _: None)

    async def end(self, certified: Certified, serve: Serve) -> BaseException:
        async with connected(certified.context, certified.authority, serve) as stream:
            landing, body = Landing(), memoryview(bytearray(100_000))
            landing.fold = fold = Fold("CRC64NVME")
            with pytest.raises(OSError) as caught:  # noqa: PT011 - the callers look at it
                await stream.fill(body, landing)
            assert bytes(body[:50_001]) == b"x" * 50_000 + b"\0"
            assert landing.filled == 50_000
            if fold.length:
                assert (fold.length, fold.value) == (50_000, crc64nvme(b"x" * 50_000))
            assert bool(fold.length) == (stream.pump is not None)
            return caught.value

    async def test_with_a_goodbye(self, way: str, certified: Certified) -> None:
        async def serve(secure: trio.SSLStream[trio.SocketStream]) -> None:
            await secure.send_all(b"x" * 50_000)
            await secure.unwrap()

        assert isinstance(await self.end(certified, serve), ConnectionResetError)

    async def test_without(self, way: str, certified: Certified) -> None:
        async def serve(secure: trio.SSLStream[trio.SocketStream]) -> None:
            await secure.send_all(b"x" * 50_000)

        error = await self.end(certified, serve)
        assert isinstance(error, ssl.SSLError)  # of which kind depends on the version of Python
        assert error.reason == "UNEXPECTED_EOF_WHILE_READING"

    async def test_with_what_is_not_from_the_server(self, way: str, certified: Certified) -> None:
        async def serve(secure: trio.SSLStream[trio.SocketStream]) -> None:
            await secure.send_all(b"x" * 50_000)
            await secure.transport_stream.send_all(bytes.fromhex("17 0303 0020") + bytes(32))
            await trio.sleep_forever()

        error = await self.end(certified, serve)
        assert isinstance(error, ssl.SSLError)
        assert error.reason == "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"
        assert "decryption failed or bad record mac" in str(error).casefold()


ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody"


async def test_a_reset(openssl: ModuleType, certified: Certified) -> None:
    async def serve(secure: trio.SSLStream[trio.SocketStream]) -> None:
        secure.transport_stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with connected(certified.context, certified.authority, serve) as stream:
        with pytest.raises(ConnectionResetError) as caught:
            await stream.receive_into(memoryview(bytearray(10)))
        assert caught.value.errno == errno.ECONNRESET


async def test_an_error_that_another_has_left(openssl: ModuleType, certified: Certified) -> None:
    """It is in the thread's queue, and of no connection."""
    async with connected(certified.context, certified.authority, say_nothing) as stream:
        sock = stream._sock
        assert isinstance(sock, openssl.OpenSSLSocket)
        openssl._lib.ERR_put_error(20, 0, 134, openssl._ffi.NULL, 0)
        with pytest.raises(ssl.SSLWantReadError):
            sock.recv_into(bytearray(1))


def test_errors_have_the_names_that_ssl_gives_them(openssl: ModuleType) -> None:
    error = openssl.error_of(20 << 23 | 267)
    assert (str(error), error.reason) == ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "WRONG_VERSION_NUMBER")
    assert isinstance(openssl.error_of(0), ssl.SSLEOFError)


async def test_idle_with_a_session_ticket(way: str, certified: Certified) -> None:
    """Which is for OpenSSL alone. Then the server says what nobody asked for.

    It is one of `ssl`'s: Trio's would send the ticket together with the answer.
    """
    speak = threading.Event()

    def serve(listener: socket.socket) -> None:
        with certified.context.wrap_socket(listener.accept()[0], server_side=True) as secure:
            assert secure.recv(10) == b"ask"
            secure.sendall(ANSWER)
            speak.wait(30)
            secure.sendall(b"more")
            secure.recv(1)

    async with trio.open_nursery() as nursery:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            nursery.start_soon(trio.to_thread.run_sync, serve, listener)
            endpoint = Endpoint("https", "localhost", listener.getsockname()[1])
            context = tls_context(certified.authority, verify=True)
            opened = await trio.open_tcp_stream("127.0.0.1", endpoint.port)
            stream = await connect(opened, endpoint, context, StallWatch(30))
            try:
                await use_after_ticket(stream)
                speak.set()
                while not stream.stale:
                    await trio.lowlevel.checkpoint()
            finally:
                stream.close()


async def use_after_ticket(stream: Stream) -> None:
    await stream.wait_readable()
    assert not stream.stale
    buffer = bytearray(100)
    assert await stream.converse(memoryview(b"ask"), buffer, 0, whole=True, reused=True) == len(ANSWER)
    assert bytes(buffer) == ANSWER.ljust(100, b"\0")
    assert not stream.stale


async def test_stale_when_it_is_used(certified: Certified) -> None:
    """The pump looks again, right before it sends."""

    async def serve(secure: trio.SSLStream[trio.SocketStream]) -> None:
        await secure.send_all(b"unasked")
        await trio.sleep_forever()

    async with connected(certified.context, certified.authority, serve) as stream:
        while not stream.stale:
            await stream.wait_readable()
        if stream.pumped:
            with pytest.raises(StaleError):
                await stream.converse(memoryview(b"ask"), bytearray(100), 0, whole=True, reused=True)


async def test_a_closed_socket(openssl: ModuleType, certified: Certified) -> None:
    """Its descriptor may be another's by now."""
    async with connected(certified.context, certified.authority, say_nothing) as stream:
        sock = stream._sock
        assert isinstance(sock, openssl.OpenSSLSocket)
        stream.close()
        assert sock.fileno() == -1
        for use in (lambda: sock.recv_into(bytearray(1)), lambda: sock.send(memoryview(b"x")), sock.do_handshake):
            with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is looked at
                use()
            assert caught.value.errno == errno.EBADF


class TestOtherPieces:
    """Whatever is not as expected, TLS is there."""

    def test_hidden(self, openssl: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("OpenSSL", "service_identity"):
            with monkeypatch.context() as hidden:
                hidden.delitem(sys.modules, "s3dlio.transport.openssl")
                hidden.setitem(sys.modules, name, None)
                assert not is_openssls(tls_context(None, verify=True))

    def test_of_another_kind(self, openssl: ModuleType) -> None:
        with pytest.raises(ImportError, match=r"SSL_read is int\(\*\)\(SSL \*, void \*, int\)"):
            openssl._address("SSL_read", "int(*)(SSL *)")
        with pytest.raises(AttributeError):
            openssl._address("SSL_gone", "int(*)(SSL *)")

    def test_keys_are_logged(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """For which only `ssl` has a setting in the environment."""
        monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
        assert not is_openssls(tls_context(None, verify=True))


def test_nobody_pays_before_the_first_connection() -> None:
    program = "import sys, s3dlio.stores.s3.store; assert not {'OpenSSL', 'cryptography'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
