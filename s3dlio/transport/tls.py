"""Encryption of a socket: by an OpenSSL that the pump can reach where there is one, by `ssl` otherwise.

The pump moves the bytes of a TLS connection without the interpreter, for which it needs the connection's `SSL *` and
the functions that work on one. `ssl` gives neither away. pyOpenSSL and the library inside cryptography do, under names
that are private and may change: :mod:`.openssl` looks at them when it is imported, and where they are not as expected,
or there is none, `ssl` does it all, and the pump leaves these connections alone.

Both ways trust the same authorities, check the same names, and fail with the same errors: those of `ssl`.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

from ..errors import ConfigError

if TYPE_CHECKING:
    from .openssl import OpenSSLSocket

_log = logging.getLogger("s3dlio")

_IGNORE_UNEXPECTED_EOF = getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
"""Some systems' Python sets it, and then an answer that somebody cut passes for a whole one (RFC 8446, section 6.1)."""

TlsSocket: TypeAlias = "ssl.SSLSocket | OpenSSLSocket"
TlsContext: TypeAlias = Callable[[socket.socket, str], TlsSocket]
"""Encrypts a connected, non-blocking socket, of which it becomes the owner, to the server of that name or address. The
handshake is still to be done."""


def tls_context(ca_bundle: str | None, *, verify: bool) -> TlsContext:
    """TLS 1.2 or newer; certificates are checked, and the names in their extension (RFC 9525, section 6.3).

    `ca_bundle` is a file or a folder of authorities to trust, else the system's are. Errors: `ConfigError` when it
    cannot be read.
    """
    is_folder = ca_bundle is not None and os.path.isdir(ca_bundle)
    file, folder = (None, ca_bundle) if is_folder else (ca_bundle, None)
    try:
        context = (_openssl_maker() or _ssl_context)(file, folder, verify=verify)
    except OSError as error:
        raise ConfigError(f"the CA bundle {ca_bundle!r} cannot be used: {error}") from error
    if not verify:
        warnings.warn("certificates are not checked: anyone in between can read and change the data", stacklevel=2)
    return context


def _ssl_context(file: str | None, folder: str | None, *, verify: bool) -> TlsContext:
    context = ssl.create_default_context(cafile=file, capath=folder)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.options &= ~_IGNORE_UNEXPECTED_EOF
    context.hostname_checks_common_name = False
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE

    def wrap(sock: socket.socket, name: str) -> TlsSocket:
        return context.wrap_socket(
            sock, server_hostname=name, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )

    return wrap


def _openssl_maker() -> Callable[..., TlsContext] | None:
    """What makes contexts that the pump can work with, if it is there."""
    if os.environ.get("SSLKEYLOGFILE"):  # only `ssl` heeds it
        return None
    try:
        from .openssl import OpenSSLContext
    except Exception as error:  # whatever is wrong with others' private names
        _log.debug("TLS by ssl, as pyOpenSSL or what is inside is not as expected: %r", error)
        return None
    _log.debug("TLS by pyOpenSSL")
    return OpenSSLContext


def openssl_functions() -> Mapping[str, int]:
    """The addresses of the functions that work on an `SSL *`; none where no `SSL *` is to be had."""
    try:
        from .openssl import FUNCTIONS
    except Exception:  # as above
        return {}
    return FUNCTIONS


def pointer_of(sock: socket.socket | OpenSSLSocket) -> int | None:
    """The `SSL *` of a socket, which for a plain one is 0; `None` where it is not to be had."""
    if isinstance(sock, ssl.SSLSocket):
        return None
    return 0 if isinstance(sock, socket.socket) else sock.pointer


def tls_error(code: int) -> ssl.SSLError:
    """What an error `code` of the functions' means."""
    from .openssl import error_of

    return error_of(code)
