"""The migration guide's complete example, unchanged, with four workers, forked and spawned."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from .servers.seaweedfs import SeaweedFS

SCRIPT = Path(__file__).with_name("guide_script.py")
BUCKET = "my-bucket"
FEW_CORES = "ignore:This DataLoader will create 4 worker processes"
OBJECTS = {f"train/{number:03}": f"sample {number} ".encode() * (number + 1) for number in range(150)}


@pytest.fixture(scope="module")
def guide_bucket(s3_server: SeaweedFS) -> None:
    """The bucket that the example names, with more objects than one round of batches takes, and one elsewhere."""
    s3_server.create_bucket(BUCKET)
    client = boto3.client(
        "s3",
        endpoint_url=s3_server.endpoint,
        region_name=s3_server.region,
        aws_access_key_id=s3_server.access_key,
        aws_secret_access_key=s3_server.secret_key,
    )
    for key, body in {**OBJECTS, "training/not-under-the-prefix": b"no"}.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=body)
    client.close()


@pytest.mark.usefixtures("guide_bucket", "s3_environment")
def test_printed_example_reads_every_object_once_and_restores_its_checkpoint() -> None:
    command = [sys.executable, "-W", FEW_CORES, str(SCRIPT), "fork", "spawn"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=200)
    assert done.returncode == 0, done.stderr
    expected = [[BUCKET, key, hashlib.sha256(body).hexdigest()] for key, body in OBJECTS.items()]
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(sorted(report["reads"]), report["restored"]) for report in reports] == [(expected, True)] * 2
    assert done.stderr == ""
