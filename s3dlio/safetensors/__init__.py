"""Weights in the safetensors format, from and to any store: the names of the original, with URIs for paths.

    with safe_open("s3://bucket/model.safetensors.index.json", framework="pt", device="cuda:0") as weights:
        rows = weights.get_slice("embedding")[:1000]
    state = load_file("s3://bucket/model.safetensors", dtype=torch.bfloat16)

All of an object's tensors come in one pass, in parallel ranges, into one piece of memory of which they are views. On a
device, or of another type, they are copied one after the other out of a ring of 8 buffers of 32 MiB. Source of the
format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

from .reading import load_file, load_model, safe_open
from .writing import save_file

__all__ = ["load_file", "load_model", "safe_open", "save_file"]
