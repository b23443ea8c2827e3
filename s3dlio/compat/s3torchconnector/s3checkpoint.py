"""Checkpoints: `torch.save` and `torch.load` to and from an object."""

from __future__ import annotations

from ._s3client import S3Client, S3ClientConfig
from .s3reader import S3Reader
from .s3writer import S3Writer
from .uri import split_uri


class S3Checkpoint:
    """Readers for `torch.load` and writers for `torch.save`.

    `region` may be `None`: then it comes from the environment.
    """

    def __init__(
        self, region: str | None = None, endpoint: str | None = None, s3client_config: S3ClientConfig | None = None
    ) -> None:
        self.region = region
        self.endpoint = endpoint
        self._client = S3Client(region, endpoint=endpoint, s3client_config=s3client_config)

    def reader(self, s3_uri: str) -> S3Reader:
        """A reader of the object that `s3_uri` names. No request is made.

        Errors: `ValueError` for a URI of an unknown scheme, or without a bucket.
        """
        uri = split_uri(s3_uri)
        return self._client.get_object(uri.bucket, uri.key, scheme=uri.scheme)

    def writer(self, s3_uri: str) -> S3Writer:
        """A writer whose content becomes the object that `s3_uri` names when it is closed.

        Errors: `ValueError` for a URI of an unknown scheme, or without a bucket.
        """
        uri = split_uri(s3_uri)
        return self._client.put_object(uri.bucket, uri.key, scheme=uri.scheme)
