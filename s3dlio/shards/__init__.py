"""Shards: many small files in one large object, a tar or a zip, each read by its range.

An index of what is in a shard is made once and kept beside it. Settings come from the environment, or from `config`.

Errors: `NotFoundError` and other `StoreError`\\ s; `FormatError` for what is no shard.
"""

from __future__ import annotations

from ..archives import Member, Zipped
from .dataset import ShardDataset
from .indexing import index
from .members import Index

__all__ = ["Index", "Member", "ShardDataset", "Zipped", "index"]
