"""The URIs of datasets and checkpoints, taken apart."""

from __future__ import annotations

from typing import Any

import pytest

from s3dlio.compat.s3torchconnector import S3Checkpoint
from s3dlio.compat.s3torchconnector.uri import split_uri
from s3dlio.urls import SCHEMES, Uri


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("s3://b", ("b", "")),
        ("s3://b/", ("b", "")),
        ("s3://b//x", ("b", "/x")),
        ("s3://b/a%20b+c#d?e=é", ("b", "a%20b+c#d?e=é")),
    ],
)
def test_a_uri_is_taken_apart_without_decoding(uri: str, parts: tuple[str, str]) -> None:
    assert split_uri(uri) == Uri("s3", *parts)


def test_a_misspelt_scheme_is_told_all_there_are() -> None:
    with pytest.raises(ValueError, match="Only s3:// URIs are supported") as caught:
        S3Checkpoint("r").reader("s4://bucket/key")
    first, second = str(caught.value).splitlines()
    assert first == "Only s3:// URIs are supported"
    assert all(f"{scheme}://" in second for scheme in SCHEMES)
    assert "'s4://bucket/key'" in second


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        (None, "Only s3:// URIs are supported"),
        ("", "Only s3:// URIs are supported"),
        ("S3://b/k", "Only s3:// URIs are supported"),
        ("https://b/k", "Only s3:// URIs are supported"),
        ("s3://", "Bucket name must be non-empty"),
        ("s3:///k", "Bucket name must be non-empty"),
    ],
)
def test_what_is_no_uri(uri: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        split_uri(uri)
    for opened in (S3Checkpoint("r").reader, S3Checkpoint("r").writer):
        with pytest.raises(ValueError, match=text):
            opened(uri)
