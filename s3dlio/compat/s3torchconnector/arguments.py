"""Arguments of the wrong type, refused in the words of the original, whose native half they would not reach."""

from __future__ import annotations

import math
import operator


def check(kind: type, **arguments: object) -> None:
    """Errors: `TypeError` where an argument is no `kind`; `UnicodeEncodeError` for a text that UTF-8 cannot hold."""
    for name, value in arguments.items():
        if not isinstance(value, kind):
            raise TypeError(f"argument '{name}': '{type(value).__name__}' object cannot be cast as '{kind.__name__}'")
        if isinstance(value, str):
            value.encode()


def check_given(**arguments: object) -> None:
    """The same of texts that may be `None`."""
    check(str, **{name: value for name, value in arguments.items() if value is not None})


def integer(name: str, value: int) -> int:
    """`value`, which may be of any type that is a whole number. Errors: `TypeError`."""
    try:
        return operator.index(value)
    except TypeError as error:
        raise TypeError(f"argument '{name}': {error}") from None


def count(name: str, value: int) -> int:
    """The same from zero on. Errors: `TypeError`, `OverflowError`."""
    number = integer(name, value)
    if number < 0:
        raise OverflowError("can't convert negative int to unsigned")
    return number


def real(name: str, value: float) -> float:
    """`value`, which may be of any type that is a real number. Errors: `TypeError`."""
    try:
        math.isnan(value)
    except TypeError as error:
        raise TypeError(f"argument '{name}': {error}") from None
    return float(value)
