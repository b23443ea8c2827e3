"""What is deliberately otherwise with ours: what each of the two does, and why.

The table of the documentation is made of these: each is proven on both sides.
"""

from __future__ import annotations

import array
import gc
import io
import mmap
import pickle
import threading
import warnings
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import WriteItem
from torch.utils.data import DataLoader

from .cases_items import RANGES
from .kit import REGION, TEXT, Body, Library, Place, difference, gives, raises, refusing, tried


class _Unpicklable:
    def __reduce__(self) -> str:
        raise LookupError("cannot be pickled")


# --- what a failed save leaves ---------------------------------------------------------------------------------------


def _interrupted(writer: Any) -> None:
    with writer:
        writer.write(b"half of the ne")
        raise LookupError("the caller's own")


@difference(
    original=(raises("LookupError", "the caller's own"), ["object"], b"half of the ne"),
    ours=(raises("LookupError", "the caller's own"), [], None),
    why="After an exception in its `with` block a writer publishes nothing, ever; the original publishes a torso.",
)
def an_exception_in_the_with_block(lib: Library, at: Place) -> object:
    found = tried(lambda: _interrupted(lib.checkpoint().writer(at.scratch("object"))))
    gc.collect()
    return found, at.names(), at.get("object") if at.names() else None


@difference(
    original=b"half of the ne",
    ours=b"the old content",
    why="A failed save leaves an older object of that name as it was; the original overwrites it with a torso.",
)
def an_exception_in_the_with_block_over_an_older_object(lib: Library, at: Place) -> object:
    at.put("object", b"the old content")
    tried(lambda: _interrupted(lib.checkpoint().writer(at.scratch("object"))))
    gc.collect()
    return at.get("object")


@difference(
    original=(False, True, gives(1)),
    ours=(True, False, raises("ValueError", "I/O operation on closed file.")),
    why="A writer whose block raised is closed: nothing more can be written to what will not be published.",
)
def a_writer_after_an_exception_in_its_block(lib: Library, at: Place) -> object:
    writer = lib.checkpoint().writer(at.scratch("object"))
    tried(lambda: _interrupted(writer))
    return writer.closed, writer.writable(), tried(lambda: writer.write(b"x"))


@difference(
    original=raises("RuntimeError"),
    ours=gives({"step": 1}),
    why="A Lightning checkpoint that could not be saved leaves the older one of its name.",
)
def a_lightning_checkpoint_that_cannot_be_saved(lib: Library, at: Place) -> object:
    plugin = lib.lightning.S3LightningCheckpoint(REGION)
    plugin.save_checkpoint({"step": 1}, at.scratch("last.ckpt"))
    tried(lambda: plugin.save_checkpoint({"weight": torch.ones(5), "bad": _Unpicklable()}, at.scratch("last.ckpt")))
    gc.collect()
    loaded = tried(lambda: plugin.load_checkpoint(at.scratch("last.ckpt")))
    return loaded if loaded[0] == "gives" else raises(loaded[1])


@difference(
    original=["a"],
    ours=[],
    why="A stream of `S3FileSystem` whose `with` block raised publishes nothing either.",
)
def an_exception_in_a_stream_of_the_file_system(lib: Library, at: Place) -> object:
    def write() -> None:
        with lib.file_system().create_stream(at.scratch("a"), "wb") as stream:
            stream.write(b"half")
            raise LookupError("the caller's own")

    tried(write)
    gc.collect()
    return at.names()


def _saved(lib: Library, at: Place, state: dict[str, Any], **options: Any) -> None:
    with warnings.catch_warnings(action="ignore"):  # PyTorch's, of a checkpoint that is there already
        state_dict_saver.save(
            state, storage_writer=lib.dcp.S3StorageWriter(REGION, at.scratch("checkpoint"), **options), no_dist=True
        )


def _loaded(lib: Library, at: Place, state: dict[str, Any]) -> dict[str, Any]:
    state_dict_loader.load(
        state, storage_reader=lib.dcp.S3StorageReader(REGION, at.scratch("checkpoint")), no_dist=True
    )
    return state


