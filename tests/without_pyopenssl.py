"""A plugin of pytest's, `-p tests.without_pyopenssl`: a run as on a machine where pyOpenSSL is not installed."""

from __future__ import annotations

import sys

sys.modules["OpenSSL"] = None  # type: ignore[assignment]
