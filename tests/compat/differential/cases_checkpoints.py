"""Checkpoints: `torch.save` and `torch.load` through the readers and writers of `S3Checkpoint`."""

from __future__ import annotations

import gc
import pickle
from typing import Any

import torch
from torch import nn

from .contents import STATE
from .kit import REGION, Library, Place, case, tried

WRONG_URIS = ("x", "", None, "s3:/b/k", "S3://b/k", "http://b/k", "s3://", "s3:///key")


def _save(lib: Library, at: Place, state: Any, name: str = "model.pt", **options: Any) -> None:
    with lib.checkpoint().writer(at.scratch(name)) as writer:
        torch.save(state, writer, **options)


def _load(lib: Library, at: Place, name: str = "model.pt", **options: Any) -> Any:
    with lib.checkpoint().reader(at.scratch(name)) as reader:
        return torch.load(reader, **{"weights_only": True} | options)


class Custom:
    """What `weights_only` refuses."""

    def __init__(self, value: int) -> None:
        self.value = value


@case
def a_state_and_back(lib: Library, at: Place) -> object:
    _save(lib, at, STATE)
    return _load(lib, at), at.names()


@case
def a_state_and_back_in_the_old_format(lib: Library, at: Place) -> object:
    _save(lib, at, STATE, _use_new_zipfile_serialization=False)
    return _load(lib, at)


@case
def a_model_and_its_optimizer(lib: Library, at: Place) -> object:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    _save(lib, at, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    loaded = _load(lib, at)
    fresh = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    keys = fresh.load_state_dict(loaded["model"])
    return loaded, str(keys), fresh(torch.ones(2, 4)).shape


@case
def every_kind_of_tensor(lib: Library, at: Place) -> object:
    kinds = (torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.int64, torch.bool, torch.complex64)
    state = {str(kind): torch.arange(6).to(kind).reshape(2, 3) for kind in kinds}
    state |= {"view": torch.arange(10)[3:7], "transposed": torch.arange(6).reshape(2, 3).T, "empty": torch.zeros(0, 4)}
    _save(lib, at, state)
    return _load(lib, at)


@case
def a_state_of_more_than_a_part(lib: Library, at: Place) -> object:
    state = {"weight": torch.arange(3_000_000, dtype=torch.int32), "small": torch.ones(2)}
    config = lib.config(part_size=5 << 20)
    checkpoint = lib.checkpoint(s3client_config=config)
    with checkpoint.writer(at.scratch("large.pt")) as writer:
        torch.save(state, writer)
    with checkpoint.reader(at.scratch("large.pt")) as reader:
        return torch.load(reader, weights_only=True)


@case
def saving_without_closing(lib: Library, at: Place) -> object:
    torch.save(STATE, lib.checkpoint().writer(at.scratch("model.pt")))
    gc.collect()
    return at.names(), torch.load(lib.checkpoint().reader(at.scratch("model.pt")), weights_only=True)


@case
def saving_again(lib: Library, at: Place) -> object:
    _save(lib, at, {"step": 1, "weight": torch.ones(1000)})
    _save(lib, at, {"step": 2})
    return _load(lib, at), at.names()


@case
def loading_twice_from_one_reader(lib: Library, at: Place) -> object:
    _save(lib, at, STATE)
    reader = lib.checkpoint().reader(at.scratch("model.pt"))
    first = torch.load(reader, weights_only=True)
    reader.seek(0)
    return first, torch.load(reader, weights_only=True)


@case
def loading_with_a_map_of_locations(lib: Library, at: Place) -> object:
    _save(lib, at, STATE)
    return [_load(lib, at, map_location=place)["weight"].device.type for place in ("cpu", "meta", torch.device("cpu"))]


@case
def weights_only(lib: Library, at: Place) -> object:
    _save(lib, at, {"custom": Custom(5)})
    refused = tried(_load, lib, at)[:2]
    return refused, _load(lib, at, weights_only=False)["custom"].value


@case
def a_checkpoint_that_is_not_there(lib: Library, at: Place) -> object:
    return tried(_load, lib, at, "absent.pt")


@case
def a_bucket_that_is_not_there(lib: Library, at: Place) -> object:
    return tried(lambda: torch.load(lib.checkpoint().reader("s3://no-such-bucket-anywhere/k"), weights_only=True))


@case
def a_checkpoint_that_is_cut_short(lib: Library, at: Place) -> object:
    _save(lib, at, STATE)
    at.put("model.pt", at.get("model.pt")[:-500])
    return tried(_load, lib, at)[:2]


@case
def wrong_uris_of_readers(lib: Library, at: Place) -> object:
    checkpoint = lib.checkpoint()
    return [tried(checkpoint.reader, uri) for uri in WRONG_URIS]


@case
def wrong_uris_of_writers(lib: Library, at: Place) -> object:
    checkpoint = lib.checkpoint()
    return [tried(checkpoint.writer, uri) for uri in WRONG_URIS]


@case
def nothing_is_asked_when_a_reader_is_made(lib: Library, at: Place) -> object:
    at.patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    reader = lib.checkpoint().reader("s3://nobody/knows this one")
    return reader, reader.tell()


@case
def the_attributes_of_a_checkpoint(lib: Library, at: Place) -> object:
    plain, full = lib.root.S3Checkpoint("eu-west-9"), lib.root.S3Checkpoint("eu-west-9", "http://host", lib.config())
    named = lib.root.S3Checkpoint(region="r", endpoint="http://host", s3client_config=None)
    return [(each.region, each.endpoint) for each in (plain, full, named)]


@case
def what_a_checkpoint_refuses(lib: Library, at: Place) -> object:
    kind = lib.root.S3Checkpoint
    return [
        tried(lambda: kind(REGION, None, None, None)),
        tried(lambda: kind(REGION, config=None)),
        tried(lib.checkpoint().reader),
    ]


@case
def the_endpoint_by_position(lib: Library, at: Place) -> object:
    at.patch.delenv("AWS_ENDPOINT_URL")
    checkpoint = lib.root.S3Checkpoint(REGION, at.server.endpoint, lib.own_config(max_attempts=2))
    with checkpoint.writer(at.scratch("object")) as writer:
        writer.write(b"data")
    return checkpoint.reader(at.scratch("object")).read()


@case
def a_checkpoint_travels(lib: Library, at: Place) -> object:
    checkpoint = lib.checkpoint()
    sent = pickle.loads(pickle.dumps(checkpoint))
    with sent.writer(at.scratch("object")) as writer:
        writer.write(b"data")
    again = pickle.loads(pickle.dumps(sent))
    return again.region, again.endpoint, again.reader(at.scratch("object")).read()


@case
def a_uri_without_a_key(lib: Library, at: Place) -> object:
    readers = [lib.checkpoint().reader(uri) for uri in (f"s3://{at.bucket}", f"s3://{at.bucket}/")]
    return [(each.bucket, each.key) for each in readers]


@case
def special_keys_of_checkpoints(lib: Library, at: Place) -> object:
    for name in ("epoch=1-step=2.ckpt", "a b/é+%20.pt"):
        _save(lib, at, {"name": name}, name)
    return [_load(lib, at, name) for name in sorted(at.names())]


@case
def one_checkpoint_object_for_many(lib: Library, at: Place) -> object:
    checkpoint = lib.checkpoint()
    writers = {name: checkpoint.writer(at.scratch(name)) for name in ("a", "b")}
    for name, writer in writers.items():
        torch.save({"name": name}, writer)
        writer.close()
    return [torch.load(checkpoint.reader(at.scratch(name)), weights_only=True) for name in ("b", "a", "b")]