@difference(
    original="the older checkpoint cannot be loaded",
    ours={"step": 1, "weight": torch.ones(100)},
    why="A distributed save that fails leaves the older checkpoint whole: its files are not overwritten.",
)
def a_distributed_save_that_fails_over_an_older_checkpoint(lib: Library, at: Place) -> object:
    _saved(lib, at, {"step": 1, "weight": torch.ones(100)})
    tried(lambda: _saved(lib, at, {"step": _Unpicklable(), "weight": torch.zeros(100)}))
    gc.collect()
    found = tried(lambda: _loaded(lib, at, {"step": None, "weight": torch.zeros(100)}))
    return found[1] if found[0] == "gives" else "the older checkpoint cannot be loaded"


@difference(
    original=["checkpoint/.metadata", "checkpoint/__0_0.distcp"],
    ours=["checkpoint/.metadata", "checkpoint/__0_TAG_0.distcp"],
    why="The files of a save over an older checkpoint have names of their own, and the old ones go when it is whole.",
)
def the_files_of_a_save_over_an_older_checkpoint(lib: Library, at: Place) -> object:
    for step in (1, 2):
        _saved(lib, at, {"step": torch.tensor(step)})
    pieces = [name.split("_") for name in at.names()]
    return ["_".join([*each[:3], "TAG", each[-1]]) if len(each) == 5 else "_".join(each) for each in pieces]


@difference(
    original=(gives(), True),
    ours=(raises("CheckpointException", "0: ('LookupError', 'not on this thread')"), False),
    why="A failure on one of the threads that write a rank's files fails the save; PyTorch prints it and goes on.",
)
def a_failure_on_one_of_the_threads(lib: Library, at: Place) -> object:
    failed = threading.Event()
    at.patch.setattr(threading, "excepthook", lambda _: failed.set())

    class Planner(DefaultSavePlanner):
        def resolve_data(self, write_item: WriteItem) -> Any:
            if threading.current_thread() is not threading.main_thread():
                raise LookupError("not on this thread")
            assert failed.wait(20)
            return super().resolve_data(write_item)

    class Failing(threading.Thread):
        def run(self) -> None:
            try:
                super().run()
            finally:
                failed.set()

    at.patch.setattr(threading, "Thread", Failing)
    writer = lib.dcp.S3StorageWriter(REGION, at.scratch("checkpoint"), thread_count=2)
    state = {"a": torch.ones(2), "b": torch.ones(2)}
    found = tried(lambda: state_dict_saver.save(state, storage_writer=writer, planner=Planner(), no_dist=True) and None)
    return found, "checkpoint/.metadata" in at.names()


# --- writers ---------------------------------------------------------------------------------------------------------


@difference(
    original=[raises("TypeError")] * 5,
    ours=[gives(3), gives(16), gives(4), gives(4), gives(8)],
    why="A writer takes any buffer: pickles of protocol 5, arrays and maps of memory are written without a copy first.",
)
def writing_any_buffer(lib: Library, at: Place) -> object:
    zeros: Any = np.zeros(1)
    buffers: tuple[Any, ...] = (
        bytearray(b"abc"),
        np.arange(4, dtype="<i4"),
        array.array("H", [1, 2]),
        mmap.mmap(-1, 4),
        pickle.PickleBuffer(zeros),
    )
    with lib.checkpoint().writer(at.scratch("object")) as writer:
        return [tried(writer.write, each) for each in buffers]


@difference(
    original=(raises("LookupError", "cannot be pickled"), False),
    ours=(raises("LookupError", "cannot be pickled"), True),
    why="A `torch.save` that fails leaves the older object also where no `with` block holds the writer.",
)
def a_save_that_fails_without_a_with_block(lib: Library, at: Place) -> object:
    at.put("object", b"the old content")
    state = {"weight": torch.ones(5), "bad": _Unpicklable()}
    found = tried(lambda: torch.save(state, lib.checkpoint().writer(at.scratch("object"))))
    gc.collect()
    return found, at.get("object") == b"the old content"


@difference(
    original=(0, 2),
    ours=(3, 5),
    why="`tell` of a writer counts what was written before its `with` block too.",
)
def writing_before_the_with_block(lib: Library, at: Place) -> object:
    writer = lib.checkpoint().writer(at.scratch("object"))
    writer.write(b"abc")
    with writer:
        return writer.tell(), writer.write(b"de") and writer.tell()


