"""The surface: every public name of `s3torchconnector` is here, with its parameters; what is here besides is listed.

The installed original is walked, so that nothing has to be remembered. A path is that of a module below the root, a
name in it, a member of a class, or a parameter: `s3checkpoint.S3Checkpoint.reader(s3_uri)`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import s3torchconnector as original

from s3dlio.compat import s3torchconnector as ours

from .additions import ADDITIONS

OF_OUR_OWN = {
    *("arguments", "collation", "columns", "epochs", "errors", "objects", "ranks", "source", "uri"),
    *("s3reader.fetching", "s3reader.memory"),
    *("dcp.guards", "dcp.loading", "dcp.replaced", "dcp.reusing", "dcp.saved_tensor", "dcp.staging"),
    "lightning.folders",
    *("_s3client._s3client.reader_of", "_s3client.s3client_config.parts_in_flight"),
    *("_s3client.s3client_config.store_config", "_s3client._s3client.S3Client.pages"),
    *("_s3client._s3client.S3Client.store", "_s3client._s3client.S3Client.stored_object"),
    *("_s3client.MockS3Client.store", "dcp.s3_file_system.S3FileSystem.file_items"),
    *("dcp.s3_file_system.S3FileSystem.names_in", "dcp.s3_file_system.S3FileSystem.reusing_writer"),
    *("s3reader.s3reader.read_size", "s3reader.s3reader.seek_argument"),
    *("dcp.s3_file_system.S3StorageReader.read_data", "dcp.s3_file_system.S3StorageWriter.finish"),
    *("dcp.s3_file_system.S3StorageWriter.prepare_local_plan", "dcp.s3_file_system.S3StorageWriter.write_data"),
    *("s3reader.dcp_optimized.check_gap", "s3reader.dcp_optimized.group_ranges"),
    *("s3reader.s3reader.NamedReader", "s3reader.s3reader.FetchedReader"),
    *("s3reader.s3reader.check_bucket", "s3reader.s3reader.writable_view"),
    *("s3reader.sequential.SequentialS3Reader.readline", "s3reader.ranged.RangedS3Reader.readline"),
}
"""How it is made here, by path: modules, functions, methods that are inherited there. No program needs to know them."""

_TEXTS = {"s3reader.dcp_optimized.FALLBACK_GUIDANCE"}
"""Constants whose values are texts for people, and our own."""

_BEHIND_KWARGS: dict[str, Callable[[Any], object]] = {
    "dcp.s3_file_system.S3StorageWriter(endpoint)": lambda dcp: dcp.S3StorageWriter("r", "s3://b", endpoint="http://h"),
    "dcp.s3_file_system.S3StorageWriter(sync_files)": lambda dcp: dcp.S3StorageWriter("r", "s3://b", sync_files=True),
    "dcp.s3_file_system.S3StorageWriter(previous)": lambda dcp: dcp.S3StorageWriter("r", "s3://b", previous=None),
}
"""Parameters that no signature shows."""

_NAMELESS = ("self", "args", "kwargs")
"""Parameters that there is nothing to say about."""

_DATA_MODEL = ("__enter__", "__exit__", "__getitem__", "__getitems__", "__iter__", "__len__", "__next__")
"""Methods that Python or PyTorch calls, by position."""


def _module_paths(root: ModuleType) -> Iterator[str]:
    """The public modules below `root`, and `_s3client`, which the README documents; the root is the empty path."""
    yield ""
    for found in pkgutil.walk_packages(root.__path__, f"{root.__name__}."):
        path = found.name.removeprefix(f"{root.__name__}.")
        if all(part == "_s3client" or not part.startswith("_") for part in path.split(".")):
            yield path


_PATHS = tuple(_module_paths(original))
"""The modules that are compared."""


def _module(root: ModuleType, path: str) -> ModuleType:
    return importlib.import_module(f"{root.__name__}.{path}" if path else root.__name__)


def _constants(module: ModuleType) -> set[str]:
    """The upper-case names that the module's own source assigns."""
    assigned: set[str] = set()
    for node in ast.parse(inspect.getsource(module)).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        assigned |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in assigned if name.isupper() and not name.startswith("_")}


