"""Checkpoints of Lightning in buckets. Needs the package `lightning`."""

from __future__ import annotations

from ...extras import naming_the_extra

try:
    from . import folders
    from .s3_lightning_checkpoint import S3LightningCheckpoint
except ModuleNotFoundError as error:
    raise naming_the_extra(error) from None

__all__ = ["S3LightningCheckpoint"]

folders.register()
