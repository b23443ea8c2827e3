"""Checkpoints of Lightning in buckets. Needs the package `lightning`."""

from __future__ import annotations

from .s3_lightning_checkpoint import S3LightningCheckpoint

__all__ = ["S3LightningCheckpoint"]
