"""Reads all objects below a URI as a data set, and prints what they are and how many requests that took."""

from __future__ import annotations

import hashlib
import sys

import s3dlio
from s3dlio.compat.s3torchconnector import S3MapDataset


def main() -> None:
    dataset = S3MapDataset.from_prefix(sys.argv[1], region="us-east-1")
    digest = hashlib.sha256()
    for number in range(len(dataset)):
        digest.update(dataset[number].read())
    print(digest.hexdigest(), sum(each.requests for each in s3dlio.stats().endpoints))


if __name__ == "__main__":
    main()
