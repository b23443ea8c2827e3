"""URLs that are signed: the example of the specification, and a real server that takes them from a stranger."""

from __future__ import annotations

import urllib.error
import urllib.request
from datetime import UTC, datetime

import pytest

import s3dlio
from s3dlio import Config, NoCredentialsError, UnsupportedError
from s3dlio.auth.sigv4 import Credentials
from s3dlio.stores.s3.presigning import presigned_url
from s3dlio.stores.s3.route import Route
from s3dlio.transport.endpoint import parse_endpoint

KEYS = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
NOW = datetime(2013, 5, 24, tzinfo=UTC).timestamp()


def test_the_example_of_the_specification() -> None:
    route = Route(parse_endpoint("https://examplebucket.s3.amazonaws.com"), "", "us-east-1", True)
    url = presigned_url(route, "/test.txt", "GET", seconds=86400, credentials=KEYS, now=NOW)
    assert url == (
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential="
        "AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400"
        "&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


@pytest.mark.usefixtures("s3_environment")
def test_a_stranger_reads_and_writes_by_it(bucket: str) -> None:
    uri = f"s3://{bucket}/a key+é"
    written = urllib.request.Request(s3dlio.presign(uri, method="PUT"), data=b"data", method="PUT")
    urllib.request.urlopen(written).close()
    assert s3dlio.get(uri) == b"data"
    link = s3dlio.presign(uri, seconds=60)
    with urllib.request.urlopen(link) as answer:
        assert answer.read() == b"data"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(link.replace("Expires=60", "Expires=61"))
    assert caught.value.code == 403
    caught.value.close()


def test_what_cannot_be_signed_is_refused(s3_environment: object) -> None:
    with pytest.raises(UnsupportedError, match="no signed URLs"):
        s3dlio.presign("memory://bucket/key")
    with pytest.raises(NoCredentialsError):
        s3dlio.presign("s3://bucket/key", config=Config(anonymous=True))
    with pytest.raises(UnsupportedError, match="directory buckets"):
        s3dlio.presign("s3://name--use1-az4--x-s3/key", config=Config(endpoint="https://localhost"))
    for seconds in (0, 604_801):
        with pytest.raises(ValueError, match="1 to 604800"):
            s3dlio.presign("s3://bucket/key", seconds=seconds)
