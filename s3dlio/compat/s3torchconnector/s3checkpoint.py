"""Checkpoints: `torch.save` and `torch.load` to and from an object."""

from __future__ import annotations

from ._s3client import S3Client, S3ClientConfig
from .s3reader import S3Reader
from .s3writer import S3Writer
from .uri import split_uri


class S3Checkpoint:
    """Readers for `torch.load` and writers for `torch.save`.

    `region` is that of the buckets, such as `us-east-1`; `None` takes it from the environment. `endpoint` is the URL of
    another service than AWS, or of a region's own host; `None` takes it from `AWS_ENDPOINT_URL`, and without that it is
    AWS. `s3client_config` is an `S3ClientConfig`: part size, attempts, credentials; `None` means its default values.
    Errors: none here. What is wrong with the arguments is an `S3Exception` or `TypeError` on first use.
    """

    def __init__(
        self, region: str | None = None, endpoint: str | None = None, s3client_config: S3ClientConfig | None = None
    ) -> None:
        self.region = region
        self.endpoint = endpoint
        self._client = S3Client(region, endpoint=endpoint, s3client_config=s3client_config)

    def reader(self, s3_uri: str) -> S3Reader:
        """A reader of the object that `s3_uri` names, such as `s3://bucket/model.pt`. No request is made.

        Errors: `ValueError` for a URI of an unknown scheme, or without a bucket; of the reader, `S3Exception`.
        """
        uri = split_uri(s3_uri)
        return self._client.get_object(uri.bucket, uri.key, scheme=uri.scheme)

    def writer(self, s3_uri: str) -> S3Writer:
        """A writer whose content becomes the object that `s3_uri` names when it is closed, and not before.

        Errors: `ValueError` for a URI of an unknown scheme, or without a bucket; of the writer, `S3Exception`.
        """
        uri = split_uri(s3_uri)
        return self._client.put_object(uri.bucket, uri.key, scheme=uri.scheme)
