"""The public names: what is public, and that each says what it takes, in which unit, and how it fails."""

from __future__ import annotations

import builtins
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

import s3dlio

PUBLIC = (
    "s3dlio",
    "s3dlio.stores",
    "s3dlio.alignment",
    "s3dlio.blocking",
    "s3dlio.manifest",
    "s3dlio.numpy",
    "s3dlio.opentelemetry",
    "s3dlio.safetensors",
    "s3dlio.shards",
    "s3dlio.compat.s3torchconnector",
    "s3dlio.compat.s3torchconnector.dcp",
    "s3dlio.compat.s3torchconnector.lightning",
)
_WITH_BUILTINS = ("s3dlio", "s3dlio.blocking")
"""They have verbs of such names, and do not list them, as `import *` would put them in the place of Python's own."""

_MEASURED = re.compile(r"(?:.*_)?(?:size|sizes|bytes|timeout|offset|start|end|limit|position|length)")
_UNIT = re.compile(r"\b(?:bytes?|[KMG]iB|seconds|keys|entries|objects|parts|digits)\b")
_FAILS = re.compile(r"\bErrors?\b|Error\b|\braises?\b", re.IGNORECASE)


def names() -> Iterator[tuple[str, str]]:
    for module in map(import_module, PUBLIC):
        yield from ((module.__name__, name) for name in module.__all__)
    yield from ((module, name) for module in _WITH_BUILTINS for name in ("list", "open"))


def described(found: object) -> str:
    return inspect.getdoc(found) or ""


def methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Public functions of a class that are written in this package."""
    for name, found in inspect.getmembers(kind, inspect.isfunction):
        if (found.__module__ or "").startswith("s3dlio") and not name.startswith("_"):
            yield name, found


def parameters(function: Callable[..., Any]) -> Iterator[str]:
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in ("self", "cls") and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            yield name


def lacking(function: Callable[..., Any], text: str) -> Iterator[str]:
    for name in parameters(function):
        if not re.search(rf"\b{name.strip('_')}\b", text):
            yield f"says nothing of {name}"
        elif _MEASURED.fullmatch(name) and not _UNIT.search(text):
            yield f"does not say in which unit {name} is"


def faults(module: str, name: str) -> Iterator[str]:
    found = getattr(import_module(module), name)
    if isinstance(found, type):
        yield from class_faults(found)
    elif inspect.isfunction(found):
        yield from (f"{name}: {fault}" for fault in lacking(found, described(found)))
        if not _FAILS.search(described(found) + described(import_module(module))):
            yield f"{name}: says nothing of errors"


def class_faults(kind: type) -> Iterator[str]:
    text = "\n".join(described(each) for each in kind.__mro__ if each.__module__.startswith("s3dlio"))
    if not kind.__doc__:
        yield f"{kind.__name__}: no text of its own"
    if issubclass(kind, BaseException):
        return
    if not dataclasses.is_dataclass(kind) and inspect.isfunction(kind.__init__):
        yield from (f"{kind.__name__}: {fault}" for fault in lacking(kind.__init__, text + described(kind.__init__)))
    for name, function in methods(kind):
        if not described(function):
            yield f"{kind.__name__}.{name}: no text"
        yield from (f"{kind.__name__}.{name}: {fault}" for fault in lacking(function, described(function) + text))


@pytest.mark.parametrize(("module", "name"), sorted(names()))
def test_a_public_name_is_described(module: str, name: str) -> None:
    assert list(faults(module, name)) == []


@pytest.mark.parametrize("module", PUBLIC)
def test_a_public_package_has_what_it_lists_and_lists_what_it_has(module: str) -> None:
    package: ModuleType = import_module(module)
    assert sorted(package.__all__) == sorted(set(package.__all__))
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError):
        package.no_such_name  # noqa: B018


@pytest.mark.parametrize("module", PUBLIC)
def test_importing_all_names_replaces_none_of_pythons_own(module: str) -> None:
    assert set(import_module(module).__all__).isdisjoint(vars(builtins))


def test_what_opens_and_writes_has_names_to_annotate_with() -> None:
    assert inspect.signature(s3dlio.open_store).return_annotation == "ParallelStore"
    assert {"ParallelStore", "PartWriter", "ObjectStore"} <= set(s3dlio.__all__)


def test_completion_shows_the_public_names_alone() -> None:
    assert set(dir(s3dlio)) == {*s3dlio.__all__, "list", "open"}
    with pytest.raises(AttributeError) as caught:
        s3dlio.lsit  # noqa: B018
    assert (caught.value.name, caught.value.obj) == ("lsit", s3dlio)  # by these Python asks whether `list` was meant
