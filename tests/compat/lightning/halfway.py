"""Something happens in the middle of a save: a part of the checkpoint has been sent, another has not."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from s3dlio.blocking.store import BlockingWriter
from s3dlio.compat.s3torchconnector import S3ClientConfig

_PART = 5 << 20
SMALL_PARTS = S3ClientConfig(part_size=_PART)
"""Of parts so small, a checkpoint with ballast takes several."""


def ballast() -> list[Tensor]:
    """Three tensors, each as large as a part. `torch.save` writes one after the other."""
    return [torch.full((_PART,), number, dtype=torch.uint8) for number in range(3)]


@contextlib.contextmanager
def half_way(action: Callable[[], object]) -> Iterator[None]:
    """Within, each save of a checkpoint with ballast calls `action`, on its thread, when it has written two parts."""
    write = BlockingWriter.write

    def watched(writer: BlockingWriter, data: Any) -> None:
        before = writer._held.value.size
        write(writer, data)
        if before < 2 * _PART <= writer._held.value.size:
            action()

    with mock.patch.object(BlockingWriter, "write", watched):
        yield
