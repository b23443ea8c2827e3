"""Where the pump's compiled functions come from, and how Python calls them."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..alignment.compiled import Kernel

_MODULE = "s3dlio.transport.pump_kernel"
_LIBC = ("send", "recv", "read", "write", "epoll_wait", "__errno_location", "abort")
_OPENSSL = ("SSL_read", "SSL_peek", "SSL_write", "SSL_get_error", "ERR_clear_error", "ERR_get_error")
_ARGUMENTS = {"submit": 3, "cancel": 2, "wake": 1, "collect": 3}
"""Of the functions that keep the interpreter's lock, which is sooner than giving it away and waiting for it."""


class PumpCode(NamedTuple):
    """The functions of :mod:`.pump_kernel`; `pump` gives the interpreter's lock away."""

    pump: Callable[[int], object]
    submit: Callable[[int, int, int], object]
    cancel: Callable[[int, int], object]
    wake: Callable[[int], object]
    collect: Callable[[int, int, int], object]


_loops = {tls: Kernel(_MODULE, "pump") for tls in (False, True)}  # which differ in what they are linked with
_others = {name: Kernel(_MODULE, name) for name in _ARGUMENTS}
_result = ctypes.c_int64()
_found: dict[bool, PumpCode] = {}


def pump_code(openssl: Mapping[str, int] | None = None) -> PumpCode | None:
    """The functions, if they are there: those for TLS, where the addresses of OpenSSL's are given. Never waits."""
    tls = openssl is not None
    return _found.get(tls) or _find(openssl)


def _find(openssl: Mapping[str, int] | None) -> PumpCode | None:
    tls, libc = openssl is not None, _libc()
    symbols = libc | dict.fromkeys(_OPENSSL, libc["abort"]) | dict(openssl or {})  # no row without TLS calls these
    places = {name: kernel.address(symbols) for name, kernel in (("pump", _loops[tls]), *_others.items())}
    calls = {name: _call(name, place) for name, place in places.items() if place is not None}
    if len(calls) < len(places):
        return None
    return _found.setdefault(tls, PumpCode(**calls))


def _call(name: str, place: int) -> Callable[..., object]:
    count = _ARGUMENTS.get(name)
    kind = ctypes.CFUNCTYPE if count is None else ctypes.PYFUNCTYPE
    function = kind(ctypes.c_int32, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * ((count or 1) - 1))(place)
    return functools.partial(function, ctypes.addressof(_result), None)  # results are in the table


@functools.cache
def _libc() -> dict[str, int]:
    process = ctypes.CDLL(None)
    return {name: ctypes.cast(process[name], ctypes.c_void_p).value or 0 for name in _LIBC}


def wait_for_code(seconds: float, openssl: Mapping[str, int] | None = None) -> bool:
    """Whether :func:`pump_code` gives functions, after they have had `seconds` to come: for benchmarks and tests."""
    pump_code(openssl)
    return all(kernel.wait(seconds) for kernel in (_loops[openssl is not None], *_others.values()))
