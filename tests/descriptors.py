"""What this process has open."""

from __future__ import annotations

import os


def open_sockets() -> int:
    """How many descriptors of this process are sockets."""
    found = 0
    for number in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
        except FileNotFoundError:  # the listing's own
            continue
    return found
