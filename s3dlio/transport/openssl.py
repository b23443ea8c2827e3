"""TLS by the OpenSSL inside cryptography, on whose objects the pump can work.

Importing this module imports pyOpenSSL, which takes a while, and looks at the private names that are used here;
`ImportError` or `AttributeError` says that they are not what they were.

Ownership: an :class:`OpenSSLSocket` owns its socket and its `SSL *`. Whoever gives the pointer to the pump keeps the
object for as long. Closing sends nothing and waits for nothing. OpenSSL keeps its errors in a queue of the thread's,
which others use, too: it is emptied before each call, and read in the same thread right after.

What `ssl` does by default is done here by asking it: flags, ciphers, security level, and where the system's
authorities are. pyOpenSSL leaves the names to :mod:`service_identity`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.bindings._rust import _openssl
from OpenSSL import SSL
from service_identity import CertificateError, VerificationError
from service_identity.hazmat import (
    DNS_ID,
    CertificatePattern,
    DNSPattern,
    IPAddress_ID,
    IPAddressPattern,
    verify_service_identity,
)

_lib, _ffi = _openssl.lib, _openssl.ffi

_LARGEST = 1 << 30
"""Bytes that are given to OpenSSL at once: it takes no more than an `int` says."""

_KINDS = {
    "SSL_read": "int(*)(SSL *, void *, int)",
    "SSL_peek": "int(*)(SSL *, void *, int)",
    "SSL_write": "int(*)(SSL *, void *, int)",
    "SSL_get_error": "int(*)(SSL *, int)",
    "ERR_clear_error": "void(*)()",
    "ERR_get_error": "unsigned long(*)()",
}


def _address(function: str, kind: str) -> int:
    place = _ffi.addressof(_lib, function)
    if _ffi.typeof(place).cname != kind:
        raise ImportError(f"cryptography's {function} is {_ffi.typeof(place).cname}")
    return int(_ffi.cast("intptr_t", place))


FUNCTIONS = {function: _address(function, kind) for function, kind in _KINDS.items()}
"""Addresses of what the pump calls."""

# Called with the interpreter's lock: giving it away costs more than they do.
_failure_kind = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(FUNCTIONS["SSL_get_error"])
_clear_errors = ctypes.PYFUNCTYPE(None)(FUNCTIONS["ERR_clear_error"])
_first_error = ctypes.PYFUNCTYPE(ctypes.c_ulong)(FUNCTIONS["ERR_get_error"])

_read, _write, _do_handshake = _lib.SSL_read, _lib.SSL_write, _lib.SSL_do_handshake
_verify_result, _verify_text = _lib.SSL_get_verify_result, _lib.X509_verify_cert_error_string
_reason_text = _lib.ERR_reason_error_string

if _ffi.typeof(SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))._ssl).cname != "SSL *":
    raise ImportError("pyOpenSSL's Connection._ssl is no SSL *")

_UNFINISHED: dict[int, type[ssl.SSLError]] = {
    ssl.SSL_ERROR_WANT_READ: ssl.SSLWantReadError,
    ssl.SSL_ERROR_WANT_WRITE: ssl.SSLWantWriteError,
    ssl.SSL_ERROR_ZERO_RETURN: ssl.SSLZeroReturnError,
}
_ENDED = "unexpected eof while reading"
_UNTRUSTED = "certificate verify failed"
_WRONG_NAME, _WRONG_ADDRESS = 62, 64
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""


class OpenSSLContext:
    """What connections have in common. See :data:`.tls.TlsContext`; errors: `OSError` for authorities of no use."""

    def __init__(self, file: str | None, folder: str | None, *, verify: bool) -> None:
        rules = ssl.create_default_context(capath=os.devnull)  # a folder that is not looked at: authorities take time
        ciphers = [cipher["name"] for cipher in rules.get_ciphers()]
        self._verify = verify
        self._context = context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_RENEGOTIATION)
        context.set_mode(SSL.MODE_RELEASE_BUFFERS)
        context.set_cipher_list(f"{':'.join(ciphers)}:@SECLEVEL={rules.security_level}".encode())
        context.set_alpn_protos([b"http/1.1"])
        if store := context.get_cert_store():
            store.set_flags(rules.verify_flags)
        context.set_verify(SSL.VERIFY_PEER if verify else SSL.VERIFY_NONE)
        if file or folder:
            _load_authorities(context, file, folder)
        else:
            _load_default_authorities(context)

    def __call__(self, sock: socket.socket, name: str) -> OpenSSLSocket:
        """Encrypt `sock`."""
        return OpenSSLSocket(sock, SSL.Connection(self._context, sock), name, verify=self._verify)


def _load_authorities(context: SSL.Context, file: str | None, folder: str | None) -> None:
    try:
        context.load_verify_locations(file, folder)
    except SSL.Error as error:
        _, _, reason = error.args[0][0]
        raise ssl.SSLError(ssl.SSL_ERROR_SSL, reason) from error


def _load_default_authorities(context: SSL.Context) -> None:
    """Those of the system, as Python's OpenSSL has them: what cannot be read is passed over in silence."""
    places = ssl.get_default_verify_paths()
    with suppress(SSL.Error):
        context.load_verify_locations(os.environ.get(places.openssl_cafile_env, places.openssl_cafile))
    with suppress(SSL.Error):
        context.load_verify_locations(None, os.environ.get(places.openssl_capath_env, places.openssl_capath))


