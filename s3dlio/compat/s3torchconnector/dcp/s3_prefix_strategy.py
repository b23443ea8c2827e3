"""Where the files of each rank go, below the path of a checkpoint.

S3 splits a bucket among its machines by key prefix, so files that begin differently are written faster. Source: "Best
practices design patterns: optimizing Amazon S3 performance".
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.distributed


class S3PrefixStrategyBase(ABC):
    """A function from the rank to what the names of its files begin with. Subclass it for another one."""

    def __call__(self, rank: int) -> str:
        """What the names of the files of `rank` begin with: the same as :meth:`generate_prefix`."""
        return self.generate_prefix(rank)

    @abstractmethod
    def generate_prefix(self, rank: int) -> str:
        """What the names of the files of `rank` begin with, relative to the checkpoint's path."""


class DefaultPrefixStrategy(S3PrefixStrategyBase):
    """`__<rank>_`, in the checkpoint's folder, as PyTorch has it."""

    def generate_prefix(self, rank: int) -> str:
        """`__<rank>_`, for the number `rank`."""
        return f"__{rank}_"


class NumericPrefixStrategy(S3PrefixStrategyBase):
    """A folder for each number in some `base`: ranks share `prefix_count` folders in turn.

    The digits are reversed, so that the keys of neighbours differ early, and padded with zeros to `min_prefix_length`
    digits. With `epoch_num`, an integer, there is a folder `epoch_<n>` in each. `prefix_count` is by default the number
    of ranks when the strategy is made, 1 where PyTorch's process group is not initialised.
    Errors: `ValueError` for a length or count that is not positive, and for an epoch that is no integer.
    """

    def __init__(
        self, base: int, epoch_num: int | None = None, min_prefix_length: int = 10, prefix_count: int | None = None
    ) -> None:
        if min_prefix_length < 1:
            raise ValueError(f"Minimum prefix length must be positive, got {min_prefix_length}")
        if epoch_num is not None and not isinstance(epoch_num, int):
            raise ValueError(f"Epoch number must be None or an integer, got {epoch_num}")
        if prefix_count is not None and (not isinstance(prefix_count, int) or prefix_count < 1):
            raise ValueError(f"Prefix count must be a positive integer, got {prefix_count}")
        self.base = base
        self.epoch_num = epoch_num
        self.min_prefix_len = min_prefix_length
        self.prefix_count = prefix_count or _world_size()
        length = max(min_prefix_length, _digits(self.prefix_count, base))
        self.prefix_map = [self._format_number(number, length)[::-1] for number in range(self.prefix_count)]

    def generate_prefix(self, rank: int) -> str:
        """`<digits>/[epoch_<n>/]__<rank>_`, for the number `rank`."""
        return f"{self.prefix_map[rank % self.prefix_count]}/{_epoch_folder(self.epoch_num)}__{rank}_"

    @abstractmethod
    def _format_number(self, number: int, length: int) -> str:
        """`number` in the base, the most significant digit first, with zeros before it up to `length` digits."""


class _DigitPrefixStrategy(NumericPrefixStrategy):
    """One whose base has a format in Python."""

    _base: int
    _format: str

    def __init__(
        self,
        epoch_num: int | None = None,
        min_prefix_length: int = 10,
        prefix_count: int | None = None,
        *,
        min_prefix_len: int | None = None,
    ) -> None:
        length = min_prefix_length if min_prefix_len is None else min_prefix_len
        super().__init__(self._base, epoch_num, length, prefix_count)

    def _format_number(self, number: int, length: int) -> str:
        return f"{number:0{length}{self._format}}"


class BinaryPrefixStrategy(_DigitPrefixStrategy):
    """Folders of binary digits: see :class:`NumericPrefixStrategy`, also for `epoch_num` and `prefix_count`.

    `min_prefix_len` is another name of `min_prefix_length`, the least count of digits.
    """

    _base, _format = 2, "b"


class HexPrefixStrategy(_DigitPrefixStrategy):
    """Folders of hexadecimal digits: see :class:`NumericPrefixStrategy`, also for `epoch_num` and `prefix_count`.

    `min_prefix_len` is another name of `min_prefix_length`, the least count of digits.
    """

    _base, _format = 16, "x"


class RoundRobinPrefixStrategy(S3PrefixStrategyBase):
    """The folders `user_prefixes` in turn. With `epoch_num` there is a folder `epoch_<n>` in each.

    Errors: `ValueError` where no folders are given.
    """

    def __init__(self, user_prefixes: list[str], epoch_num: int | None = None) -> None:
        if not user_prefixes:
            raise ValueError("user_prefixes must not be empty")
        self.user_prefixes = user_prefixes
        self.epoch_num = epoch_num

    def generate_prefix(self, rank: int) -> str:
        """`<folder>/[epoch_<n>/]__<rank>_`, for the number `rank`."""
        folder = self.user_prefixes[rank % len(self.user_prefixes)]
        return f"{folder}/{_epoch_folder(self.epoch_num)}__{rank}_"


def _epoch_folder(epoch: int | None) -> str:
    return f"epoch_{epoch}/" if epoch is not None else ""


def _digits(count: int, base: int) -> int:
    """How many digits make `count` different numerals."""
    digits, numerals = 1, base
    while numerals < count:
        digits, numerals = digits + 1, numerals * base
    return digits


def _world_size() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
