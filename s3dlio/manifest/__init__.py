"""Manifests: what a prefix holds, written down once, and looked at by all processes of a machine in the same memory.

    manifest.create("s3://bucket/train/", "s3://bucket/train.manifest")
    found = manifest.load("s3://bucket/train.manifest")
    found[5].key, found[5].size

A manifest tells key, size and etag of every object. It is made as it is listed, and mapped: neither takes memory for
the keys. Settings come from the environment, or from `config`.

Errors: `NotFoundError` and other `StoreError`\\ s; `FormatError` for what is no manifest, or is damaged.
"""

from __future__ import annotations

from .comparing import Change, check
from .header import Header
from .mapped import Manifest, load
from .writing import create

__all__ = ["Change", "Header", "Manifest", "check", "create", "load"]
