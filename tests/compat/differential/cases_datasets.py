"""Datasets: what they list, when they ask, what their items are, what travels, and how they are divided."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
)

from .contents import LARGE, NAMED, TRAIN
from .kit import REGION, Library, Place, case, tried

KINDS = ("S3IterableDataset", "S3MapDataset")

WRONG_URIS = ("x", "", None, "s3:/b/k", "S3://b/k", "https://b/k", "s3://", "s3:///key")


def key_of(reader: Any) -> str:
    key: str = reader.key
    return key


def body_of(reader: Any) -> tuple[str, bytes]:
    return reader.key, reader.read()


def size_of(reader: Any) -> tuple[str, int]:
    return reader.key, reader.seek(0, io.SEEK_END)


def _both(lib: Library) -> Iterator[Any]:
    return (getattr(lib.root, kind) for kind in KINDS)


# --- listing ---------------------------------------------------------------------------------------------------------


@case
def mapping_a_prefix(lib: Library, at: Place) -> object:
    return [(reader.bucket, *body_of(reader)) for reader in lib.mapped(at.uri("train/"))]


@case
def iterating_over_a_prefix(lib: Library, at: Place) -> object:
    return [(reader.bucket, *body_of(reader)) for reader in lib.iterable(at.uri("train/"))]


@case
def a_prefix_is_any_beginning_of_a_key(lib: Library, at: Place) -> object:
    return [list(lib.iterable(at.uri(prefix), transform=key_of)) for prefix in ("train/0", "tr", "train/01", "alone")]


@case
def a_bucket_without_a_key_is_all_of_it(lib: Library, at: Place) -> object:
    bare, slashed = lib.mapped(f"s3://{at.bucket}", transform=key_of), lib.mapped(at.uri(""), transform=key_of)
    return len(bare), sorted(bare) == sorted(slashed), bare[0]


@case
def nothing_below_a_prefix(lib: Library, at: Place) -> object:
    mapped = lib.mapped(at.uri("absent/"))
    return len(mapped), list(mapped), list(lib.iterable(at.uri("absent/"))), tried(lambda: mapped[0])


@case
def folder_markers_are_items(lib: Library, at: Place) -> object:
    return [size_of(reader) for reader in lib.mapped(at.uri("folders/"))]


@case
def special_keys_below_a_prefix(lib: Library, at: Place) -> object:
    return list(lib.iterable(at.uri("special/"), transform=body_of))


@case
def special_keys_by_name(lib: Library, at: Place) -> object:
    return list(lib.root.S3MapDataset.from_objects(map(at.uri, NAMED), region=REGION, transform=body_of))


@case
def a_prefix_with_special_characters(lib: Library, at: Place) -> object:
    prefixes = ("special/a b", "special/a%20", "special/a#b?c", "special/é/", "special/'")
    return [list(lib.iterable(at.uri(prefix), transform=key_of)) for prefix in prefixes]


@case
def a_key_that_begins_with_a_slash(lib: Library, at: Place) -> object:
    uri = f"s3://{at.bucket}//slash"
    return list(lib.iterable(uri, transform=body_of)), lib.checkpoint().reader(uri).read()


@case
def more_than_a_page(lib: Library, at: Place) -> object:
    mapped = lib.mapped(at.uri("many/"), transform=key_of)
    iterated = list(lib.iterable(at.uri("many/"), transform=key_of))
    return len(mapped), (mapped[999], mapped[1000], mapped[-1]), iterated == list(mapped)


@case
def iterating_lists_anew_each_time(lib: Library, at: Place) -> object:
    at.put("a", b"1")
    dataset = lib.iterable(at.scratch(), transform=key_of)
    first = list(dataset)
    at.put("b", b"2")
    return first, list(dataset)


@case
def a_map_dataset_keeps_its_list(lib: Library, at: Place) -> object:
    at.put("a", b"1")
    dataset = lib.mapped(at.scratch(), transform=key_of)
    at.put("b", b"2")
    before = len(dataset)
    at.put("c", b"3")
    return before, len(dataset), list(dataset)


@case
def the_size_is_that_of_the_listing(lib: Library, at: Place) -> object:
    """So a seek from the end asks nothing: the object is gone by then."""
    key = at.put("gone", b"12345")
    (reader,) = list(lib.mapped(at.scratch()))
    at.client.delete_object(Bucket=at.bucket, Key=key)
    return reader.seek(0, io.SEEK_END), reader.tell(), reader.seek(0, io.SEEK_CUR)


@case
def an_object_that_was_overwritten_after_the_listing(lib: Library, at: Place) -> object:
    at.put("a", b"old")
    at.put("b", b"old and longer than the new one")
    readers = list(lib.mapped(at.scratch()))
    at.put("a", b"new and longer than the old one")
    at.put("b", b"new")
    return [reader.read() for reader in readers]


@case
def a_missing_bucket_shows_in_the_listing(lib: Library, at: Place) -> object:
    iterator = iter(lib.iterable("s3://no-such-bucket-anywhere/"))
    mapped = lib.mapped("s3://no-such-bucket-anywhere/train/")
    return [tried(lambda: next(iterator)), tried(lambda: len(mapped)), tried(lambda: mapped[0])]


# --- named objects ---------------------------------------------------------------------------------------------------


@case
def named_objects_keep_order_and_duplicates(lib: Library, at: Place) -> object:
    names = [at.uri(key) for key in ("train/05", "alone", "train/05", "train/01")]
    return [list(kind.from_objects(names, region=REGION, transform=body_of)) for kind in _both(lib)]


@case
def one_uri_is_one_object(lib: Library, at: Place) -> object:
    return [list(kind.from_objects(at.uri("alone"), region=REGION, transform=body_of)) for kind in _both(lib)]


@case
def no_uris_are_no_objects(lib: Library, at: Place) -> object:
    return [list(kind.from_objects([], region=REGION)) for kind in _both(lib)]


@case
def uris_in_other_containers(lib: Library, at: Place) -> object:
    uri = at.uri("alone")
    kinds: list[Iterable[str]] = [(uri,), {uri}, {uri: 1}, np.array([uri]), map(str, [uri])]
    return [list(lib.root.S3MapDataset.from_objects(uris, region=REGION, transform=body_of)) for uris in kinds]


@case
def a_generator_of_uris_serves_one_iteration(lib: Library, at: Place) -> object:
    dataset = lib.root.S3IterableDataset.from_objects((at.uri(key) for key in TRAIN), region=REGION, transform=key_of)
    return len(list(dataset)), len(list(dataset))


@case
def a_map_dataset_keeps_what_a_generator_gave(lib: Library, at: Place) -> object:
    dataset = lib.root.S3MapDataset.from_objects((at.uri(key) for key in TRAIN), region=REGION, transform=key_of)
    return len(dataset), list(dataset), list(dataset)


@case
def uris_of_two_buckets(lib: Library, at: Place) -> object:
    at.put("there", b"of the other one", bucket=at.other_bucket)
    uris = [at.uri("alone"), f"s3://{at.other_bucket}/{at.below}there"]
    dataset = lib.root.S3IterableDataset.from_objects(uris, region=REGION)
    return [(reader.bucket, *body_of(reader)) for reader in dataset]


@case
def what_is_no_iterable_of_uris(lib: Library, at: Place) -> object:
    datasets = [kind.from_objects(wrong, region=REGION) for wrong in (None, 5) for kind in _both(lib)]
    return [tried(list, dataset) for dataset in datasets]


@case
def a_bucket_without_a_key_as_an_object(lib: Library, at: Place) -> object:
    (reader,) = lib.root.S3IterableDataset.from_objects(f"s3://{at.bucket}", region=REGION)
    return reader.bucket, reader.key


@case
def an_absent_object_is_met_where_it_is_read(lib: Library, at: Place) -> object:
    names = [at.uri(key) for key in ("train/01", "absent", "train/02")]
    datasets = (kind.from_objects(names, region=REGION) for kind in _both(lib))
    return [[tried(reader.read) for reader in dataset] for dataset in datasets]


@case
def an_absent_object_met_by_a_transform(lib: Library, at: Place) -> object:
    names = [at.uri(key) for key in ("train/01", "absent", "train/02")]
    iterator = iter(lib.root.S3IterableDataset.from_objects(names, region=REGION, transform=body_of))
    return [tried(lambda: next(iterator)) for _ in names]


# --- wrong URIs ------------------------------------------------------------------------------------------------------


@case
def wrong_prefixes_are_met_on_first_use_of_a_map(lib: Library, at: Place) -> object:
    datasets = [lib.mapped(uri) for uri in WRONG_URIS]
    return [(tried(len, dataset), tried(dataset.__getitem__, 0)) for dataset in datasets]


@case
def wrong_prefixes_are_met_when_iteration_begins(lib: Library, at: Place) -> object:
    return [tried(partial(iter, lib.iterable(uri))) for uri in WRONG_URIS]


@case
def a_wrong_uri_among_others_is_met_before_any_item(lib: Library, at: Place) -> object:
    uris = [at.uri("alone"), "no uri"]
    iterable, mapped = (kind.from_objects(uris, region=REGION) for kind in _both(lib))
    return tried(lambda: iter(iterable)), tried(lambda: len(mapped))


# --- transforms ------------------------------------------------------------------------------------------------------


@case
def an_item_is_what_the_transform_gives(lib: Library, at: Place) -> object:
    def transform(reader: Any) -> object:
        return {"key": reader.key, "sum": torch.tensor(list(reader.read(4))).sum()}

    return list(islice(lib.iterable(at.uri("train/"), transform=transform), 3)), lib.mapped(
        at.uri("train/"), transform=transform
    )[4]


@case
def the_errors_of_a_transform_are_its_own(lib: Library, at: Place) -> object:
    def odd(reader: Any) -> str:
        if reader.key.endswith("2"):
            raise LookupError(reader.key)
        return key_of(reader)

    iterator = iter(lib.iterable(at.uri("train/"), transform=odd))
    mapped = lib.mapped(at.uri("train/"), transform=odd)
    return [tried(lambda: next(iterator)) for _ in range(3)], tried(lambda: mapped[1]), mapped[2]


@case
def a_transform_that_stops_the_iteration(lib: Library, at: Place) -> object:
    def first_two(reader: Any) -> str:
        if reader.key == "train/03":
            raise StopIteration
        return key_of(reader)

    return list(lib.iterable(at.uri("train/"), transform=first_two))


@case
def a_transform_that_reads_a_part(lib: Library, at: Place) -> object:
    return list(lib.iterable(at.uri("train/"), transform=lambda reader: (reader.read(7), reader.readline())))


@case
def a_transform_that_is_none(lib: Library, at: Place) -> object:
    return tried(lambda: lib.mapped(at.uri("train/"), transform=None)[0])


@case
def the_default_transform_gives_readers(lib: Library, at: Place) -> object:
    reader = lib.mapped(at.uri("train/"))[0]
    return type(reader), isinstance(reader, lib.root.S3Reader), reader


# --- access ----------------------------------------------------------------------------------------------------------


@case
def indexing_from_the_end(lib: Library, at: Place) -> object:
    dataset = lib.mapped(at.uri("train/"), transform=key_of)
    return dataset[-1], dataset[-11], tried(lambda: dataset[-12]), tried(lambda: dataset[11])


@case
def integers_of_other_libraries_are_indices(lib: Library, at: Place) -> object:
    dataset = lib.mapped(at.uri("train/"), transform=key_of)
    return [dataset[index] for index in (torch.tensor(2), torch.tensor([3]), np.int64(4), np.array(5), True)]


@case
def what_is_no_index(lib: Library, at: Place) -> object:
    dataset = lib.mapped(at.uri("train/"), transform=key_of)
    wrong: tuple[object, ...] = (1.0, "1", None, [0, 1], (0,), torch.tensor(1.0), torch.tensor([1, 2]))
    return [tried(dataset.__getitem__, index) for index in wrong]


@case
def the_length_of_each_kind(lib: Library, at: Place) -> object:
    iterable = lib.iterable(at.uri("train/"))
    return len(lib.mapped(at.uri("train/"))), tried(lambda: len(iterable)), hasattr(iterable, "__len__")


@case
def iterating_over_a_map_dataset_twice(lib: Library, at: Place) -> object:
    dataset = lib.mapped(at.uri("train/"), transform=key_of)
    return list(dataset), list(dataset), list(reversed(dataset))[:2], "train/03" in dataset


@case
def iterators_are_independent(lib: Library, at: Place) -> object:
    dataset = lib.iterable(at.uri("train/"), transform=key_of)
    first, second = iter(dataset), iter(dataset)
    return next(first), next(first), next(second), next(first), next(second)


@case
def each_access_gives_a_fresh_reader(lib: Library, at: Place) -> object:
    dataset = lib.mapped(at.uri("train/"))
    first, second = dataset[4], dataset[4]
    return first is second, first.read(3), second.read(3), first.tell()


@case
def readers_outlive_their_iteration(lib: Library, at: Place) -> object:
    readers = list(lib.iterable(at.uri("train/")))
    return [reader.read() for reader in reversed(readers)]


@case
def many_threads_index_one_dataset(lib: Library, at: Place) -> object:
    dataset = lib.mapped(at.uri("train/"), transform=body_of)
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(dataset.__getitem__, range(11)))


@case
def what_the_datasets_are(lib: Library, at: Place) -> object:
    class Own(lib.root.S3MapDataset):  # type: ignore[misc, name-defined]
        def __getitem__(self, index: int) -> Any:
            return index, super().__getitem__(index)

    own = Own.from_prefix(at.uri("train/"), region=REGION, transform=key_of)
    bases = [issubclass(lib.root.S3MapDataset, Dataset), issubclass(lib.root.S3IterableDataset, IterableDataset)]
    return bases, type(own), own[3], list(DataLoader(own, batch_size=None))[:2]


@case
def the_attributes_of_a_dataset(lib: Library, at: Place) -> object:
    datasets = [kind.from_prefix("s3://b/", region="eu-west-9", endpoint="http://host") for kind in _both(lib)]
    writes = [
        tried(setattr, each, name, "x", unusual=AttributeError) for each in datasets for name in ("region", "endpoint")
    ]
    return [(each.region, each.endpoint) for each in datasets], writes


@case
def arguments_by_position(lib: Library, at: Place) -> object:
    def find(client: Any) -> Iterator[Any]:
        yield from lib.module("_s3dataset_common").get_objects_from_prefix(at.uri("train/0"), client)

    endpoint, config, constructor = at.server.endpoint, lib.config(), lib.root.S3ReaderConstructor.range_based()
    mapped = lib.root.S3MapDataset(REGION, find, endpoint, body_of, config, constructor)
    iterable = lib.root.S3IterableDataset(REGION, find, endpoint, body_of, config, True, constructor)
    return list(mapped), list(iterable)


@case
def arguments_that_are_refused(lib: Library, at: Place) -> object:
    root, uri = lib.root, at.uri("train/")
    return [
        tried(lambda: root.S3MapDataset.from_prefix(uri, region=REGION, enable_sharding=True)),
        tried(lambda: root.S3IterableDataset.from_prefix(uri, region=REGION, shuffle=True)),
        tried(lambda: root.S3MapDataset.from_prefix(uri, REGION)),
        tried(lambda: root.S3MapDataset.from_objects(region=REGION)),
        tried(lambda: root.S3IterableDataset(REGION)),
    ]


# --- where and how ---------------------------------------------------------------------------------------------------


@case
def the_endpoint_argument_wins(lib: Library, at: Place) -> object:
    at.patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    return [
        list(kind.from_prefix(at.uri("train/0"), region=REGION, endpoint=at.server.endpoint, transform=body_of))
        for kind in _both(lib)
    ]


@case
def an_endpoint_may_end_in_a_slash_or_be_empty(lib: Library, at: Place) -> object:
    slashed = lib.mapped(at.uri("train/"), endpoint=f"{at.server.endpoint}/", transform=key_of)
    return list(slashed), len(lib.mapped(at.uri("train/"), endpoint=""))


@case
def another_region_than_the_server_s(lib: Library, at: Place) -> object:
    return len(lib.root.S3MapDataset.from_prefix(at.uri("train/"), region="eu-west-9"))


@case
def a_configuration_is_used(lib: Library, at: Place) -> object:
    config = lib.config(part_size=5 << 20, force_path_style=True, throughput_target_gbps=1.0)
    (reader,) = lib.mapped(at.uri("files/large"), s3client_config=config)
    return reader.read() == LARGE


@case
def reader_constructors_of_each_kind(lib: Library, at: Place) -> object:
    makers = lib.root.S3ReaderConstructor
    constructors = [
        None,
        makers.default(),
        makers.sequential(),
        makers.range_based(),
        makers.range_based(buffer_size=3),
    ]
    datasets = [
        kind.from_prefix(at.uri("train/0"), region=REGION, reader_constructor=each)
        for kind in _both(lib)
        for each in constructors
    ]
    return [[(type(reader), reader.read(3), reader.read()) for reader in dataset] for dataset in datasets]


@case
def a_reader_constructor_is_called_with_keywords(lib: Library, at: Place) -> object:
    def construct(**given: Any) -> object:
        info, stream = given["get_object_info"](), given["get_stream"]
        pieces = (stream(), stream(start=5, end=12), stream(3), stream(7, None))
        return sorted(given), given["bucket"], given["key"], info.size, info.etag, [b"".join(each) for each in pieces]

    listed = lib.mapped(at.uri("train/05"), reader_constructor=construct)
    named = lib.root.S3MapDataset.from_objects(at.uri("train/05"), region=REGION, reader_constructor=construct)
    return listed[0], named[0]


@case
def a_reader_of_somebody_s_own(lib: Library, at: Place) -> object:
    class Upper(lib.s3reader.SequentialS3Reader):  # type: ignore[misc, name-defined]
        def read(self, size: int | None = None) -> bytes:
            data: bytes = super().read(size)
            return data.upper()

    return [reader.read() for reader in lib.iterable(at.uri("train/0"), reader_constructor=Upper)]


@case
def a_reader_constructor_that_fails(lib: Library, at: Place) -> object:
    def construct(**given: Any) -> object:
        raise RuntimeError(f"no reader of {given['key']}")

    mapped = lib.mapped(at.uri("train/"), reader_constructor=construct)
    return len(mapped), tried(lambda: mapped[0])


@case
def the_constructor_for_distributed_checkpoints_knows_no_ranges(lib: Library, at: Place) -> object:
    dataset = lib.mapped(at.uri("train/"), reader_constructor=lib.root.S3ReaderConstructor.dcp_optimized())
    kind, text = tried(lambda: dataset[0])[1:]
    return kind, text.partition(".")[0]


@case
def objects_found_by_the_caller(lib: Library, at: Place) -> object:
    records = lib.module("_s3bucket_key_data").S3BucketKeyData

    def find(client: Any) -> Iterator[Any]:
        (page,) = client.list_objects(at.bucket, "train/")
        for info in page.object_info:
            yield records(at.bucket, info.key, info if info.size % 2 else None)
        yield records(bucket=at.bucket, key="alone")

    datasets = [kind(REGION, find, transform=body_of) for kind in _both(lib)]
    sizes = lib.root.S3MapDataset(REGION, find, transform=size_of)
    return list(datasets[0]), list(datasets[1]), list(sizes)


@case
def a_record_of_an_object(lib: Library, at: Place) -> object:
    records = lib.module("_s3bucket_key_data").S3BucketKeyData
    bare = records("bucket", "key")
    return bare, bare == records(key="key", bucket="bucket"), bare._fields, len({bare, records("bucket", "key")})


# --- travelling ------------------------------------------------------------------------------------------------------


def _sent(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


@case
def a_map_dataset_travels_before_and_after_use(lib: Library, at: Place) -> object:
    dataset = lib.mapped(at.uri("train/"), transform=body_of)
    before = list(_sent(dataset))
    return before, list(dataset), list(_sent(dataset))


@case
def an_iterable_dataset_travels_before_and_after_use(lib: Library, at: Place) -> object:
    dataset = lib.iterable(at.uri("train/"), transform=body_of)
    before = list(_sent(dataset))
    return before, list(dataset), list(_sent(dataset))


@case
def the_list_of_a_map_dataset_travels(lib: Library, at: Place) -> object:
    at.put("a", b"1")
    dataset = lib.mapped(at.scratch(), transform=key_of)
    used = len(dataset)
    at.put("b", b"2")
    return used, len(_sent(dataset)), len(_sent(lib.mapped(at.scratch())))


@case
def what_cannot_travel(lib: Library, at: Place) -> object:
    generated = lib.root.S3MapDataset.from_objects((at.uri(key) for key in TRAIN), region=REGION)
    before = tried(lambda: _sent(generated))
    with_lambda = lib.mapped(at.uri("train/"), transform=lambda reader: reader)
    return before, tried(lambda: _sent(with_lambda), unusual=AttributeError)[0]


@case
def copies_of_datasets(lib: Library, at: Place) -> object:
    dataset = lib.mapped(at.uri("train/"), transform=key_of)
    return list(copy.copy(dataset)), list(copy.deepcopy(dataset)), len(dataset)


@case
def an_iterator_stays_where_it_is(lib: Library, at: Place) -> object:
    iterator = iter(lib.iterable(at.uri("train/"), transform=key_of))
    first = next(iterator)
    return first, tried(lambda: _sent(iterator))[:2], next(iterator)
