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
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from . import stores
from .config import Config
from .errors import InvalidUriError
from .observers import Hook, observer_of
from .proxy import hide_proxy
from .replicas import ReplicatedStore
from .stores.store import ObjectStore
from .stores.wrapper import PrefixStore
from .transfer import ParallelStore


class _Kind(NamedTuple):
    """A kind of store: how what follows `://` is cut into bucket and key, and how a bucket is opened."""

    split: Callable[[str, Config | None], tuple[str, str]]
    open: Callable[[str, Config], ObjectStore]


def _split_bucket(rest: str, _config: Config | None) -> tuple[str, str]:
    bucket, _, key = rest.partition("/")
    return _name(bucket), key


def _name(bucket: str) -> str:
    if "@" in bucket or "?" in bucket:
        raise InvalidUriError("a URI holds no user, password or query")
    return bucket


def _split_azure(rest: str, config: Config | None) -> tuple[str, str]:
    from .auth.azure import azure_account
    from .stores.azure.route import split_uri

    return split_uri(rest, azure_account(config or Config()).name)


def _split_file(rest: str, _config: Config | None) -> tuple[str, str]:
    from .stores.local.paths import split_file_uri

    return split_file_uri(rest)


_KINDS = {
    "s3": _Kind(_split_bucket, lambda bucket, config: stores.S3Store(_name(bucket), config)),
    "az": _Kind(_split_azure, lambda bucket, config: stores.AzureStore(bucket, config)),
    "abfss": _Kind(_split_azure, lambda bucket, config: stores.AzureStore(bucket, config)),
    "gs": _Kind(_split_bucket, lambda bucket, config: stores.GCSStore(_name(bucket), config)),
    "file": _Kind(_split_file, lambda root, config: stores.LocalStore(root, config)),
    "direct": _Kind(_split_file, lambda root, config: stores.DirectStore(root, config)),
    "memory": _Kind(_split_bucket, lambda bucket, _config: stores.MemoryStore(_name(bucket))),
}

_AT_HAND = frozenset({"file", "direct", "memory"})
"""Of these nothing is cached: it is here already."""

SCHEMES = frozenset(_KINDS)
"""What a URI can begin with."""


@dataclass(frozen=True, slots=True)
class Uri:
    """A URI's parts: a known `scheme`, a `bucket`, and a `key`, which may be empty or a prefix.

    What takes a URI takes it in parts too, and does not cut it again. Errors: `InvalidUriError` for another scheme, and
    without a bucket.
    """

    scheme: str
    bucket: str
    key: str

    def __post_init__(self) -> None:
        _kind(self.scheme, str(self))
        if not self.bucket:
            raise InvalidUriError(f"the URI names no bucket: {_shown(str(self))!r}")

    @property
    def root(self) -> str:
        """The bucket's URI, as text."""
        return f"{self.scheme}://{self.bucket}"

    def __str__(self) -> str:
        return f"{self.root}/{self.key}"


def parse_uri(uri: str, config: Config | None = None) -> Uri:
    """The parts of `uri`. `config`, by default made of the environment, may name the account of `az://container`.

    Errors: `InvalidUriError`; `ConfigError` where the account's settings cannot be read; `TypeError` for a path.
    """
    if not isinstance(uri, str):
        raise TypeError(f"a URI is text, such as 's3://bucket/key' or 'file:///folder/name', not {type(uri).__name__}")
    scheme, separator, rest = uri.partition("://")
    bucket, key = _kind(scheme if separator else "", uri).split(rest, config)
    return Uri(scheme, bucket, key)


def parse_object_uri(uri: str, config: Config | None = None) -> Uri:
    """The parts of a `uri` that names one object; `config` and errors are as in :func:`parse_uri`."""
    parsed = parse_uri(uri, config)
    if not parsed.key:
        raise InvalidUriError(f"the URI names a bucket, but no key in it: {_shown(uri)!r}")
    return parsed


def _kind(scheme: str, uri: str) -> _Kind:
    if scheme not in _KINDS:
        known = ", ".join(f"{name}://" for name in _KINDS)
        raise InvalidUriError(f"not a URI of a known scheme ({known}): {_shown(uri)!r}")
    return _KINDS[scheme]


def _shown(uri: str) -> str:
    """The URI, as an error may show it: nothing that may hold a password, no query, which may hold a signature."""
    return "..." if "@" in uri else uri.partition("?")[0]


def open_store(
    uri: str | Uri, config: Config | None = None, *, trace: Hook | None = None, **settings: Any
) -> ParallelStore:
    """The store at `uri`, for `async with` inside a Trio run; keys are relative to the URI.

    A path in the URI is a folder: below `s3://bucket/train`, the key `a.jpg` is the object `train/a.jpg`. `config` is
    how the store is reached and how hard it is driven; `settings` are fields of :class:`s3dlio.Config`, in its place.
    `trace` is called with what happens to each request of a store behind HTTP, `docs/observing.md` says how.
    No I/O happens before the first request. Errors: `InvalidUriError`, `ConfigError`; `TypeError` where both are given,
    and for a setting there is not.
    """
    hide_proxy(settings)
    if config is not None and settings:
        raise TypeError("give a Config or single settings, not both")
    config = config or Config(**settings)
    parsed = uri if isinstance(uri, Uri) else parse_uri(uri, config)
    store = _KINDS[parsed.scheme].open(parsed.bucket, config)
    store.observer = None if trace is None else observer_of(trace)
    folder = parsed.key if not parsed.key or parsed.key.endswith("/") else f"{parsed.key}/"
    whole = _in_parts(PrefixStore(store, folder) if folder else store, parsed.bucket, folder, config)
    if not config.cache or parsed.scheme in _AT_HAND:
        return whole
    from .cache.store import cached

    return cached(whole, config)


def _in_parts(store: ObjectStore, bucket: str, folder: str, config: Config) -> ParallelStore:
    """`store`, with large objects moved in parallel parts, and its replicas beside it."""
    if not config.replicas:
        return ParallelStore(store, **_driven(config))
    replicas = [_replica(each, bucket, folder, config) for each in config.replicas]
    return ReplicatedStore(store, replicas, **_driven(config), max_attempts=config.max_attempts)


def _replica(given: str | tuple[str, Config], bucket: str, folder: str, config: Config) -> ParallelStore:
    """The `folder` of a replica of `bucket`, reached by the configuration that comes with it, or `config`."""
    uri, own = (given, config) if isinstance(given, str) else given
    return open_store(f"{uri.replace('{bucket}', bucket).rstrip('/')}/{folder}", replace(own, replicas=(), cache=""))


def _driven(config: Config) -> dict[str, int]:
    return {name: getattr(config, name) for name in ("part_size", "parts_in_flight", "memory_limit")}
