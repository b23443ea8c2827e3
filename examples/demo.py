"""The whole way of a training job, on this machine alone: `make demo`.

Starts an S3 server, puts scikit-learn's 1,797 handwritten digits into a bucket, trains on them with the code of
`train_digits.py`, and evaluates the checkpoint in a process of its own. Fails unless both accuracies are the same and
above 95 %.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import trio
from sklearn.datasets import load_digits
from tqdm import tqdm

import s3dlio
from tests.servers.seaweedfs import seaweedfs

SCRIPT = Path(__file__).with_name("train_digits.py")
BUCKET = "digits"
TEST_EVERY = 5
REQUIRED = 0.95


def digits() -> dict[str, bytes]:
    """Objects by key: `train/NUMBER-LABEL` and, every fifth, `test/NUMBER-LABEL`."""
    data = load_digits()
    images = data.images.astype(np.uint8)
    folders = ["train" if number % TEST_EVERY else "test" for number in range(len(images))]
    return {
        f"{folder}/{number:04}-{label}": image.tobytes()
        for number, (folder, image, label) in enumerate(zip(folders, images, data.target, strict=True))
    }


async def upload(uri: str, objects: Mapping[str, bytes]) -> None:
    """Put all objects, as many at once as the store has connections."""
    with tqdm(total=len(objects), desc="uploading", unit="object", disable=None) as progress:

        async def put(key: str, data: bytes) -> None:
            await store.put(key, data)
            progress.update()

        async with s3dlio.open_store(uri) as store, trio.open_nursery() as nursery:
            for key, data in objects.items():
                nursery.start_soon(put, key, data)


def run(what: str, uri: str) -> str:
    """What `train_digits.py` prints, from a fresh process."""
    command = [sys.executable, str(SCRIPT), what, uri]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def found(pattern: str, text: str) -> tuple[float, float]:
    """The two numbers that `pattern` finds in `text`."""
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"{pattern!r} is not in {text!r}")
    return float(match[1]), float(match[2])


def accuracy(text: str) -> float:
    """The accuracy that a run of `train_digits.py` printed, 0 to 1."""
    right, total = found(r"test accuracy: (\d+) of (\d+)", text)
    return right / total


def main() -> int:
    """Run it all; 0 where the checkpoint is as good as the model it was made of."""
    begin = time.perf_counter()
    uri = f"s3://{BUCKET}"
    objects = digits()
    with seaweedfs() as server:
        server.create_bucket(BUCKET)
        os.environ.update(server.environment())
        started = time.perf_counter()
        trio.run(upload, uri, objects)
        uploaded = time.perf_counter() - started
        trained = run("train", uri)
        evaluated = run("evaluate", uri)

    read, seconds = found(r"read while training: (\d+) objects of 64 bytes in ([\d.]+) s", trained)
    print(f"uploaded             {len(objects) / uploaded:8,.0f} objects/s  ({len(objects)} objects)")
    print(f"read while training  {read / seconds:8,.0f} objects/s  {read * 64 / seconds / 1e9:.6f} GB/s  ", end="")
    print("(objects of 64 bytes: requests are the work, not bytes)")
    print(f"accuracy after training           {accuracy(trained):.2%}")
    print(f"accuracy of the checkpoint        {accuracy(evaluated):.2%}  (loaded by another process)")
    print(f"wall time            {time.perf_counter() - begin:8.1f} s")
    if accuracy(trained) != accuracy(evaluated) or accuracy(evaluated) <= REQUIRED:
        print(f"failed: the accuracies must be the same and above {REQUIRED:.0%}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
