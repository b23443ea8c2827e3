"""Train a small network on handwritten digits that lie in a bucket, one object each, and keep its weights there too.

    python examples/train_digits.py train s3://bucket
    python examples/train_digits.py evaluate s3://bucket

An object is an 8 by 8 image of 64 bytes, its label the last letter of the key: `train/0017-3` shows a three. Objects
under `test/` are never trained on. `examples/demo.py` fills such a bucket.

Where the code came from s3torchconnector, its import is all that would differ.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from s3dlio.compat.s3torchconnector import S3Checkpoint, S3IterableDataset, S3Reader

REGION = os.environ.get("AWS_REGION", "us-east-1")
EPOCHS = 8


def decode(item: S3Reader) -> tuple[Tensor, int]:
    """An image, float32 in 0 to 1 of shape (1, 8, 8), and its label."""
    pixels = torch.frombuffer(bytearray(item.read()), dtype=torch.uint8)
    return pixels.reshape(1, 8, 8) / 16, int(item.key[-1])


def batches(uri: str) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of images, float32 of shape (n, 1, 8, 8), and labels, int64 of shape (n,)."""
    dataset = S3IterableDataset.from_prefix(uri, region=REGION, transform=decode, enable_sharding=True)
    return DataLoader(dataset, batch_size=16, num_workers=2, persistent_workers=True)


def network() -> nn.Module:
    """Two convolutions and a linear layer: images to ten scores."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def train(uri: str) -> None:
    """Train, save the weights as `model.pt`, print the accuracy and what was read how fast."""
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    loader = batches(f"{uri}/train/")
    count = 0
    begin = time.perf_counter()
    for _ in (progress := tqdm(range(EPOCHS), desc="training", unit="epoch", disable=None)):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            count += len(images)
        progress.set_postfix(loss=f"{loss.item():.4f}")
    seconds = time.perf_counter() - begin
    with S3Checkpoint(region=REGION).writer(f"{uri}/model.pt") as writer:
        torch.save(model.state_dict(), writer)
    print(f"read while training: {count} objects of 64 bytes in {seconds:.3f} s")
    report(model, uri)


def evaluate(uri: str) -> None:
    """Load the weights and print the accuracy."""
    model = network()
    with S3Checkpoint(region=REGION).reader(f"{uri}/model.pt") as reader:
        model.load_state_dict(torch.load(reader))
    report(model, uri)


@torch.no_grad()
def report(model: nn.Module, uri: str) -> None:
    """Print how many of the images under `test/` the model knows."""
    model.eval()
    right = total = 0
    for images, labels in batches(f"{uri}/test/"):
        right += int((model(images).argmax(1) == labels).sum())
        total += len(labels)
    print(f"test accuracy: {right} of {total} ({right / total:.2%})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a small network on digits that lie in a bucket.")
    parser.add_argument("what", choices=("train", "evaluate"))
    parser.add_argument("uri", help="where the digits lie, such as s3://bucket")
    arguments = parser.parse_args()
    {"train": train, "evaluate": evaluate}[arguments.what](arguments.uri.rstrip("/"))
