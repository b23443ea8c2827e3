"""What S3 tells of an archived object that was asked back. Source: "HeadObject" in the API Reference."""

from __future__ import annotations

import re

from ...model import RestoreStatus
from ...transport.http1 import http_date

_EXPIRY = re.compile('expiry-date="([^"]*)"')


def restore_status(text: str | None) -> RestoreStatus | None:
    """What `x-amz-restore` says, as in `ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"`."""
    if text is None:
        return None
    expiry = _EXPIRY.search(text)
    return RestoreStatus('ongoing-request="true"' in text, http_date(expiry[1]) if expiry else None)
