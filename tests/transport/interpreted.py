"""The pump's reading of heads by the interpreter, not in machine code: every byte that it looks at must be there."""

from __future__ import annotations

from types import FunctionType
from typing import Any

from s3dlio.transport import pump_head


class InterpretedHead:
    """The functions of :mod:`s3dlio.transport.pump_head`, from the same source. Errors: `IndexError` beyond the end."""

    def __init__(self) -> None:
        self._data = b""
        self._names: dict[str, Any] = {}
        for name, value in vars(pump_head).items():
            function = getattr(value, "py_func", value)
            of_pump = isinstance(function, FunctionType) and function.__module__ == pump_head.__name__
            self._names[name] = FunctionType(function.__code__, self._names) if of_pump else value
        self._names["byte_at"] = self._byte_at

    def _byte_at(self, place: int) -> int:
        assert place >= 0
        return self._data[place]

    def head_end(self, data: bytes, searched: int = 0) -> int:
        """How many bytes the head has; 0 where it has no end yet. Of `searched` bytes is known that they have none."""
        self._data = data
        end: int = self._names["head_end"](0, len(data), searched)
        return end

    def plain_length(self, head: bytes) -> int:
        """The body's length, where the head is plain; else below 0."""
        self._data = head
        length: int = self._names["plain_length"](0, len(head))
        return length