# --- readers ---------------------------------------------------------------------------------------------------------


def _generic(lib: Library, data: bytes = TEXT) -> list[Any]:
    body = Body(data)
    readers = lib.s3reader
    return [kind("b", "k", body.info, body.stream) for kind in (readers.SequentialS3Reader, readers.RangedS3Reader)]


@difference(
    original=[raises("UnsupportedOperation")] * 2,
    ours=[gives(b"01234")] * 2,
    why="Readers have `read1`, which text files ask for.",
)
def reading_some_bytes(lib: Library, at: Place) -> object:
    return [tried(each.read1, 5) for each in _generic(lib)]


@difference(
    original=raises("UnsupportedOperation"),
    ours=gives(["one\n", "\n", "two\n"]),
    why="`io.TextIOWrapper` reads lines of text from a reader.",
)
def reading_text(lib: Library, at: Place) -> object:
    reader = lib.client().get_object(at.bucket, "files/lines")
    return tried(lambda: [line for line, _ in zip(io.TextIOWrapper(reader, "utf-8"), range(3), strict=False)])


@difference(
    original=[raises("UnsupportedOperation")] * 2,
    ours=[gives((5, b"01234"))] * 2,
    why="Readers have `readinto1`.",
)
def filling_a_buffer_with_some_bytes(lib: Library, at: Place) -> object:
    def fill(reader: Any) -> object:
        target = bytearray(5)
        return reader.readinto1(target), bytes(target)

    return [tried(fill, each) for each in _generic(lib)]


@difference(
    original=[
        raises("S3Exception", "Service error: The key does not exist"),
        raises("S3Exception", "Service error: The object was not found"),
    ],
    ours=[gives(b""), gives(b"")],
    why="A read of no bytes asks the server nothing.",
)
def reading_no_bytes_of_an_absent_object(lib: Library, at: Place) -> object:
    makers = lib.root.S3ReaderConstructor
    return [
        tried(lib.client().get_object(at.bucket, "absent", reader_constructor=each).read, 0)
        for each in (makers.sequential(), makers.range_based())
    ]


@difference(
    original=(raises("S3Exception", "Client error: Unknown"), raises("S3Exception", "Client error: Unknown")),
    ours=(gives(b""), gives(b"")),
    why="An empty object can be read on every server, whatever it says about a range of nothing.",
)
def reading_an_empty_object(lib: Library, at: Place) -> object:
    at.put("empty", b"")
    client = lib.client()
    key = f"{at.below}empty"
    return tried(client.get_object(at.bucket, key).read), tried(lambda: client.get_object(at.bucket, key).read(5))


@difference(
    original=[gives(TEXT), raises("TypeError")],
    ours=[gives(TEXT), gives(TEXT)],
    why="Range-based readers with a buffer can be sent to another process too, until they are read.",
)
def sending_a_reader_with_a_buffer(lib: Library, at: Place) -> object:
    at.put("text", TEXT)
    makers = lib.root.S3ReaderConstructor
    readers = [
        lib.client().get_object(at.bucket, f"{at.below}text", reader_constructor=each)
        for each in (makers.range_based(0), makers.range_based())
    ]
    return [tried(lambda reader: pickle.loads(pickle.dumps(reader)).read(), each) for each in readers]


@difference(
    original=[(raises("TypeError"), raises("TypeError"))] * 2,
    ours=[(gives(3), gives(TEXT[3:5]))] * 2,
    why="Positions and sizes may be integers of NumPy.",
)
def positions_of_numpy(lib: Library, at: Place) -> object:
    return [(tried(each.seek, np.int64(3)), tried(each.read, np.int64(2))) for each in _generic(lib)]


@difference(
    original=[gives(0)] * 2,
    ours=[raises("TypeError")] * 2,
    why="The origin of a seek is an integer; a float that equals one is a `TypeError`.",
)
def seeking_from_an_origin_that_is_a_float(lib: Library, at: Place) -> object:
    return [tried(each.seek, 0, 1.0) for each in _generic(lib)]


