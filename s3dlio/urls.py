"""URIs to stores: `scheme://bucket/key`, the key taken literally, without any decoding.

| scheme | bucket | key |
| --- | --- | --- |
| `s3`, `gs` | the bucket | what follows |
| `az` | the container, or account/container where the environment names no account | what follows |
| `abfss` | container@account.dfs.core.windows.net | what follows |
| `file`, `direct` | the directory, up to the last slash | the rest |
| `memory` | any name | what follows |

A kind of store is imported when the first URI of its scheme is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from .config import Config
from .errors import InvalidUriError
from .stores.store import ObjectStore
from .stores.wrapper import PrefixStore
from .transfer import ParallelStore


class _Kind(NamedTuple):
    """A kind of store: how what follows `://` is cut into bucket and key, and how a bucket is opened."""

    split: Callable[[str, Config | None], tuple[str, str]]
    open: Callable[[str, Config], ObjectStore]


def _split_bucket(rest: str, _config: Config | None) -> tuple[str, str]:
    bucket, _, key = rest.partition("/")
    if "@" in bucket or "?" in bucket:
        raise InvalidUriError("a URI holds no user, password or query")
    return bucket, key


def _split_azure(rest: str, config: Config | None) -> tuple[str, str]:
    from .auth.azure_credentials import azure_account
    from .stores.azure_route import split_uri

    return split_uri(rest, azure_account(config or Config()).name)


def _split_file(rest: str, _config: Config | None) -> tuple[str, str]:
    from .stores.local_paths import split_file_uri

    return split_file_uri(rest)


def _open_s3(bucket: str, config: Config) -> ObjectStore:
    from .stores.s3 import S3Store

    return S3Store(bucket, config)


def _open_azure(bucket: str, config: Config) -> ObjectStore:
    from .stores.azure import AzureStore

    return AzureStore(bucket, config)


def _open_gcs(bucket: str, config: Config) -> ObjectStore:
    from .stores.gcs import GCSStore

    return GCSStore(bucket, config)


def _open_file(root: str, config: Config) -> ObjectStore:
    from .stores.local import LocalStore

    return LocalStore(root, config)


def _open_direct(root: str, config: Config) -> ObjectStore:
    from .stores.direct import DirectStore

    return DirectStore(root, config)


def _open_memory(bucket: str, _config: Config) -> ObjectStore:
    from .stores.memory import MemoryStore

    return MemoryStore(bucket)


_KINDS = {
    "s3": _Kind(_split_bucket, _open_s3),
    "az": _Kind(_split_azure, _open_azure),
    "abfss": _Kind(_split_azure, _open_azure),
    "gs": _Kind(_split_bucket, _open_gcs),
    "file": _Kind(_split_file, _open_file),
    "direct": _Kind(_split_file, _open_direct),
    "memory": _Kind(_split_bucket, _open_memory),
}

SCHEMES = frozenset(_KINDS)
"""What a URI can begin with."""


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


def parse_uri(uri: str, config: Config | None = None) -> Uri:
    """A URI of a known scheme, with a bucket. `config` may name the account. Errors: `InvalidUriError`."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in _KINDS:
        known = ", ".join(f"{name}://" for name in _KINDS)
        raise InvalidUriError(f"not a URI of a known scheme ({known}): {_shown(uri)!r}")
    bucket, key = _KINDS[scheme].split(rest, config)
    if not bucket:
        raise InvalidUriError(f"the URI names no bucket: {_shown(uri)!r}")
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
    config = config or Config(**settings)
    parsed = parse_uri(uri, config)
    store = _KINDS[parsed.scheme].open(parsed.bucket, config)
    folder = parsed.key if not parsed.key or parsed.key.endswith("/") else f"{parsed.key}/"
    inner = PrefixStore(store, folder) if folder else store
    return ParallelStore(inner, part_size=config.part_size, parts_in_flight=config.parts_in_flight)
