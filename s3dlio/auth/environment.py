"""What the environment says of who is asking."""

from __future__ import annotations

import os
from functools import lru_cache

_PREFIXES = (
    b"AWS_",
    b"AZURE_",
    b"GOOGLE_",
    b"CLOUDSDK_",
    b"GCE_",
    b"NO_GCE_CHECK",
    b"IDENTITY_",
    b"MSI_",
    b"SSL_CERT_",
    b"REQUESTS_CA_BUNDLE",
    b"HTTP_PROXY",
    b"HTTPS_PROXY",
    b"ALL_PROXY",
    b"NO_PROXY",
    b"http_proxy",
    b"https_proxy",
    b"all_proxy",
    b"no_proxy",
    b"HOME",
)
"""What the variables begin with that lead to credentials, here or in the clouds' own libraries, to trust or a proxy."""


_RAW: dict[bytes, bytes] = vars(os.environ)["_data"]
"""The environment's own dictionary: going by its names and values as text takes ten times as long."""


def environment_mark() -> int:
    """A number that changes when anything in the environment does that credentials depend on. It tells nothing of it.

    Every blocking call asks for it, so the variables are only sorted out after one of them has changed.
    """
    return _mark_of(hash(tuple(_RAW.items())))


@lru_cache(maxsize=1)
def _mark_of(_everything: int) -> int:
    return hash(tuple(sorted(item for item in _RAW.items() if item[0].startswith(_PREFIXES))))


def variable(name: str) -> str:
    """Without the line end that a secret read from a file often has."""
    return os.environ.get(name, "").strip()