@difference(
    original=[gives((7, TEXT[:7] + bytes(9))), raises("ValueError")],
    ours=[gives((16, TEXT[:16]))] * 2,
    why="`readinto` fills buffers of larger items whole, and counts bytes.",
)
def filling_an_array_of_larger_items(lib: Library, at: Place) -> object:
    def fill(reader: Any) -> object:
        target = np.zeros(4, dtype="<i4")
        return reader.readinto(target.data), target.tobytes()

    found = [tried(fill, reader) for reader in _generic(lib)]
    return [each if each[0] == "gives" else raises(each[1]) for each in found]


@difference(
    original=(TEXT, TEXT[3:]),
    ours=(TEXT[:4], TEXT[3:]),
    why="A constructor's `get_stream` honours an `end` that is given alone.",
)
def a_stream_with_an_end_and_no_start(lib: Library, at: Place) -> object:
    at.put("text", TEXT)

    def construct(**given: Any) -> object:
        return b"".join(given["get_stream"](end=4)), b"".join(given["get_stream"](start=3))

    return lib.client().get_object(at.bucket, f"{at.below}text", reader_constructor=construct)


def _optimized(lib: Library) -> Any:
    body = Body(TEXT)
    items = [lib.s3reader.ItemRange(*each) for each in RANGES]
    return lib.s3reader.DCPOptimizedS3Reader("bucket", "key", items, body.info, body.stream)


@difference(
    original=gives(b"2345"),
    ours=raises("ValueError", "I/O operation on closed file."),
    why="A closed reader of a distributed checkpoint is closed; the original fetches everything again.",
)
def reading_items_after_closing(lib: Library, at: Place) -> object:
    reader = _optimized(lib)
    reader.seek(2)
    reader.close()
    return tried(lambda: reader.read(4))


@difference(
    original=(raises("ValueError", "negative seek value -1"), -1),
    ours=(raises("ValueError", "negative seek value -1"), 0),
    why="A failed seek leaves the position of a reader of a distributed checkpoint as it was.",
)
def the_position_among_items_after_a_failed_seek(lib: Library, at: Place) -> object:
    reader = _optimized(lib)
    return tried(lambda: reader.seek(-1)), reader.tell()


# --- datasets --------------------------------------------------------------------------------------------------------


@difference(
    original=raises("AttributeError"),
    ours=raises("TypeError"),
    why="A slice of a map dataset is a `TypeError`, as any other index that is none.",
)
def slices_of_a_dataset(lib: Library, at: Place) -> object:
    dataset = lib.mapped(at.uri("train/"))
    return tried(lambda: dataset[1:3], unusual=AttributeError)


@difference(
    original=raises("TypeError"),
    ours=gives([["train/01", "train/02"], ["train/03", "train/04"]]),
    why="PyTorch's default collate function makes batches of readers: lists.",
)
def batches_of_readers(lib: Library, at: Place) -> object:
    loader = DataLoader(lib.mapped(at.uri("train/")), batch_size=2)
    return tried(lambda: [[reader.key for reader in batch] for batch, _ in zip(loader, range(2), strict=False)])


@difference(
    original=raises("TypeError"),
    ours=gives(["train/06", "train/07", "train/08", "train/09", "train/10", "train/11"]),
    why="A listing can be sent to another process between two pages.",
)
def sending_a_listing(lib: Library, at: Place) -> object:
    pages = lib.client().list_objects(at.bucket, "train/", "", 5)
    next(pages)
    return tried(lambda: [info.key for page in pickle.loads(pickle.dumps(pages)) for info in page.object_info])


@difference(
    original=[False, False],
    ours=[True, True],
    why="Entries of listings, and answers of `head_object`, are equal where all that they say is.",
)
def comparing_what_is_known_of_objects(lib: Library, at: Place) -> object:
    client = lib.client()
    entries = [next(client.list_objects(at.bucket, "alone")).object_info[0] for _ in range(2)]
    heads = [client.head_object(at.bucket, "alone") for _ in range(2)]
    return [entries[0] == entries[1], heads[0] == heads[1]]


# --- where -----------------------------------------------------------------------------------------------------------


