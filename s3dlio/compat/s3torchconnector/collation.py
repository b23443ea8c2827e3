"""Lets PyTorch's default collate function make batches of readers: a batch of readers is a list of readers."""

from __future__ import annotations

from typing import Any

from torch.utils.data._utils.collate import default_collate_fn_map

from .s3reader import S3Reader


def _collate_readers(batch: list[S3Reader], *, collate_fn_map: dict[Any, Any] | None = None) -> list[S3Reader]:
    return list(batch)


def register() -> None:
    """Tell PyTorch. Doing so again changes nothing."""
    default_collate_fn_map[S3Reader] = _collate_readers
