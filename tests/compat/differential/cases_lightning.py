"""Lightning's checkpoints, by themselves and in the hands of Lightning's own classes."""

from __future__ import annotations

import pickle
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import AsyncCheckpointIO, CheckpointIO

from .contents import STATE
from .kit import REGION, Library, Place, case, refusing, tried

WRONG_URIS = ("x", "", "s3:/b/k", "/tmp/x", "https://b/k", "s3://", "s3:///key")
NO_STRINGS = (Path("s3://bucket/key"), None, 5, b"s3://bucket/key")


def _plugin(lib: Library, **options: Any) -> Any:
    return lib.lightning.S3LightningCheckpoint(REGION, **options)


class Custom:
    """What `weights_only` refuses."""

    def __init__(self, value: int) -> None:
        self.value = value


@case
def what_the_plugin_is(lib: Library, at: Place) -> object:
    kind = lib.lightning.S3LightningCheckpoint
    plugin = _plugin(lib)
    return kind.__name__, issubclass(kind, CheckpointIO), plugin.region, plugin.teardown(), lib.lightning.__all__


@case
def a_checkpoint_and_back(lib: Library, at: Place) -> object:
    gives = _plugin(lib).save_checkpoint(STATE, at.scratch("epoch=1.ckpt"))
    return gives, at.names(), _plugin(lib).load_checkpoint(at.scratch("epoch=1.ckpt"), weights_only=True)


@case
def arguments_by_name(lib: Library, at: Place) -> object:
    plugin = _plugin(lib, s3client_config=lib.config(part_size=5 << 20), endpoint=at.server.endpoint)
    plugin.save_checkpoint(checkpoint=STATE, path=at.scratch("a.ckpt"), storage_options={"ignored": True})
    return plugin.load_checkpoint(
        path=at.scratch("a.ckpt"), map_location=None, weights_only=True
    ), plugin.remove_checkpoint(path=at.scratch("a.ckpt"))


@case
def the_endpoint_is_the_third_argument(lib: Library, at: Place) -> object:
    at.patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    plugin = lib.lightning.S3LightningCheckpoint(REGION, lib.config(), at.server.endpoint)
    plugin.save_checkpoint({"step": 1}, at.scratch("a.ckpt"))
    return at.names(), tried(lambda: lib.lightning.S3LightningCheckpoint(REGION, None, None, None))


@case
def loading_elsewhere(lib: Library, at: Place) -> object:
    _plugin(lib).save_checkpoint(STATE, at.scratch("a.ckpt"))
    places: list[Any] = ["cpu", "meta", torch.device("cpu"), lambda storage, _: storage, {"cpu": "meta"}]
    return [_plugin(lib).load_checkpoint(at.scratch("a.ckpt"), place)["weight"].device.type for place in places]


@case
def loading_weights_only(lib: Library, at: Place) -> object:
    _plugin(lib).save_checkpoint({"custom": Custom(5)}, at.scratch("a.ckpt"))
    load = partial(_plugin(lib).load_checkpoint, at.scratch("a.ckpt"))
    return [tried(lambda wanted: load(weights_only=wanted)["custom"].value, each)[:2] for each in (None, True, False)]


@case
def loading_weights_only_as_the_environment_says(lib: Library, at: Place) -> object:
    _plugin(lib).save_checkpoint({"custom": Custom(5)}, at.scratch("a.ckpt"))
    found = []
    for name in ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD"):
        at.patch.setenv(name, "1")
        with warnings.catch_warnings(action="ignore"):  # PyTorch's own, of that variable
            found.append(tried(lambda: _plugin(lib).load_checkpoint(at.scratch("a.ckpt"))["custom"].value)[:2])
        at.patch.delenv(name)
    return found


@case
def a_checkpoint_that_is_not_there(lib: Library, at: Place) -> object:
    return tried(lambda: _plugin(lib).load_checkpoint(at.scratch("absent.ckpt")))


@case
def a_bucket_that_is_not_there(lib: Library, at: Place) -> object:
    plugin = _plugin(lib)
    found = tried(lambda: plugin.load_checkpoint("s3://no-such-bucket-anywhere/a.ckpt"))
    with refusing(404, "NoSuchBucket") as server:
        elsewhere = _plugin(lib, endpoint=server.endpoint)
        return (
            found,
            tried(lambda: elsewhere.save_checkpoint(STATE, "s3://bucket/a.ckpt"))[:2],
            tried(lambda: elsewhere.remove_checkpoint("s3://bucket/a")),
        )


@case
def removing_a_checkpoint(lib: Library, at: Place) -> object:
    for name in ("a b.ckpt", "c.ckpt"):
        at.put(name, b"")
    gives = [_plugin(lib).remove_checkpoint(at.scratch(name)) for name in ("a b.ckpt", "absent.ckpt")]
    return gives, at.names()


@case
def paths_that_are_no_uris(lib: Library, at: Place) -> object:
    plugin = _plugin(lib)
    steps: list[Any] = [partial(plugin.save_checkpoint, {}), plugin.load_checkpoint, plugin.remove_checkpoint]
    return [[tried(step, path) for path in WRONG_URIS] for step in steps]


@case
def paths_that_are_no_strings(lib: Library, at: Place) -> object:
    plugin = _plugin(lib)
    steps: list[Any] = [partial(plugin.save_checkpoint, {}), plugin.load_checkpoint, plugin.remove_checkpoint]
    return [[_type_error(partial(step, path)) for path in NO_STRINGS] for step in steps]


def _type_error(step: Any) -> object:
    """Here the text counts: Lightning's users see it."""
    try:
        return step()
    except TypeError as error:
        return str(error)


@case
def saving_again(lib: Library, at: Place) -> object:
    plugin = _plugin(lib)
    plugin.save_checkpoint({"step": 1, "weight": torch.ones(1000)}, at.scratch("last.ckpt"))
    plugin.save_checkpoint({"step": 2}, at.scratch("last.ckpt"))
    return plugin.load_checkpoint(at.scratch("last.ckpt")), at.names()


@case
def special_names(lib: Library, at: Place) -> object:
    plugin = _plugin(lib)
    for name in ("epoch=1-val_loss=0.50.ckpt", "run 1/é+%20.ckpt"):
        plugin.save_checkpoint({"name": name}, at.scratch(name))
    return at.names(), [plugin.load_checkpoint(at.scratch(name)) for name in at.names()]


@case
def what_cannot_be_saved(lib: Library, at: Place) -> object:
    return tried(
        lambda: _plugin(lib).save_checkpoint({"bad": lambda: None}, at.scratch("a.ckpt")), unusual=AttributeError
    )[0]


@case
def the_plugin_travels(lib: Library, at: Place) -> object:
    plugin = pickle.loads(pickle.dumps(_plugin(lib)))
    plugin.save_checkpoint({"step": 3}, at.scratch("a.ckpt"))
    return plugin.region, pickle.loads(pickle.dumps(plugin)).load_checkpoint(at.scratch("a.ckpt"))


@case
def saving_in_the_background(lib: Library, at: Place) -> object:
    background: Any = AsyncCheckpointIO(_plugin(lib))
    for step in range(3):
        background.save_checkpoint({"step": step}, at.scratch(f"{step}.ckpt"))
    background.teardown()
    return at.names(), [background.load_checkpoint(at.scratch(f"{step}.ckpt")) for step in range(3)]


@case
def failing_in_the_background(lib: Library, at: Place) -> object:
    background: Any = AsyncCheckpointIO(_plugin(lib))

    def save_and_wait() -> None:
        background.save_checkpoint({}, "no uri")
        background.teardown()

    return tried(save_and_wait)