@difference(
    original=[raises("TypeError")] * 3,
    ours=[gives(11), gives(11), gives(b"by itself")],
    why="The region of datasets and of `S3Checkpoint` may be left out: then it comes from the environment.",
)
def a_region_that_is_not_given(lib: Library, at: Place) -> object:
    root = lib.root
    return [
        tried(lambda: len(root.S3MapDataset.from_prefix(at.uri("train/")))),
        tried(lambda: len(list(root.S3IterableDataset.from_prefix(at.uri("train/"))))),
        tried(lambda: root.S3Checkpoint().reader(at.uri("alone")).read()),
    ]


@difference(
    original=[raises("TypeError")] * 4,
    ours=[gives(11), gives(b"by itself"), gives(True), gives(9)],
    why="The region may be `None` everywhere: then it comes from the environment.",
)
def a_region_that_is_none(lib: Library, at: Place) -> object:
    return [
        tried(lambda: len(lib.root.S3MapDataset.from_prefix(at.uri("train/"), region=None))),
        tried(lambda: lib.root.S3Checkpoint(None).reader(at.uri("alone")).read()),
        tried(lambda: lib.dcp.S3FileSystem(None).exists(at.uri("alone"))),
        tried(lambda: lib.s3client.S3Client(None).head_object(at.bucket, "alone").size),
    ]


@difference(
    original=[raises("ValueError", "Only s3:// URIs are supported")] * 3,
    ours=[gives(b"content"), gives([("a", b"content")]), gives(True)],
    why="URIs of other schemes work wherever those of S3 do: `az://`, `gs://`, `file://`, `direct://`.",
)
def uris_of_other_schemes(lib: Library, at: Place) -> object:
    folder = at.folder().as_uri()

    def written_and_read() -> object:
        with lib.checkpoint().writer(f"{folder}/a") as writer:
            writer.write(b"content")
        return lib.checkpoint().reader(f"{folder}/a").read()

    return [
        tried(written_and_read),
        tried(lambda: [(reader.key, reader.read()) for reader in lib.mapped(f"{folder}/")]),
        tried(lambda: lib.file_system().exists(f"{folder}/a")),
    ]


@difference(
    original=[raises("TypeError")] * 3,
    ours=[gives(True), gives("s3://b/k"), gives(1)],
    why="The classes for distributed checkpoints take an `endpoint`, as the others do.",
)
def an_endpoint_for_distributed_checkpoints(lib: Library, at: Place) -> object:
    where = {"endpoint": at.server.endpoint}
    at.patch.delenv("AWS_ENDPOINT_URL")
    return [
        tried(lambda: lib.dcp.S3FileSystem(REGION, **where).exists(at.uri("alone"))),
        tried(lambda: lib.dcp.S3StorageReader(REGION, "s3://b/k", **where).path),
        tried(lambda: lib.dcp.S3StorageWriter(REGION, "s3://b/k", **where).thread_count),
    ]


@difference(
    original=[raises("TypeError")] * 2,
    ours=[gives(1), gives(1)],
    why="`S3StorageWriter` takes PyTorch's `sync_files`: it says whether a write to a file waits for the disk.",
)
def waiting_for_the_disk(lib: Library, at: Place) -> object:
    return [
        tried(lambda wait: lib.dcp.S3StorageWriter(REGION, "s3://b/k", sync_files=wait).thread_count, each)
        for each in (True, False)
    ]


# --- prefix strategies -----------------------------------------------------------------------------------------------


@difference(
    original=raises("ImportError"),
    ours=gives(["RoundRobinPrefixStrategy"]),
    why="`RoundRobinPrefixStrategy` can be imported from `dcp`, as the README has it.",
)
def the_readme_s_import_of_a_strategy(lib: Library, at: Place) -> object:
    def imported() -> object:
        names: dict[str, Any] = {}
        exec(f"from {lib.package}.dcp import RoundRobinPrefixStrategy", names)
        return [names["RoundRobinPrefixStrategy"].__name__]

    return tried(imported, unusual=ImportError)


