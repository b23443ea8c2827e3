"""URIs to stores: `scheme://bucket/key`, the key taken literally, without any decoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .config import Config
from .errors import InvalidUriError
from .stores.memory import MemoryStore
from .stores.s3 import S3Store
from .stores.store import ObjectStore
from .stores.wrapper import PrefixStore
from .transfer import ParallelStore

_STORES: dict[str, Callable[[str, Config], ObjectStore]] = {
    "s3": S3Store,
    "memory": lambda bucket, _config: MemoryStore(bucket),
}


@dataclass(frozen=True, slots=True)
class Uri:
    """A URI's parts. `key` may be empty or a prefix."""

    scheme: str
    bucket: str
    key: str

    @property
    def root(self) -> str:
        """The bucket's URI."""
        return f"{self.scheme}://{self.bucket}"

    def __str__(self) -> str:
        return f"{self.root}/{self.key}"


def parse_uri(uri: str) -> Uri:
    """A URI of a known scheme, with a bucket. Errors: `InvalidUriError`."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in _STORES:
        known = ", ".join(f"{name}://" for name in _STORES)
        raise InvalidUriError(f"not a URI of a known scheme ({known}): {_shown(uri)!r}")
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise InvalidUriError(f"the URI names no bucket: {_shown(uri)!r}")
    if "@" in bucket or "?" in bucket:
        raise InvalidUriError(f"a URI holds no user, password or query: {_shown(uri)!r}")
    return Uri(scheme, bucket, key)


def parse_object_uri(uri: str) -> Uri:
    """A URI that names one object. Errors: `InvalidUriError`."""
    parsed = parse_uri(uri)
    if not parsed.key:
        raise InvalidUriError(f"the URI names a bucket, but no key in it: {_shown(uri)!r}")
    return parsed


def _shown(uri: str) -> str:
    """The URI, as an error may show it: nothing that may hold a password, no query, which may hold a signature."""
    return "..." if "@" in uri else uri.partition("?")[0]


def open_store(uri: str, config: Config | None = None, **settings: Any) -> ParallelStore:
    """The store at `uri`, for `async with` inside a Trio run; keys are relative to the URI.

    A path in the URI is a folder: below `s3://bucket/train`, the key `a.jpg` is the object `train/a.jpg`. `settings`
    are fields of :class:`s3dlio.Config`. No I/O happens before the first request. Errors: `InvalidUriError`,
    `ConfigError`.
    """
    if config is not None and settings:
        raise TypeError("give a Config or single settings, not both")
    parsed = parse_uri(uri)
    config = config or Config(**settings)
    store = _STORES[parsed.scheme](parsed.bucket, config)
    folder = parsed.key if not parsed.key or parsed.key.endswith("/") else f"{parsed.key}/"
    inner = PrefixStore(store, folder) if folder else store
    return ParallelStore(inner, part_size=config.part_size, parts_in_flight=config.parts_in_flight)
