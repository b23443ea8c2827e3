"""Ranks of a process group that load the same weights: each reads a share of the blocks, and all get all of them.

Block number `n` is read by rank `n` modulo the group's size, and broadcast from there, on the device where it was
copied to. Whether it has come is broadcast first, so that what cannot be read is an error of all ranks, and none waits
for what will not come. All ranks look at the objects beforehand, and compare what they found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from ..errors import ObjectChangedError, StoreError

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup

T = TypeVar("T")


class Ranks(Protocol):
    """Who reads which block, and how it gets to the others."""

    def reads(self, number: int) -> bool:
        """Whether this rank reads block `number`."""

    def agree(self, number: int, wait: Callable[[], object]) -> None:
        """Wait, by `wait`, for block `number` in the rank that reads it. Errors: those of `wait`, in all ranks."""

    def share(self, number: int, pieces: Sequence[torch.Tensor]) -> None:
        """Give `pieces`, on the device, of block `number` to those who have not read it."""


class Alone:
    """One rank, which reads everything."""

    def reads(self, number: int) -> bool:
        """See :class:`Ranks`, as for all of these."""
        return True

    def agree(self, number: int, wait: Callable[[], object]) -> None:
        """See there."""
        wait()

    def share(self, number: int, pieces: Sequence[torch.Tensor]) -> None:
        """See there."""


ALONE = Alone()


class Group:
    """The ranks of the process group `group`, whose backend broadcasts what is on `device`."""

    def __init__(self, group: ProcessGroup, device: torch.device) -> None:
        import torch.distributed

        self._group = group
        self._device = device
        self._rank = torch.distributed.get_rank(group)
        self._size = torch.distributed.get_world_size(group)

    def reads(self, number: int) -> bool:
        """See :class:`Ranks`, as for all of these."""
        return number % self._size == self._rank

    def agree(self, number: int, wait: Callable[[], object]) -> None:
        """See there."""
        import torch

        come = torch.zeros(1, dtype=torch.uint8, device=self._device)
        try:
            if self.reads(number):
                wait()
                come.fill_(1)
        finally:
            self._broadcast(number, come)
        if not come.item():
            raise StoreError(f"rank {number % self._size} of the group could not read its part of the weights")

    def share(self, number: int, pieces: Sequence[torch.Tensor]) -> None:
        """See there."""
        for piece in pieces:
            self._broadcast(number, piece)

    def _broadcast(self, number: int, tensor: torch.Tensor) -> None:
        import torch.distributed

        reader = torch.distributed.get_global_rank(self._group, number % self._size)
        torch.distributed.broadcast(tensor, reader, group=self._group)

    def look(self, open_all: Callable[[], T], version: Callable[[T], object]) -> T:
        """What `open_all` gives, in all ranks, or an error in all; `version` tells by what it differs.

        Errors: those of `open_all`, in other ranks a `StoreError` with their text; `ObjectChangedError`.
        """
        import torch.distributed

        told: list[tuple[object, str]] = [(None, "")] * self._size
        found, failure = None, None
        try:
            found = open_all()
        except Exception as error:
            failure = error
        mine = (None, f"{type(failure).__name__}: {failure}") if found is None else (version(found), "")
        torch.distributed.all_gather_object(told, mine, group=self._group)
        if failure is not None:
            raise failure
        for _, text in told:
            if text:
                raise StoreError(f"another rank of the group failed: {text}")
        if any(each != told[0] for each in told):
            raise ObjectChangedError("the ranks of the group see different versions of the weights")
        assert found is not None
        return found
