"""What programs take from `s3torchconnectorclient`, the native half of s3torchconnector: its exception above all."""

from __future__ import annotations

from .s3torchconnector import S3Exception, __version__

LOG_TRACE = 5
"""The level of the native client's most talkative messages. Nothing is logged at it here."""

__all__ = ["LOG_TRACE", "S3Exception", "__version__"]
