"""Tensors by name, rows of them, and all of them."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from ..config import Config
from ..errors import UnsupportedError
from ..rows import plan_rows
from ..transport.download import validators
from .frameworks import FRAMEWORKS, Framework
from .header import BITS
from .shards import Located, locate_tensors, open_shards, read_whole
from .sharing import Group
from .staging import stage

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup


class safe_open:
    """The tensors of the safetensors object at `uris`, or of several as one, read when they are asked for.

    `uris` are one, a list of the shards, or that of their index, `….index.json`. `framework` is `"pt"` for tensors of
    PyTorch, on `device`, or `"np"` for arrays of NumPy. `config` has the settings, by default the environment's. All
    bytes of an object are of the version that was there when it was opened. Nothing is kept open: tensors are good for
    as long as somebody has them. Errors, of its making and of all methods: `NotFoundError`; `FormatError` for what is
    no safetensors object; `ObjectChangedError` where one was replaced; `UnsupportedError` for a type that the framework
    lacks; `StoreError`; `KeyError` for a tensor that there is not; `ValueError` for another framework, and for arrays
    on a device.
    """

    def __init__(
        self,
        uris: str | Sequence[str],
        framework: Literal["pt", "np", "torch", "numpy"],
        device: str | int | torch.device = "cpu",
        *,
        config: Config | None = None,
    ) -> None:
        if framework not in FRAMEWORKS:
            raise ValueError(f"a framework is one of {', '.join(FRAMEWORKS)}, not {framework!r}")
        self._framework: Framework = FRAMEWORKS[framework]()
        self._device = self._framework.device(device)  # `None` is the CPU
        self._shards = open_shards(uris, config)
        self._tensors = locate_tensors(self._shards)

    def keys(self) -> list[str]:
        """The names of all tensors, sorted."""
        return sorted(self._tensors)

    def offset_keys(self) -> list[str]:
        """The names of all tensors, in the order of the objects and of the bytes in them."""
        return [*self._tensors]

    def metadata(self) -> dict[str, str] | None:
        """The text that was saved beside the tensors, by name; of all shards, a later one's before an earlier one's."""
        given = [shard.header.metadata for shard in self._shards if shard.header.metadata is not None]
        return {name: text for each in given for name, text in each.items()} if given else None

    def get_tensor(self, name: str) -> Any:
        """The tensor called `name`: a view of memory that is read into, or on a device a tensor of its own."""
        stored, info = located = self._tensors[name]
        if self._device is not None:
            return stage({name: located}, self._device)[name]
        return self._framework.tensor(stored.received(info.start, info.end), info.dtype, info.shape)

    def get_tensors(self) -> dict[str, Any]:
        """All tensors by name, in one pass: on the CPU they are views of one piece of memory for each object.

        Errors: `ChecksumError` where an object, read whole to the CPU, is not as the store's checksum says.
        """
        if self._device is not None:
            return stage(self._tensors, self._device)
        stored_objects = [shard.stored for shard in self._shards]
        data = dict(zip(stored_objects, read_whole(self._shards), strict=True))
        return {
            name: self._framework.tensor(data[stored][info.start : info.end], info.dtype, info.shape)
            for name, (stored, info) in self._tensors.items()
        }

    def get_slice(self, name: str) -> TensorSlice:
        """The tensor called `name`, to be indexed: only the rows that an index needs are moved.

        It also has `get_shape()`, in numbers, and `get_dtype()`, the format's name of the type, such as `F32`.
        """
        return TensorSlice(self._tensors[name], self._framework, self._device)

    def _versions(self) -> list[tuple[object, ...]]:
        """What differs where one of the objects is of another version."""
        return [validators(shard.stored.meta) for shard in self._shards]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing: there is nothing to be closed."""

    def __repr__(self) -> str:
        return f"<safe_open of {len(self._tensors)} tensors in {len(self._shards)} objects>"


class TensorSlice:
    """A tensor that is in a store, to be indexed, as :meth:`safe_open.get_slice` gives it. Errors: as there."""

    def __init__(self, located: Located, framework: Framework, device: torch.device | None) -> None:
        self._stored, self._info = located
        self._framework = framework
        self._device = device
        if BITS[self._info.dtype] % 8:
            raise UnsupportedError(f"numbers of {BITS[self._info.dtype]} bits cannot be sliced: read the whole tensor")

    def get_shape(self) -> list[int]:
        """Its shape, in numbers."""
        return [*self._info.shape]

    def get_dtype(self) -> str:
        """The format's name of its type, such as `F32`."""
        return self._info.dtype

    def __getitem__(self, index: Any) -> Any:
        """What `tensor[index]` would be, in memory of its own; rows less than 64 KiB apart share a request."""
        plan = plan_rows(self._info.shape, index, BITS[self._info.dtype] // 8)
        data = self._stored.gathered(plan.runs, self._info.start)
        found = self._framework.tensor(data, self._info.dtype, plan.shape)[plan.picks]
        if self._device is not None:
            return found.to(self._device)
        return found if found.nbytes == len(data) else self._framework.copied(found)


def load_file(
    uris: str | Sequence[str],
    device: str | int | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    *,
    process_group: ProcessGroup | None = None,
    config: Config | None = None,
) -> dict[str, torch.Tensor]:
    """All tensors at `uris`, as :class:`safe_open` takes them, on `device`, by name.

    With a `dtype`, those of floating-point numbers become of that type, one after the other as they come, as in
    `torch.nn.Module.to`. The ranks of a `process_group`, whose backend has to be one for `device`, each read a part and
    broadcast it; all of them call this alike. `config` has the settings. Errors: those of :class:`safe_open`; in a rank
    `StoreError` for what failed in another.
    """
    import torch

    if process_group is not None:
        group = Group(process_group, torch.device(device))
        together = group.look(lambda: safe_open(uris, "pt", device, config=config), safe_open._versions)
        return stage(together._tensors, torch.device(device), dtype, group)
    opened = safe_open(uris, "pt", device, config=config)
    if dtype is None:
        return opened.get_tensors()
    return stage(opened._tensors, torch.device(device), dtype)


def load_model(
    model: torch.nn.Module,
    uris: str | Sequence[str],
    strict: bool = True,
    device: str | int | torch.device = "cpu",
    *,
    config: Config | None = None,
) -> tuple[list[str], list[str]]:
    """Copy the tensors at `uris`, by way of `device`, into those of `model`; which were missing, and which unexpected.

    A tensor that `model` has by several names needs to be there by one. `uris` and `config` are as in
    :func:`load_file`. Errors: `RuntimeError`, as of PyTorch, for another shape, and where `strict` for a name that is
    missing or unexpected; those of :class:`safe_open`.
    """
    state = load_file(uris, device, config=config)
    absent, unexpected = model.load_state_dict(state, strict=False)
    own = model.state_dict()
    loaded = {_place(tensor) for name, tensor in own.items() if name in state}
    missing = [name for name in absent if _place(own[name]) not in loaded]
    if strict and (missing or unexpected):
        raise RuntimeError(f"{type(model).__name__}: missing are {missing}, unexpected are {unexpected}")
    return missing, unexpected


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    """Where it lies, and how."""
    return tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride()
