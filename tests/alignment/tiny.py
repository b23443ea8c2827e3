"""Kernels that compile quickly. Each compiling adds a line to the file that `TINY_COMPILED` names."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from numba import types

_given = types.ExternalFunction("given_by_the_test", types.int32())


def _twice(number: Any) -> Any:
    return 2 * number


def _calling(number: Any) -> Any:
    return number + _given()


def _cautious(number: Any) -> Any:
    if number < 0:
        raise ValueError
    return number


_FUNCTIONS: dict[str, Callable[[Any], Any]] = {"twice": _twice, "calling": _calling, "cautious": _cautious}


def build(name: str) -> tuple[Callable[..., Any], Any]:
    if "TINY_COMPILED" in os.environ:
        with open(os.environ["TINY_COMPILED"], "a") as file:
            file.write(f"{name}\n")
    return _FUNCTIONS[name], types.int64(types.int64)
