"""The file system of distributed checkpoints, and the strategies that say where their files go."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from torch.distributed.checkpoint.filesystem import FileSystemBase, FileSystemReader, FileSystemWriter

from .contents import LINES
from .kit import Library, Place, case, process_group, refusing, tried

# --- the file system -------------------------------------------------------------------------------------------------


@case
def reading_a_stream(lib: Library, at: Place) -> object:
    with lib.file_system().create_stream(at.uri("files/lines"), "rb") as stream:
        return type(stream), stream.read() == LINES, stream.seek(4), stream.readline(), stream.closed


@case
def streams_of_each_constructor(lib: Library, at: Place) -> object:
    makers = lib.root.S3ReaderConstructor
    found = []
    for constructor in (None, makers.sequential(), makers.range_based(4), makers.default()):
        with lib.file_system(reader_constructor=constructor).create_stream(at.uri("alone"), "rb") as stream:
            found.append((type(stream), stream.read(5), stream.read()))
    return found


@case
def a_stream_without_ranges(lib: Library, at: Place) -> object:
    files = lib.file_system(reader_constructor=lib.root.S3ReaderConstructor.dcp_optimized())

    def read(name: str) -> object:
        with files.create_stream(at.uri(name), "rb") as stream:
            return stream.read()

    kind, text = tried(read, "alone")[1:]
    at.put(".metadata", b"of a checkpoint")
    return kind, text.split(". ")[0], read(f"{at.below}.metadata")


@case
def writing_a_stream(lib: Library, at: Place) -> object:
    with lib.file_system().create_stream(at.scratch("a/b"), "wb") as stream:
        stream.write(b"abc")
        before = at.names()
    return type(stream), before, at.get("a/b"), stream.closed


@case
def other_modes(lib: Library, at: Place) -> object:
    def opened(mode: Any) -> None:
        with lib.file_system().create_stream(at.scratch("a"), mode):
            pass

    found = [tried(opened, mode) for mode in ("r", "w", "ab", "r+b", "", None)]
    return [(kind, family, "rb" in text and "wb" in text) for kind, family, text in found]


@case
def a_stream_of_nothing(lib: Library, at: Place) -> object:
    def read() -> object:
        with lib.file_system().create_stream(at.uri("absent"), "rb") as stream:
            return stream.read()

    return tried(read)


@case
def an_exception_while_a_stream_is_read(lib: Library, at: Place) -> object:
    def read() -> None:
        with lib.file_system().create_stream(at.uri("alone"), "rb") as stream:
            stream.read(2)
            raise LookupError("the caller's own")

    return tried(read)


WRONG_PATHS = ("x", "", "s3:/b/k", "https://b/k", "s3://", "/tmp/x")


@case
def wrong_paths(lib: Library, at: Place) -> object:
    files = lib.file_system()

    def streamed(path: str) -> None:
        with files.create_stream(path, "rb"):
            pass

    steps: list[Callable[[str], object]] = [
        streamed,
        files.exists,
        files.rm_file,
        partial(files.rename, new_path=at.scratch("x")),
    ]
    return [[tried(step, path) for path in WRONG_PATHS] for step in steps]


@case
def paths_that_are_no_strings(lib: Library, at: Place) -> object:
    """A path object drops one of the slashes, so it names no bucket."""
    files = lib.file_system()
    path = PurePosixPath(at.uri("alone"))
    return (
        tried(lambda: files.exists(path)),
        files.concat_path(path, "x"),
        files.init_path(path),
        tried(lambda: files.exists(None)),
    )


@case
def joined_paths(lib: Library, at: Place) -> object:
    files = lib.file_system()
    pairs = [
        ("s3://b/k", "x"),
        ("s3://b/k/", "x"),
        ("s3://b", ".metadata"),
        ("s3://b/k", "x/y"),
        ("s3://b/k", ""),
        ("s3://b/k", "/x"),
    ]
    return (
        [files.concat_path(*pair) for pair in pairs],
        files.concat_path(path="s3://b", suffix="x"),
        tried(lambda: files.concat_path(None, "x")),
    )


@case
def initial_paths(lib: Library, at: Place) -> object:
    files = lib.file_system()
    return [files.init_path(path) for path in ("s3://b/k", "s3://b/k/", "anything", Path("x/y"))]


@case
def folders_are_not_made(lib: Library, at: Place) -> object:
    return lib.file_system().mkdir(at.scratch("folder")), lib.file_system().mkdir("no uri"), at.names()


@case
def what_exists(lib: Library, at: Place) -> object:
    files = lib.file_system()
    paths = (
        "alone",
        "absent",
        "special/a b",
        "special/a%20b",
        "special/a%2520b",
        "folders/",
        "train",
        "special/é/ü 日本",
    )
    return [files.exists(at.uri(path)) for path in paths], files.exists("s3://no-such-bucket-anywhere/key")


@case
def existence_that_is_not_known(lib: Library, at: Place) -> object:
    found = []
    for status, code in ((403, "AccessDenied"), (400, "InvalidRequest")):
        with refusing(status, code) as server:
            at.patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
            files = lib.file_system(s3client_config=lib.config(max_attempts=2))
            found.append(tried(files.exists, "s3://bucket/key")[:2])
    return found


@case
def removing_files(lib: Library, at: Place) -> object:
    for name in ("a b", "c"):
        at.put(name, b"")
    gives = [lib.file_system().rm_file(at.scratch(name)) for name in ("a b", "absent")]
    return gives, at.names()


@case
def removing_what_cannot_be_removed(lib: Library, at: Place) -> object:
    """A failure is logged and swallowed."""
    seen: list[int] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.levelno)  # type: ignore[method-assign]
    log = logging.getLogger(lib.module("dcp.s3_file_system").__name__)
    log.addHandler(handler)
    try:
        with refusing(403, "AccessDenied") as server:
            at.patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
            gives = tried(lambda: lib.file_system().rm_file("s3://bucket/key"))
    finally:
        log.removeHandler(handler)
    return gives, logging.ERROR in seen


@case
def renaming(lib: Library, at: Place) -> object:
    at.put("old", b"content")
    at.put("there already", b"other content")
    files = lib.file_system()
    first = files.rename(at.scratch("old"), at.scratch("new"))
    files.rename(old_path=at.scratch("new"), new_path=at.scratch("there already"))
    return first, at.names(), at.get("there already")


@case
def renaming_special_keys(lib: Library, at: Place) -> object:
    for name in ("a b", "a%20c", "a+b", "é/ü 日本", "x#y?z"):
        at.put(name, name.encode())
        lib.file_system().rename(at.scratch(name), at.scratch(f"new/{name}"))
    return sorted(at.names()), at.get("new/a%20c"), at.get("new/x#y?z")


@case
def renaming_what_is_not_there(lib: Library, at: Place) -> object:
    return tried(lambda: lib.file_system().rename(at.scratch("absent"), at.scratch("new"))), at.names()


@case
def renaming_across_buckets(lib: Library, at: Place) -> object:
    at.put("old", b"content")
    return tried(lambda: lib.file_system().rename(at.scratch("old"), f"s3://{at.other_bucket}/new")), at.names()


@case
def checkpoint_ids(lib: Library, at: Place) -> object:
    ids = [
        "s3://b/k",
        "s3://b",
        "s3://b/",
        *WRONG_PATHS,
        Path("/tmp/x"),
        Path("s3://b/k"),
        PurePosixPath("s3://b/k"),
        5,
        None,
    ]
    kinds = (lib.dcp.S3FileSystem, lib.dcp.S3StorageWriter, lib.dcp.S3StorageReader)
    return [[tried(kind.validate_checkpoint_id, each) for each in ids] for kind in kinds]


@case
def a_file_system_with_a_client_of_its_own(lib: Library, at: Place) -> object:
    at.patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    client = lib.client(endpoint=at.server.endpoint)
    positional = lib.dcp.S3FileSystem("ignored", client, None, None)
    return lib.file_system(s3_client=client).exists(at.uri("alone")), positional.exists(at.uri("absent"))


@case
def what_the_classes_are(lib: Library, at: Place) -> object:
    kinds = lib.dcp
    pairs = (
        (kinds.S3FileSystem, FileSystemBase),
        (kinds.S3StorageWriter, FileSystemWriter),
        (kinds.S3StorageReader, FileSystemReader),
    )
    return (
        [issubclass(*pair) for pair in pairs],
        lib.module("dcp.s3_file_system").StorageMetadata("x"),
        lib.dcp.__name__.rpartition(".")[2],
    )


# --- prefix strategies -----------------------------------------------------------------------------------------------


def _told(strategy: Any, ranks: Any = range(5)) -> object:
    return (
        [strategy(rank) for rank in ranks],
        strategy.generate_prefix(1),
        {name: value for name, value in vars(strategy).items() if name[0] != "_"},
    )


@case
def the_default_strategy(lib: Library, at: Place) -> object:
    return _told(lib.dcp.DefaultPrefixStrategy(), (0, 1, 12, 1000))


@case
def binary_prefixes(lib: Library, at: Place) -> object:
    return [
        _told(lib.dcp.BinaryPrefixStrategy(*given))
        for given in ((), (3,), (None, 4), (0, 4, 4), (None, 2, 9), (None, 1, 1))
    ]


@case
def hexadecimal_prefixes(lib: Library, at: Place) -> object:
    return [
        _told(lib.dcp.HexPrefixStrategy(*given), range(18))
        for given in ((), (7, 4), (None, 1, 16), (None, 1, 17), (None, 3, 300))
    ]


@case
def prefixes_by_keyword(lib: Library, at: Place) -> object:
    strategy = lib.dcp.HexPrefixStrategy(prefix_count=3, epoch_num=2, min_prefix_length=5)
    return (
        _told(strategy),
        tried(lambda: lib.dcp.HexPrefixStrategy(base=16)),
        tried(lambda: lib.dcp.BinaryPrefixStrategy(1, 2, 3, 4)),
    )


@case
def round_robin_prefixes(lib: Library, at: Place) -> object:
    kind = lib.strategies.RoundRobinPrefixStrategy
    return _told(kind(["a", "b", "c"], 5)), _told(kind(["one"])), _told(kind(user_prefixes=("x/y", "z"), epoch_num=0))


@case
def prefixes_that_are_refused(lib: Library, at: Place) -> object:
    binary, round_robin = lib.dcp.BinaryPrefixStrategy, lib.strategies.RoundRobinPrefixStrategy
    nothing: tuple[Any, ...] = ([], (), None, "")
    return [
        *(tried(binary, min_prefix_length=wrong) for wrong in (0, -3, "4", None)),
        *(tried(binary, epoch_num=wrong) for wrong in ("1", 1.5, [1])),
        *(tried(binary, prefix_count=wrong) for wrong in (0, -1, "3", 2.0)),
        *(tried(round_robin, wrong) for wrong in nothing),
    ]


@case
def epochs_that_are_nearly_refused(lib: Library, at: Place) -> object:
    return [
        lib.dcp.HexPrefixStrategy(epoch, 2)(0) for epoch in (0, -1, True, 10**6)
    ], lib.strategies.RoundRobinPrefixStrategy(["a"], "x")(0)


@case
def abstract_strategies(lib: Library, at: Place) -> object:
    kinds = (lib.dcp.S3PrefixStrategyBase, lib.dcp.NumericPrefixStrategy)
    return (
        [tried(kind) for kind in kinds],
        [sorted(kind.__abstractmethods__) for kind in kinds],
        tried(lambda: lib.dcp.NumericPrefixStrategy(2)),
    )


@case
def a_strategy_of_somebody_s_own(lib: Library, at: Place) -> object:
    class Custom(lib.dcp.S3PrefixStrategyBase):  # type: ignore[misc, name-defined]
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def generate_prefix(self, rank: int) -> str:
            return f"custom_{self.name}/{rank}/"

    return _told(Custom("x"))


@case
def a_number_system_of_somebody_s_own(lib: Library, at: Place) -> object:
    class Octal(lib.dcp.NumericPrefixStrategy):  # type: ignore[misc, name-defined]
        def __init__(self, **options: Any) -> None:
            super().__init__(base=8, **options)

        def _format_number(self, number: int, length: int) -> str:
            return format(number, f"0{length}o")

    return _told(Octal(min_prefix_length=2, prefix_count=70), (0, 1, 8, 69, 70)), _told(Octal(epoch_num=1))


@case
def prefixes_of_a_process_group(lib: Library, at: Place) -> object:
    with process_group(1, 6):
        inside = lib.dcp.BinaryPrefixStrategy(), lib.dcp.BinaryPrefixStrategy(prefix_count=2)
    return [_told(each, range(7)) for each in inside]


@case
def strategies_travel(lib: Library, at: Place) -> object:
    strategies = [
        lib.dcp.DefaultPrefixStrategy(),
        lib.dcp.HexPrefixStrategy(1, 4, 3),
        lib.strategies.RoundRobinPrefixStrategy(["a"]),
    ]
    return [_told(pickle.loads(pickle.dumps(each))) for each in strategies]