def _names(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What is defined in the module, or below it where it is a package, or is exported by it."""
    exported, constants = getattr(module, "__all__", ()), _constants(module)
    for name, value in sorted(vars(module).items()):
        home = getattr(value, "__module__", None) or ""
        is_own = home == module.__name__ or (hasattr(module, "__path__") and home.startswith(f"{module.__name__}."))
        is_defined = (inspect.isclass(value) or inspect.isfunction(value)) and is_own and not name.startswith("_")
        if name in exported or name in constants or is_defined:
            yield name, value


class _Surface:
    """The paths of one implementation, each with what must be the same of it."""

    def __init__(self, root: ModuleType) -> None:
        self.root = root
        self.told: dict[str, object] = {}
        self.texts: dict[str, str] = {}
        """What an editor shows of each function, method and class."""
        self.classes: dict[str, type] = {}
        """Each class once, by the path under which its members are told."""
        found = [(path, *each) for path in _PATHS for each in _names(_module(root, path))]
        for path, name, value in found:
            told = f"{path}.{name}".lstrip(".")
            is_new = inspect.isclass(value) and value not in self.classes.values() and told not in OF_OUR_OWN
            if is_new and self._is_home(value, path):
                self.classes[told] = value
        for path, name, value in found:
            self._add(f"{path}.{name}".lstrip("."), value)

    def _add(self, path: str, value: Any) -> None:
        if inspect.isclass(value):
            self.told[path] = "class"
            if path in self.classes:
                self._add_class(path, value)
        elif inspect.isfunction(value):
            self.told[path] = "function"
            self._add_parameters(path, value)
        else:
            self.told[path] = type(value) if path in _TEXTS else value

    def _is_home(self, kind: type, module_path: str) -> bool:
        """A class is looked at where it is defined, or, where that is no public module, where it is first met."""
        home = kind.__module__.removeprefix(self.root.__name__).lstrip(".")
        return home == module_path or home not in _PATHS

    def _add_class(self, path: str, kind: type) -> None:
        self._add_parameters(path, kind)
        for name, member in self._members(kind):
            self.told[f"{path}.{name}"] = _sort_of(member)
            if callable(getattr(kind, name)) and name not in _DATA_MODEL:
                self._add_parameters(f"{path}.{name}", getattr(kind, name))

    def _members(self, kind: type) -> Iterator[tuple[str, object]]:
        """The public attributes that a class defines, or gets from one that is met nowhere else."""
        own = [each for each in kind.__mro__ if each.__module__.startswith(self.root.__name__)]
        known = set(self.classes.values()) - {kind}
        for name in sorted({name for each in own if each not in known for name in vars(each)}):
            if not name.startswith("_") or name in (*_DATA_MODEL, "__call__"):
                yield name, inspect.getattr_static(kind, name)

    def _add_parameters(self, path: str, target: Any) -> None:
        self.texts[path] = inspect.getdoc(target) or ""
        for position, each in enumerate(_parameters(target)):
            place = None if each.kind in (each.KEYWORD_ONLY, each.VAR_KEYWORD) else position
            self.told[f"{path}({each.name})"] = (each.kind.name, place, _default(each))


def _sort_of(member: object) -> object:
    if isinstance(member, (property, classmethod, staticmethod)):
        return type(member).__name__
    return "method" if inspect.isfunction(member) else "value"


def _parameters(target: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(target).parameters.values())
    except ValueError:  # of a class made by another language
        return []


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return "required"
    return getattr(parameter.default, "__name__", None) or repr(parameter.default)


@pytest.fixture(scope="module")
def theirs() -> _Surface:
    return _Surface(original)


@pytest.fixture(scope="module")
def mine() -> _Surface:
    return _Surface(ours)


def _additions(theirs: _Surface, mine: _Surface) -> set[str]:
    """What is here and not there, the largest whole of each; and parameters that may be left out here alone."""
    extra = {path for path in mine.told if path not in theirs.told}
    wholes = {path for path in extra if not any(path.startswith((f"{each}.", f"{each}(")) for each in extra)}
    both = theirs.told.keys() & mine.told.keys()
    optional = {path for path in both if _only_left_out(theirs.told[path], mine.told[path])}
    hidden = {path for path, make in _BEHIND_KWARGS.items() if _accepts(make, ours) and not _accepts(make, original)}
    modules = set(_module_paths(ours)) - set(_PATHS)
    return {path for path in wholes if not _is_imported_there(path)} | optional | hidden | modules


def _is_imported_there(path: str) -> bool:
    """Whether the original's module has that name, though it is not defined there."""
    module_path, _, name = path.rpartition(".")
    return module_path in _PATHS and hasattr(_module(original, module_path), name)


def _only_left_out(theirs: object, mine: object) -> bool:
    if not isinstance(theirs, tuple) or not isinstance(mine, tuple):
        return False
    return theirs[:-1] == mine[:-1] and theirs[-1] == "required" and mine[-1] == "None"


def _accepts(make: Callable[[Any], object], root: ModuleType) -> bool:
    try:
        make(_module(root, "dcp"))
    except TypeError:
        return False
    return True


def test_everything_is_here(theirs: _Surface, mine: _Surface) -> None:
    assert len(theirs.told) > 300
    assert [path for path in theirs.told if path not in mine.told] == []


def test_everything_is_the_same_but_for_the_additions(theirs: _Surface, mine: _Surface) -> None:
    changed = {path: (told, mine.told[path]) for path, told in theirs.told.items() if mine.told[path] != told}
    assert {path: both for path, both in changed.items() if path not in ADDITIONS} == {}


def test_the_additions_are_those_of_the_table(theirs: _Surface, mine: _Surface) -> None:
    assert _additions(theirs, mine) == ADDITIONS.keys() | OF_OUR_OWN
    assert not ADDITIONS.keys() & OF_OUR_OWN


def test_classes_are_of_the_same_kinds(theirs: _Surface, mine: _Surface) -> None:
    """Whatever a class inherits of Python and PyTorch there, it inherits here; and of the package too."""
    for path, kind in theirs.classes.items():
        names = {each.__name__ for each in kind.__mro__}
        assert names <= {each.__name__ for each in mine.classes[path].__mro__}, path


def test_every_parameter_is_described(mine: _Surface) -> None:
    """In the docstring of its function, or of the class whose method it is."""
    undescribed = []
    for path in (each for each in mine.told if each.endswith(")")):
        owner, _, name = path.removesuffix(")").partition("(")
        text = mine.texts[owner] + mine.texts.get(owner.rpartition(".")[0], "")
        if owner not in OF_OUR_OWN and name not in _NAMELESS and not re.search(rf"`[^`]*\b{name}\b[^`]*`", text):
            undescribed.append(path)
    assert undescribed == []


def test_the_root_exports_the_same_names() -> None:
    assert sorted(ours.__all__) == sorted(original.__all__)


def test_the_version_is_that_of_the_original() -> None:
    assert isinstance(ours.__version__, str)
    assert ours.__version__ == original.__version__


def test_the_import_costs_nothing_beyond_torch() -> None:
    program = (
        "import sys, torch.utils.data; before = set(sys.modules); import s3dlio.compat.s3torchconnector;"
        "print({'botocore', 'numba', 'google.auth', 'boto3', 's3torchconnector'} & (set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout == "set()\n"