@difference(
    original=[raises("TypeError")] * 2,
    ours=[gives("0000/__0_")] * 2,
    why="`min_prefix_len`, which the README writes, is another name of `min_prefix_length`.",
)
def the_readme_s_name_of_a_length(lib: Library, at: Place) -> object:
    kinds = (lib.dcp.BinaryPrefixStrategy, lib.dcp.HexPrefixStrategy)
    return [tried(lambda kind: kind(min_prefix_len=4)(0), kind) for kind in kinds]


# --- configuration ---------------------------------------------------------------------------------------------------


def _use(lib: Library, at: Place, **fields: Any) -> object:
    """The family of the exception, if there is one."""
    found = tried(lambda: len(lib.mapped(at.uri("train/"), s3client_config=lib.config(**fields))))
    return found[1] if found[0] == "raises" else found[0]


@difference(
    original=["PanicException", "OverflowError", "PanicException"],
    ours=["S3Exception", "S3Exception", "gives"],
    why="A number of attempts that cannot be used is an `S3Exception`, not a panic, which `except Exception` misses; "
    "more than 64 can be used.",
)
def numbers_of_attempts_that_cannot_be_used(lib: Library, at: Place) -> object:
    return [_use(lib, at, max_attempts=attempts) for attempts in (0, -1, 65)]


@difference(
    original="gives",
    ours="S3Exception",
    why="A throughput target of NaN is refused.",
)
def a_throughput_target_that_is_no_number(lib: Library, at: Place) -> object:
    return _use(lib, at, throughput_target_gbps=float("nan"))


@difference(
    original=["PanicException", "PanicException", "PanicException"],
    ours=["S3Exception", "S3Exception", "S3Exception"],
    why="An endpoint that is malformed is an `S3Exception`, not a panic.",
)
def a_malformed_endpoint(lib: Library, at: Place) -> object:
    clients = [lib.client(endpoint=endpoint) for endpoint in ("http://", "http://[", "http://host:port")]
    return [tried(client.head_object, "bucket", "key")[1] for client in clients]


@difference(
    original=raises("TypeError"),
    ours=gives(["requester"]),
    why="`requester_pays` is there, as on the original's main branch.",
)
def a_requester_that_pays(lib: Library, at: Place) -> object:
    def asked() -> object:
        config = lib.config(requester_pays=True, max_attempts=1)
        with refusing(403, "AccessDenied") as server:
            tried(lib.client(endpoint=server.endpoint, s3client_config=config).head_object, "bucket", "key")
            return list({headers["x-amz-request-payer"] for _, _, headers in server.requests})

    return tried(asked)


@difference(
    original="several",
    ours="one",
    why="`max_attempts=1` is one attempt; with the original it is as many as by default.",
)
def a_single_attempt(lib: Library, at: Place) -> object:
    with refusing(503, "SlowDown") as server:
        client = lib.client(endpoint=server.endpoint, s3client_config=lib.config(max_attempts=1))
        tried(client.head_object, "bucket", "key")
        return "one" if len(server.requests) == 1 else "several"


# --- errors and names ------------------------------------------------------------------------------------------------


@difference(
    original=[[Exception], [Exception], [Exception]],
    ours=[
        [Exception, OSError, FileNotFoundError],
        [Exception, OSError, PermissionError],
        [Exception, OSError, ConnectionError],
    ],
    why="An `S3Exception` is also the builtin exception for what happened.",
)
def builtin_exceptions(lib: Library, at: Place) -> object:
    builtins = (Exception, OSError, FileNotFoundError, PermissionError, ConnectionError, TimeoutError)
    found = []
    with refusing(403, "AccessDenied") as server:
        for endpoint in (at.server.endpoint, server.endpoint, "http://127.0.0.1:9"):
            client = lib.client(endpoint=endpoint, s3client_config=lib.config(max_attempts=2))
            try:
                client.head_object(at.bucket, "absent")
            except lib.root.S3Exception as error:
                found.append([kind for kind in builtins if isinstance(error, kind)])
    return found


@difference(
    original="s3torchconnector",
    ours="s3dlio",
    why="The user agent begins with our own name.",
)
def the_name_in_the_user_agent(lib: Library, at: Place) -> object:
    name: str = lib.client().user_agent_prefix
    return name.partition("/")[0]