class OpenSSLSocket:
    """An encrypted, non-blocking socket. Errors are those of `ssl.SSLSocket`; an end without a goodbye is one."""

    def __init__(self, sock: socket.socket, connection: SSL.Connection, name: str, *, verify: bool) -> None:
        self._sock = sock
        self._connection = connection
        self._ssl = connection._ssl
        self._name, self._verify = name, verify
        self.pointer = int(_ffi.cast("intptr_t", self._ssl))
        """The `SSL *`."""
        connection.set_connect_state()
        if _address_in(name) is None:
            connection.set_tlsext_host_name(name.encode("ascii"))

    def do_handshake(self) -> None:
        """Go on with the handshake, and check the server's name at its end."""
        self._call(_do_handshake)
        if self._verify:
            check_name(self._connection.get_peer_certificate(as_cryptography=True), self._name)

    def recv_into(self, view: memoryview | bytearray) -> int:
        """Receive some bytes; returns how many, 0 when the peer has said goodbye."""
        try:
            with _ffi.from_buffer(view) as place:  # one left in a traceback crashes CPython when that is collected
                return self._call(_read, place, min(len(view), _LARGEST))
        except ssl.SSLZeroReturnError:
            return 0

    def send(self, view: memoryview) -> int:
        """Send some bytes; returns how many. After an unfinished one the same bytes come next."""
        with _ffi.from_buffer(view) as place:
            return self._call(_write, place, min(len(view), _LARGEST))

    def pending(self) -> int:
        """How many bytes are decrypted and not received."""
        return self._connection.pending()

    def _call(self, function: Callable[..., int], *arguments: Any) -> int:
        if self._sock.fileno() < 0:  # its number may by now be another's
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        _clear_errors()
        result = function(self._ssl, *arguments)
        if result <= 0:
            raise self._failure(result, _ffi.errno)
        return result

    def _failure(self, result: int, number: int) -> OSError:
        kind = _failure_kind(self.pointer, result)
        if kind in _UNFINISHED:
            return _UNFINISHED[kind](kind, "the operation did not complete")
        if kind == ssl.SSL_ERROR_SYSCALL and number:
            return OSError(number, os.strerror(number))
        error = error_of(_first_error())
        if error.reason == _symbol(_UNTRUSTED):
            code = _verify_result(self._ssl)
            return _untrusted(code, _text(_verify_text(code)))
        return error

    def close(self) -> None:
        """Close at once."""
        self._sock.close()

    def fileno(self) -> int:
        """The descriptor; -1 when closed."""
        return self._sock.fileno()

    def getpeername(self) -> Any:
        """As of the plain socket."""
        return self._sock.getpeername()

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """As of the plain socket."""
        self._sock.setsockopt(level, option, value)


def error_of(code: int) -> ssl.SSLError:
    """The error of `ssl` for one of OpenSSL's codes; 0 is what some say to an end without a goodbye."""
    text = _text(_reason_text(code)) if code else _ENDED
    if text == _ENDED:
        return _named(ssl.SSLEOFError(ssl.SSL_ERROR_EOF, f"[SSL: {_symbol(text)}] {text}"), text)
    return _named(ssl.SSLError(ssl.SSL_ERROR_SSL, f"[SSL: {_symbol(text)}] {text}"), text)


def _untrusted(code: int, text: str) -> ssl.SSLCertVerificationError:
    message = f"[SSL: {_symbol(_UNTRUSTED)}] {_UNTRUSTED}: {text}"
    error = ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, message)
    error.verify_code, error.verify_message = code, text
    return _named(error, _UNTRUSTED)


_Error = TypeVar("_Error", bound=ssl.SSLError)


def _named(error: _Error, text: str) -> _Error:
    error.library, error.reason = "SSL", _symbol(text)
    return error


def _symbol(text: str) -> str:
    """The name of an error, as `ssl` gives it, from its text."""
    return text.upper().replace(" ", "_")


def _text(string: Any) -> str:
    return _ffi.string(string).decode() if string else "unknown error"


def check_name(certificate: x509.Certificate | None, name: str) -> None:
    """Whether a certificate is for the server of that name or address: by its extension, not its common name.

    Names that no certificate should have are passed over, as OpenSSL does. Errors: `ssl.SSLCertVerificationError`.
    """
    address = _address_in(name)
    kind, code = ("Hostname", _WRONG_NAME) if address is None else ("IP address", _WRONG_ADDRESS)
    try:
        wanted = DNS_ID(name) if address is None else IPAddress_ID(name)
        verify_service_identity(list(_names_in(certificate)), [wanted], [])
    except (CertificateError, VerificationError, x509.ExtensionNotFound, ValueError):
        raise _untrusted(code, f"{kind} mismatch, certificate is not valid for '{name}'.") from None


def _names_in(certificate: x509.Certificate | None) -> Iterator[CertificatePattern]:
    if certificate is None:
        return
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    for name in names.get_values_for_type(x509.DNSName):
        with suppress(CertificateError):
            yield DNSPattern.from_bytes(name.encode())
    for address in names.get_values_for_type(x509.IPAddress):
        if isinstance(address, IPv4Address | IPv6Address):
            yield IPAddressPattern(address)


def _address_in(name: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None
