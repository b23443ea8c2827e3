"""A training program in small: `python -m tests.arrays.loader_program URI...` prints what it read."""

from __future__ import annotations

import json
import sys
from typing import Any, cast

from torch.utils.data import DataLoader, Dataset

from s3dlio.shards import ShardDataset


def label(sample: dict[str, Any]) -> tuple[str, int]:
    return sample["__key__"], int(sample["cls"])


def main(*uris: str) -> None:
    """Load in forked and in spawned workers, when the network was used before."""
    samples: Any = ShardDataset(uris, label, save=False)
    found = {"first": samples[0]}
    for method, workers in (("fork", 2), ("spawn", 1)):
        options: dict[str, Any] = {"num_workers": workers, "multiprocessing_context": method, "collate_fn": list}
        loader = DataLoader(cast("Dataset[Any]", samples), batch_size=4, shuffle=True, **options)
        found[method] = sorted(item for batch in loader for item in batch)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
