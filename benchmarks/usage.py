"""What this process uses of the machine."""

from __future__ import annotations

import contextlib
import re
import resource
from pathlib import Path


def begin_peak() -> int:
    """Bytes that are resident now. The largest resident set is looked for from here on."""
    with contextlib.suppress(OSError):  # not every kernel has it; then the peak may be one of the imports
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, see proc(5)
    return memory("VmRSS")


def cpu_seconds() -> float:
    """CPU time of this process, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory(name: str) -> int:
    """A line of /proc/self/status, in bytes. `ru_maxrss` would not do: a child inherits its parent's."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10
