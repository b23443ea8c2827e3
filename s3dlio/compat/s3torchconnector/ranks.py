"""The ranks of a distributed job (`torch.distributed`), and a listing that one of them makes for all."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence

from torch import distributed

from ._s3bucket_key_data import S3BucketKeyData
from .columns import in_columns
from .errors import S3Exception


def rank_and_world_size() -> tuple[int, int]:
    """This process's number, and how many there are; without a process group it is the only one."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def found_by_one_rank(find: Callable[[], Iterable[S3BucketKeyData]]) -> Sequence[S3BucketKeyData]:
    """What `find` gives at rank 0; all ranks call this. Errors: those of `find`, elsewhere `S3Exception` for them."""
    rank, ranks = rank_and_world_size()
    if ranks == 1:
        return in_columns(find())
    if rank == 0:
        return _sent(find)
    told: list[bytes | str | None] = [None]
    distributed.broadcast_object_list(told)
    if not isinstance(told[0], bytes):
        raise S3Exception(f"rank 0 could not list the objects: {told[0]}")
    found: Sequence[S3BucketKeyData] = pickle.loads(told[0])
    return found


def _sent(find: Callable[[], Iterable[S3BucketKeyData]]) -> Sequence[S3BucketKeyData]:
    try:
        found = in_columns(find())
        told: bytes | str = pickle.dumps(found)
    except Exception as error:
        distributed.broadcast_object_list(
            [f"{type(error).__name__}: {error}"]
        )  # a text: they wait, so this may not fail
        raise
    distributed.broadcast_object_list([told])
    return found
