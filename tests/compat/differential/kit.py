"""The same steps with `s3torchconnector` and with ours, on one server, and their outcomes in a form that compares.

A case is a function of a :class:`Library` and a :class:`Place`. What it gives is described (:func:`described`): values
with their types, objects of either library by their class names and what they tell. A step that may raise is run by
:func:`tried`, which gives the family of the exception and, where programs match on it, the text. A case that raises
outside of that is wrong, so that a slip in a case cannot pass for two equal outcomes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import io
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import s3torchconnector
import torch
import torch.distributed
from torch.distributed.checkpoint.api import CheckpointException
from torch.testing._internal.distributed.fake_pg import FakeStore

from s3dlio.compat import s3torchconnector as compat

from ...servers.loopback import Handler, listening
from ...servers.seaweedfs import SeaweedFS

REGION = "us-east-1"
_PART_SIZES = itertools.count((8 << 20) + 1)


@dataclass(frozen=True)
class Library:
    """One of the two implementations: its modules, and short ways to what most cases begin with."""

    name: str
    package: str

    def module(self, path: str) -> Any:
        """A module below the root."""
        return importlib.import_module(f"{self.package}.{path}" if path else self.package)

    @property
    def root(self) -> Any:
        return self.module("")

    @property
    def s3client(self) -> Any:
        return self.module("_s3client")

    @property
    def s3reader(self) -> Any:
        return self.module("s3reader")

    @property
    def dcp(self) -> Any:
        return self.module("dcp")

    @property
    def strategies(self) -> Any:
        return self.module("dcp.s3_prefix_strategy")

    @property
    def lightning(self) -> Any:
        return self.module("lightning")

    def config(self, **fields: Any) -> Any:
        return self.root.S3ClientConfig(**fields)

    def own_config(self, **fields: Any) -> Any:
        """A configuration that no other case has, for cases in which nothing may be left over from another one."""
        return self.config(part_size=next(_PART_SIZES), **fields)

    def client(self, **options: Any) -> Any:
        return self.s3client.S3Client(REGION, **options)

    def checkpoint(self, **options: Any) -> Any:
        return self.root.S3Checkpoint(REGION, **options)

    def mapped(self, uri: Any, **options: Any) -> Any:
        return self.root.S3MapDataset.from_prefix(uri, region=REGION, **options)

    def iterable(self, uri: Any, **options: Any) -> Any:
        return self.root.S3IterableDataset.from_prefix(uri, region=REGION, **options)

    def file_system(self, **options: Any) -> Any:
        return self.dcp.S3FileSystem(REGION, **options)


ORIGINAL = Library("original", "s3torchconnector")
OURS = Library("ours", "s3dlio.compat.s3torchconnector")


@dataclass
class Place:
    """Where a case happens. What lies in `bucket` is only read; what a case writes is below `below` and goes again."""

    server: SeaweedFS
    client: Any
    files: Path
    patch: pytest.MonkeyPatch = field(default_factory=pytest.MonkeyPatch)
    below: str = "scratch/"
    """What the keys begin with that a case writes. Each has its own: this server's folders outlive their objects."""

    bucket = "compared"
    public_bucket = "public"
    _used_other: bool = False

    @property
    def other_bucket(self) -> str:
        """A second bucket, empty."""
        self._used_other = True
        return "compared-other"

    def folder(self) -> Path:
        """A fresh folder of this machine."""
        return Path(tempfile.mkdtemp(dir=self.files))

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    def scratch(self, name: str = "") -> str:
        return self.uri(f"{self.below}{name}")

    def put(self, name: str, body: bytes, *, bucket: str | None = None) -> str:
        """Write an object below `below`, by neither library; its key is returned."""
        key = f"{self.below}{name}"
        self.client.put_object(Bucket=bucket or self.bucket, Key=key, Body=body)
        return key

    def get(self, name: str, *, bucket: str | None = None) -> bytes:
        """What lies below `below`, read by neither library."""
        answer = self.client.get_object(Bucket=bucket or self.bucket, Key=f"{self.below}{name}")
        body: bytes = answer["Body"].read()
        return body

    def names(self, prefix: str = "", *, bucket: str | None = None) -> list[str]:
        """The names of what lies below `below`, listed by neither library."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket or self.bucket, Prefix=f"{self.below}{prefix}"
        )
        return [each["Key"].removeprefix(self.below) for page in pages for each in page.get("Contents", ())]

    def clear(self) -> None:
        """Remove what a case wrote."""
        for bucket in (self.bucket, *([self.other_bucket] if self._used_other else [])):
            for name in self.names(bucket=bucket):
                self.client.delete_object(Bucket=bucket, Key=f"{self.below}{name}")
        self._used_other = False


Steps = Callable[[Library, Place], object]


@dataclass(frozen=True)
class Case:
    """Steps that have the same outcome with both."""

    name: str
    steps: Steps


@dataclass(frozen=True)
class Difference:
    """Steps that have another outcome with ours, on purpose: both outcomes, and why."""

    name: str
    steps: Steps
    original: object
    ours: object
    why: str


CASES: dict[str, Case] = {}
DIFFERENCES: dict[str, Difference] = {}


def case(steps: Steps) -> Steps:
    """Register a case, under the area its module is named for and its own name."""
    name = _name_of(steps)
    assert name not in CASES, name
    CASES[name] = Case(name, steps)
    return steps


def difference(*, original: object, ours: object, why: str) -> Callable[[Steps], Steps]:
    """Register a difference."""

    def register(steps: Steps) -> Steps:
        name = _name_of(steps).removeprefix("differences-")
        assert name not in DIFFERENCES, name
        DIFFERENCES[name] = Difference(name, steps, described(original), described(ours), why)
        return steps

    return register


def _name_of(steps: Steps) -> str:
    area = steps.__module__.rpartition(".")[2].removeprefix("cases_")
    return f"{area}-{steps.__name__}"


def outcome(compared: Case | Difference, library: Library, place: Place) -> object:
    """What the steps give with one library. The environment and the bucket are afterwards as before."""
    with pytest.MonkeyPatch.context() as patch:
        place.patch, place.below = patch, f"scratch/{compared.name}/"
        try:
            return described(compared.steps(library, place))
        finally:
            place.clear()


# --- exceptions ------------------------------------------------------------------------------------------------------


def gives(value: object = None) -> tuple[str, object]:
    """The outcome of a step that gives `value`."""
    return "gives", described(value)


def raises(family: str, text: str = "") -> tuple[str, str, str]:
    """The outcome of a step that raises."""
    return "raises", family, text


def tried(
    step: Callable[..., object], *arguments: Any, unusual: type[BaseException] | tuple[()] = (), **named: Any
) -> tuple[Any, ...]:
    """What `step` gives or raises, called with the arguments.

    Errors: those that a slip in a case has too (`AttributeError`, `ImportError`), unless they are what `unusual`
    says; and what ends a program or a test.
    """
    try:
        return gives(step(*arguments, **named))
    except BaseException as error:
        if isinstance(error, (NameError, AttributeError, ImportError)) and not isinstance(error, unusual):
            raise
        if not isinstance(error, Exception) and type(error).__name__ not in _NOT_EXCEPTIONS:
            raise
        return failure(error)


_NOT_EXCEPTIONS = ("PanicException", "CheckpointException")
"""Errors that are no `Exception`: Rust's, and PyTorch's of distributed checkpoints."""


def failure(error: BaseException) -> tuple[str, str, str]:
    """The outcome that an exception is."""
    return raises(family(error), _text(error))


def family(error: BaseException) -> str:
    """`S3Exception`, or the nearest class that neither library defines."""
    if isinstance(error, (s3torchconnector.S3Exception, compat.S3Exception)):
        return "S3Exception"
    return next(kind.__name__ for kind in type(error).__mro__ if not kind.__module__.startswith(("s3torch", "s3dlio")))


_TEXTS_OF_THEIR_OWN = (TypeError, AttributeError, ImportError, OverflowError, io.UnsupportedOperation)
"""Whose texts are Python's or Rust's own and differ between their versions."""

_CUT_AFTER = (s3torchconnector.s3reader.dcp_optimized.FIND_ITEM_ERROR_PREFIX, "Client error: Unknown", "S3 stream ")
"""Texts that are known by their beginnings; what follows tells a reader, not a program, more."""


def _text(error: BaseException) -> str:
    if isinstance(error, CheckpointException):
        return "; ".join(f"{rank}: {failure(each)[1:]}" for rank, (each, _) in sorted(error.failures.items()))
    if isinstance(error, _TEXTS_OF_THEIR_OWN) or family(error) == "PanicException":
        return ""
    line = str(error).partition("\n")[0]
    return next((beginning for beginning in _CUT_AFTER if line.startswith(beginning)), line)


# --- values ----------------------------------------------------------------------------------------------------------

_SHOWN = 300
"""Longest text or bytes that are compared as they are; longer ones by their digest."""

_TOLD: Mapping[str, tuple[str, ...]] = {
    "SequentialS3Reader": ("bucket", "key", "closed"),
    "RangedS3Reader": ("bucket", "key", "closed"),
    "DCPOptimizedS3Reader": ("bucket", "key", "closed"),
    "S3Writer": ("closed",),
    "ObjectInfo": ("key", "etag", "size", "last_modified", "storage_class", "restore_status"),
    "HeadObjectResult": ("etag", "size", "last_modified", "storage_class", "restore_status"),
    "RestoreStatus": ("in_progress", "expiry"),
    "ListObjectResult": ("object_info", "common_prefixes"),
}
"""What objects of the libraries tell, by class name."""


UNRELEASED = ("requester_pays",)
"""Fields that the original has on its main branch, but not in the version that is compared."""


def described(value: Any) -> object:
    """A value as tuples, lists and texts, which compare whoever made the value, and are described by themselves.

    Errors: `TypeError` for a value of another kind: a case has to say what counts about it.
    """
    if value is None or isinstance(value, (bool, int, float, complex, PurePath, torch.dtype, torch.Size, slice)):
        return repr(value)
    if isinstance(value, str):
        return value if len(value) <= _SHOWN else _digest("str", value.encode())
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        return f"{type(value).__name__} {data!r}" if len(data) <= _SHOWN else _digest(type(value).__name__, data)
    if isinstance(value, type):
        return f"class {value.__name__}"
    if isinstance(value, BaseException):
        return failure(value)
    if isinstance(value, torch.Tensor):
        return (
            *_array(value.detach().cpu().reshape(-1).view(torch.uint8).numpy()),
            str(value.dtype),
            str(tuple(value.shape)),
        )
    if isinstance(value, (np.ndarray, np.generic)):
        return (*_array(np.asarray(value)), str(value.dtype), str(value.shape))
    return _described_container(value)


def _described_container(value: Any) -> object:
    name = type(value).__name__
    if name in _TOLD:
        return name, *((each, described(getattr(value, each))) for each in _TOLD[name])
    if dataclasses.is_dataclass(value):
        shown = [each.name for each in dataclasses.fields(value) if each.name not in UNRELEASED]
        return name, *((each, described(getattr(value, each))) for each in shown)
    if isinstance(value, Mapping):
        return name, *sorted((str(described(key)), described(each)) for key, each in value.items())
    if isinstance(value, (set, frozenset)):
        return name, sorted(map(str, map(described, value)))
    if isinstance(value, list):
        return [described(each) for each in value]
    if isinstance(value, tuple):
        parts = tuple(map(described, value))
        return (name, *parts) if hasattr(value, "_fields") else parts
    raise TypeError(f"a case cannot give {value!r}: say what counts about it")


def _array(value: Any) -> tuple[str, str]:
    return "array", hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()


def _digest(name: str, data: bytes) -> str:
    return f"{name} of {len(data)}, {hashlib.sha256(data).hexdigest()}"


# --- objects from somebody's own functions ---------------------------------------------------------------------------


@dataclass
class Body:
    """An object for a reader that is made by hand: the two functions it wants, and how they were called."""

    data: bytes
    piece: int = 7
    calls: list[tuple[int | None, int | None]] = field(default_factory=list)
    asked: int = 0

    def info(self) -> SimpleNamespace:
        """The size, as a HEAD would tell it."""
        self.asked += 1
        return SimpleNamespace(size=len(self.data))

    def stream(self, start: int | None = None, end: int | None = None) -> Iterator[bytes]:
        """The bytes in small pieces."""
        self.calls.append((start, end))
        wanted = self.data[start:end]
        return (wanted[at : at + self.piece] for at in range(0, len(wanted), self.piece))


TEXT = b"0123456789abcdefghij"


def sequential_over(lib: Library, body: Body) -> Any:
    return lib.s3reader.SequentialS3Reader("bucket", "key", body.info, body.stream)


def ranged_over(lib: Library, body: Body, buffer_size: int | None = None) -> Any:
    return lib.s3reader.RangedS3Reader("bucket", "key", body.info, body.stream, buffer_size)


def generic_over(lib: Library, data: bytes = TEXT) -> list[Any]:
    """A reader of each kind that reads anywhere."""
    return [sequential_over(lib, Body(data)), *(ranged_over(lib, Body(data), size) for size in (None, 5, 0))]


@contextmanager
def process_group(rank: int, world_size: int) -> Iterator[None]:
    """This process as one of many, while the block runs. The others are not there."""
    torch.distributed.init_process_group("fake", rank=rank, world_size=world_size, store=FakeStore())
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


# --- a server that only says no --------------------------------------------------------------------------------------


@dataclass
class Listener:
    """A server's address, and the requests it got: method, path and headers."""

    endpoint: str
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)


@contextmanager
def refusing(status: int, code: str) -> Iterator[Listener]:
    """A server that answers every request with one error of S3, while the block runs."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as told</Message></Error>".encode()

    class Refusal(Handler):
        def _answer(self) -> None:
            self.body()
            listener.requests.append(
                (self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
            )
            self.answer(status, body, {"content-type": "application/xml"})

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    with listening(Refusal) as endpoint:
        listener = Listener(endpoint)
        yield listener
