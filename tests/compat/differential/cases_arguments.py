"""Arguments of the wrong type or value: the class of the exception and its text, to the letter."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from s3torchconnector.s3reader.dcp_optimized import FIND_ITEM_ERROR_PREFIX

from .kit import REGION, TEXT, Body, Library, Place, case, family, ranged_over, sequential_over, tried

RANGES = ((2, 9), (9, 15))
OF_NO_USE = (5, "text", b"bytes", None, 1.5, [1, 2])


def _said(step: Callable[..., object], *arguments: Any, **named: Any) -> object:
    """The class and the first line, or the type of what came of it. What follows the first line is our own."""
    try:
        return type(step(*arguments, **named)).__name__
    except Exception as error:
        text = str(error).partition("\n")[0]
        return family(error), FIND_ITEM_ERROR_PREFIX if text.startswith(FIND_ITEM_ERROR_PREFIX) else text


def _said_of_each(step: Callable[[Any], object], values: Any = OF_NO_USE) -> list[object]:
    return [_said(step, value) for value in values]


def _optimized(lib: Library) -> Any:
    body = Body(TEXT)
    items = [lib.s3reader.ItemRange(*each) for each in RANGES]
    reader = lib.s3reader.DCPOptimizedS3Reader("bucket", "key", items, body.info, body.stream)
    reader.seek(RANGES[0][0])
    return reader


MAKERS: tuple[Callable[[Library], Any], ...] = (
    lambda lib: sequential_over(lib, Body(TEXT)),
    lambda lib: ranged_over(lib, Body(TEXT)),
    lambda lib: ranged_over(lib, Body(TEXT), 0),
    _optimized,
)


def _by_readers(lib: Library, method: str, *before: Any, values: Any = OF_NO_USE) -> object:
    def of_one(make: Callable[[Library], Any]) -> list[object]:
        return _said_of_each(lambda value: getattr(make(lib), method)(*before, value), values)

    return [of_one(make) for make in MAKERS]


@case
def filling_what_cannot_be_filled(lib: Library, at: Place) -> object:
    return _by_readers(lib, "readinto", values=(*OF_NO_USE, memoryview(b"abcd")))


@case
def filling_nothing(lib: Library, at: Place) -> object:
    return [_said(make(lib).readinto, b"") for make in MAKERS[:1]]


@case
def reading_no_number_of_bytes(lib: Library, at: Place) -> object:
    return _by_readers(lib, "read")


@case
def reading_lines_of_no_length(lib: Library, at: Place) -> object:
    return _by_readers(lib, "readline"), _by_readers(lib, "readlines")


@case
def seeking_to_no_position(lib: Library, at: Place) -> object:
    return _by_readers(lib, "seek", values=(*OF_NO_USE, -1))


@case
def seeking_from_no_origin(lib: Library, at: Place) -> object:
    return _by_readers(lib, "seek", 3, values=("text", b"bytes", None, 1.5, [1], 7, -1))


@case
def readers_of_what_is_none(lib: Library, at: Place) -> object:
    body = Body(TEXT)
    kinds = (lib.s3reader.SequentialS3Reader, lib.s3reader.RangedS3Reader)
    names = [("", "k"), (None, "k"), ("b", ""), (5, "k")]
    return [
        _said(lambda kind, name: kind(*name, body.info, body.stream), each, name) for each in kinds for name in names
    ]


@case
def sizes_of_buffers(lib: Library, at: Place) -> object:
    return _said_of_each(lambda size: ranged_over(lib, Body(TEXT), size).read(3), (*OF_NO_USE, -1, np.int64(4)))


@case
def ranges_that_are_none(lib: Library, at: Place) -> object:
    body = Body(TEXT)

    def make(ranges: Any) -> object:
        items = [lib.s3reader.ItemRange(*each) for each in ranges] if isinstance(ranges, list) else ranges
        return lib.s3reader.DCPOptimizedS3Reader("b", "k", items, body.info, body.stream)

    wrong: tuple[Any, ...] = (
        [],
        None,
        5,
        [(0, 0)],
        [(5, 2)],
        [(-1, 2)],
        [(4, 6), (1, 2)],
        [(1, 5), (3, 8)],
        [(1, 2), (5, 4)],
    )
    return _said_of_each(make, wrong)


@case
def gaps_of_no_size(lib: Library, at: Place) -> object:
    body, item = Body(TEXT), lib.s3reader.ItemRange(0, 2)
    make, gaps = lib.s3reader.S3ReaderConstructor.dcp_optimized, (-1, -math.inf, True)
    return (
        _said_of_each(
            lambda gap: lib.s3reader.DCPOptimizedS3Reader("b", "k", [item], body.info, body.stream, gap),
            (*OF_NO_USE, *gaps),
        ),
        _said_of_each(make, gaps),
        tried(make, "text"),  # the original compares it, and says what Python says of that
    )


@case
def a_constructor_that_was_told_nothing(lib: Library, at: Place) -> object:
    constructor, body = lib.s3reader.S3ReaderConstructor.dcp_optimized(), Body(TEXT)
    named = {"bucket": "b", "key": "k", "get_object_info": body.info, "get_stream": body.stream}
    return _said(constructor, **named), _said(constructor.set_item_ranges_by_file, [1], {}, "s3://b/k")


URIS = (None, "", 5, b"s3://b/k", ["s3://b/k"], Path("s3://b/k"), "s4://b/k", "s3:/b/k", "S3://b/k", "s3://", "s3:///k")


@case
def what_is_no_uri(lib: Library, at: Place) -> object:
    root, plugin = lib.root, lib.lightning.S3LightningCheckpoint(REGION)
    steps: list[Callable[[Any], object]] = [
        lib.checkpoint().reader,
        lib.checkpoint().writer,
        lambda uri: len(lib.mapped(uri)),
        lambda uri: next(iter(lib.iterable(uri))),
        lambda uri: len(root.S3MapDataset.from_objects([uri], region=REGION)),
        lambda uri: list(root.S3IterableDataset.from_objects([uri], region=REGION)),
        lambda uri: plugin.save_checkpoint({}, uri),
        plugin.load_checkpoint,
        plugin.remove_checkpoint,
    ]
    return [_said_of_each(step, URIS) for step in steps]


@case
def what_is_no_path_of_a_file_system(lib: Library, at: Place) -> object:
    system = lib.file_system()
    steps: list[Callable[[Any], object]] = [
        system.exists,
        system.rm_file,
        lambda path: system.rename(path, "s3://b/k"),
        lambda path: system.create_stream(path, "rb").__enter__(),
        lambda path: system.concat_path(path, "x"),
        lambda path: system.concat_path("s3://b", path),
        lib.dcp.S3FileSystem.validate_checkpoint_id,
    ]
    modes = ("r", "w", "ab", None, 5)
    return (
        [_said_of_each(step, [uri for uri in URIS if not isinstance(uri, Path)]) for step in steps],
        _said_of_each(lambda mode: system.create_stream("s3://b/k", mode).__enter__(), modes),
        _said(system.rename, "s3://a/k", "s3://b/k"),
    )


@case
def prefix_strategies_of_no_use(lib: Library, at: Place) -> object:
    kinds = (lib.strategies.BinaryPrefixStrategy, lib.strategies.HexPrefixStrategy)
    wrong: dict[str, tuple[Any, ...]] = {
        "min_prefix_length": (0, -1, "3", None, 1.5),
        "epoch_num": ("1", 1.0),
        "prefix_count": (0, -2, "3", 1.5),
    }
    return [_said(kind, **{name: value}) for kind in kinds for name, values in wrong.items() for value in values], [
        _said_of_each(kind(), (None, "1", 1.5, -1)) for kind in kinds
    ]


@case
def folders_of_no_use(lib: Library, at: Place) -> object:
    return _said_of_each(lambda folders: lib.strategies.RoundRobinPrefixStrategy(folders)(1), ([], None, (), "ab", 5))


@case
def comments_of_a_user_agent(lib: Library, at: Place) -> object:
    agent = lib.module("_user_agent").UserAgent
    return _said_of_each(agent, ("x", ("x",), 5)), _said_of_each(lambda comments: agent(comments).prefix, ([5],))


@case
def names_that_are_no_texts(lib: Library, at: Place) -> object:
    client = lib.client()
    steps: list[Callable[[Any], object]] = [
        lambda name: client.get_object(name or 5, "k").read(),
        lambda name: client.get_object(at.bucket, name).read(),
        lambda name: client.put_object(name, "k"),
        lambda name: client.put_object(at.bucket, name),
        lambda name: client.head_object(name, "k"),
        lambda name: client.head_object(at.bucket, name),
        lambda name: client.delete_object(name, "k"),
        lambda name: client.delete_object(at.bucket, name),
        lambda name: client.copy_object(name, "k", at.bucket, "k"),
        lambda name: client.copy_object(at.bucket, name, at.bucket, "k"),
        lambda name: client.copy_object(at.bucket, "k", name, "k"),
        lambda name: client.copy_object(at.bucket, "k", at.bucket, name),
        lambda name: next(client.list_objects(name)),
        lambda name: next(client.list_objects(at.bucket, name)),
        lambda name: next(client.list_objects(at.bucket, "", name)),
    ]
    names: tuple[Any, ...] = (5, b"bytes", None, 1.5, [], "\ud800")
    return [_said_of_each(step, names) for step in steps], _said_of_each(
        lambda storage_class: client.put_object(at.bucket, "k", storage_class), names[:2]
    )


@case
def pages_of_no_size(lib: Library, at: Place) -> object:
    return _said_of_each(
        lambda most: next(lib.client().list_objects(at.bucket, "none", "", most)), (*OF_NO_USE[1:], -1)
    )


@case
def settings_of_the_wrong_type(lib: Library, at: Place) -> object:
    wrong: dict[str, tuple[Any, ...]] = {
        "throughput_target_gbps": ("1", None, [1]),
        "part_size": ("8", 1.5, None, 0, -1, 5 << 31),
        "unsigned": ("x", None, 1),
        "force_path_style": ("x", None, 0),
        "max_attempts": ("3", 1.5, None),
        "profile": (5, b"x"),
    }

    def use(**fields: Any) -> object:
        return lib.client(s3client_config=lib.config(**fields)).head_object(at.bucket, "alone")

    return [_said(use, **{name: value}) for name, values in wrong.items() for value in values]


@case
def places_of_the_wrong_type(lib: Library, at: Place) -> object:
    kind = lib.s3client.S3Client
    return (
        _said_of_each(lambda endpoint: lib.client(endpoint=endpoint).head_object(at.bucket, "alone"), (5, b"x")),
        _said_of_each(lambda region: kind(region).head_object(at.bucket, "alone"), (5, b"x")),
    )


@case
def writing_what_has_no_bytes(lib: Library, at: Place) -> object:
    def write(value: Any) -> object:
        with lib.client().put_object(at.bucket, f"{at.below}object") as writer:
            return writer.write(value)

    return _said_of_each(write, ("text", 5, None, [1], {}))


@case
def writing_after_the_end(lib: Library, at: Place) -> object:
    writer = lib.client().put_object(at.bucket, f"{at.below}object")
    writer.close()
    return _said_of_each(writer.write, (b"bytes", "text", 5))


@case
def indices_of_a_dataset(lib: Library, at: Place) -> object:
    dataset = lib.mapped(at.uri("train/"))
    return _said_of_each(lambda index: dataset[index], ("1", 1.5, None, [1], 99, -99))


@case
def functions_that_are_none(lib: Library, at: Place) -> object:
    kind = lib.root.S3MapDataset
    return (
        _said(lambda: lib.mapped(at.uri("train/"), transform=5)[0]),
        _said(lambda: lib.mapped(at.uri("train/"), reader_constructor=5)[0]),
        _said(lambda: next(iter(lib.iterable(at.uri("train/"), reader_constructor=5)))),
        _said(lambda: len(kind(REGION, 5))),
        _said(lambda: len(kind(REGION, lambda client: 5))),
        _said(lambda: kind(REGION, lambda client: [5])[0]),
    )
