"""`s3torchconnectorclient`: what it exports is here too, and is the same."""

from __future__ import annotations

import s3torchconnectorclient as original

from s3dlio.compat import s3torchconnector
from s3dlio.compat import s3torchconnectorclient as ours


def test_every_exported_name_is_here() -> None:
    assert sorted(ours.__all__) == sorted(original.__all__)
    assert (ours.LOG_TRACE, ours.__version__) == (original.LOG_TRACE, original.__version__)


def test_the_exception_is_the_one_that_is_raised() -> None:
    assert ours.S3Exception is s3torchconnector.S3Exception
    assert issubclass(original.S3Exception, Exception)
