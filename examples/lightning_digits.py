"""Train a small network on handwritten digits with Lightning. The digits are in a bucket, and so are its checkpoints.

    python examples/lightning_digits.py s3://bucket
    python examples/lightning_digits.py s3://bucket --epochs 8

The first run puts scikit-learn's 1,797 digits into the bucket, if they are not there: `train/0017-3` shows a three.
Every run makes a checkpoint after each epoch, and begins where the newest one ends, also after it was killed. A
checkpoint appears as a whole or not at all, so there is always one to begin with.

Lightning itself looks at the folder of checkpoints, with fsspec: `pip install s3dlio[lightning] s3fs scikit-learn`.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader

import s3dlio
from s3dlio.compat.s3torchconnector import S3MapDataset, S3Reader
from s3dlio.compat.s3torchconnector.lightning import S3LightningCheckpoint

REGION = os.environ.get("AWS_REGION", "us-east-1")
TEST_EVERY = 5


def fill(uri: str) -> None:
    """Put the digits into the bucket, an object each: images of 64 bytes, every fifth under `test/`."""
    data = load_digits()
    objects = {
        f"{uri}/{'train' if number % TEST_EVERY else 'test'}/{number:04}-{label}": image.tobytes()
        for number, (image, label) in enumerate(zip(data.images.astype(np.uint8), data.target, strict=True))
    }
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(s3dlio.put, objects, objects.values()))


def decode(item: S3Reader) -> tuple[Tensor, int]:
    """An image, float32 in 0 to 1 of shape (64,), and its label, which is the last letter of the key."""
    pixels = torch.frombuffer(bytearray(item.read()), dtype=torch.uint8)
    return pixels / 16, int(item.key[-1])


def batches(uri: str, *, shuffle: bool = False) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of images, float32 of shape (n, 64), and labels, int64 of shape (n,); each is fetched all at once."""
    dataset = S3MapDataset.from_prefix(uri, region=REGION, transform=decode)
    return DataLoader(dataset, batch_size=32, shuffle=shuffle)


class DigitClassifier(pl.LightningModule):
    """Two linear layers: images to ten scores."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        images, labels = batch
        return nn.functional.cross_entropy(self.layers(images), labels)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the share of the images that the network knows."""
        images, labels = batch
        right = self.layers(images).argmax(1) == labels
        self.log("accuracy", right.float().mean(), batch_size=len(labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def train(uri: str, epochs: int) -> None:
    """Train until `epochs` are done, those of earlier runs included, and print the accuracy."""
    torch.manual_seed(0)
    checkpoint = f"{uri}/checkpoints/newest.ckpt"
    begin = checkpoint if s3dlio.exists(checkpoint) else None
    print(f"beginning with {begin or 'a new network'}")
    trainer = pl.Trainer(
        max_epochs=epochs,
        plugins=[S3LightningCheckpoint(REGION)],
        callbacks=[ModelCheckpoint(f"{uri}/checkpoints", filename="newest", enable_version_counter=False)],
        accelerator="cpu",
        logger=False,
        enable_model_summary=False,
    )
    model = DigitClassifier()
    trainer.fit(model, batches(f"{uri}/train/", shuffle=True), ckpt_path=begin)
    (metrics,) = trainer.test(model, batches(f"{uri}/test/"), verbose=False)
    print(f"epochs: {trainer.current_epoch}, test accuracy: {metrics['accuracy']:.2%}")


def main() -> None:
    """Fill the bucket where it is empty, and train."""
    parser = argparse.ArgumentParser(description="Train a small network on digits that lie in a bucket.")
    parser.add_argument("uri", help="where the digits lie, and the checkpoints, such as s3://bucket")
    parser.add_argument("--epochs", type=int, default=4, help="how many in all, earlier runs included")
    arguments = parser.parse_args()
    uri = arguments.uri.rstrip("/")
    if next(iter(s3dlio.list(f"{uri}/train/")), None) is None:
        fill(uri)
    train(uri, arguments.epochs)


if __name__ == "__main__":
    main()
