"""Lightning's checkpoints, saved to and loaded from buckets."""

from __future__ import annotations

import os
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.io import CheckpointIO
from packaging.version import Version

from ....urls import Uri
from .._s3client import S3Client, S3ClientConfig
from .._user_agent import UserAgent
from ..uri import split_uri
from .folders import as_given

_HAND_OVER = ".temp.ckpt"
"""Name of the file by which a Lightning strategy that starts processes of its own (`ddp_spawn`, `ddp_fork`,
`ddp_notebook`) hands the weights to the main process. It is in a temporary directory, and goes through the plugin."""


class S3LightningCheckpoint(CheckpointIO):
    """A plugin for Lightning's `Trainer` whose checkpoints are objects. Their paths are URIs of any scheme.

    A checkpoint that could not be saved whole leaves the older one of its name as it was. `region` and `endpoint` (a
    URL) say where the buckets are; where they are `None`, the environment does. `s3client_config` is an
    `S3ClientConfig`: part size, attempts, credentials. Errors of all methods: `TypeError` for a path that is no string,
    `ValueError` for one that is no URI, and `S3Exception`.
    """

    def __init__(
        self, region: str | None, s3client_config: S3ClientConfig | None = None, endpoint: str | None = None
    ) -> None:
        self.region = region
        self._client = S3Client(
            region,
            endpoint=endpoint,
            user_agent=UserAgent(["lightning", lightning.__version__]),
            s3client_config=s3client_config,
        )

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str, storage_options: Any | None = None) -> None:
        """Save `checkpoint` by `torch.save` as the object `path`. `storage_options` has no meaning here."""
        uri = _parse(path)
        with self._client.put_object(uri.bucket, uri.key, scheme=uri.scheme) as writer:
            torch.save(checkpoint, writer)

    def load_checkpoint(
        self, path: str, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The checkpoint saved as the object `path`.

        `map_location` (the device to load to) and `weights_only` (tensors and plain values alone, which is safe) are
        those of `torch.load`; where the latter is `None`, PyTorch decides, or for Lightning before 2.6, as there, it is
        `False`. Errors: also those of `torch.load`.
        """
        uri = _parse(path)
        if weights_only is None and Version(lightning.__version__) < Version("2.6.0"):
            weights_only = False
        with self._client.get_object(uri.bucket, uri.key, scheme=uri.scheme) as reader:
            loaded: dict[str, Any] = torch.load(reader, map_location, weights_only=weights_only)
        return loaded

    def remove_checkpoint(self, path: str) -> None:
        """Remove the object `path`. Removing an absent one succeeds."""
        uri = _parse(path)
        self._client.delete_object(uri.bucket, uri.key, scheme=uri.scheme)

    def teardown(self) -> None:
        """Do nothing: there is nothing to end."""


def _parse(path: str) -> Uri:
    if not isinstance(path, str):
        raise TypeError(
            f"{type(path).__name__!r} is not a supported type for 'path'. Must be a string formatted as an S3 uri."
        )
    if os.path.isabs(path) and os.path.basename(path) == _HAND_OVER:
        return split_uri(f"file://{path}")
    return split_uri(as_given(path))
