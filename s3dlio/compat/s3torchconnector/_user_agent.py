"""How the client introduces itself to servers."""

from __future__ import annotations

import platform

import torch

from ...version import __version__


class UserAgent:
    """The text of the `User-Agent` header: what runs here, and `comments` in parentheses.

    Source: RFC 9110, section 10.1.5. Errors: `ValueError` where `comments` is no list.
    """

    def __init__(self, comments: list[str] | None = None) -> None:
        if comments is not None and not isinstance(comments, list):
            raise ValueError("Argument comments must be a List[str]")
        self._comments = [comment for comment in comments or () if comment]

    @staticmethod
    def get_default_prefix() -> str:
        """Library, operating system, Python, machine and PyTorch, each with its version."""
        system = platform.system().lower()
        return (
            f"s3dlio/{__version__} ua/2.1 os/{system}#{platform.release()} lang/python#{platform.python_version()}"
            f" md/arch#{platform.machine().lower()} md/pytorch#{torch.__version__}"
        )

    @property
    def prefix(self) -> str:
        """The whole text."""
        prefix = self.get_default_prefix()
        return f"{prefix} ({'; '.join(self._comments)})" if self._comments else prefix
