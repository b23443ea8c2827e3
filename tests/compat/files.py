"""Steps that one takes with a file, and what each gives: of a reader, and of the `io.BytesIO` it is compared with."""

from __future__ import annotations

import io
from typing import Any

from hypothesis import strategies as st

_SIZES = st.one_of(st.none(), st.integers(-2, 80))

STEPS = st.one_of(
    st.tuples(st.just("read"), _SIZES),
    st.tuples(st.just("read1"), _SIZES),
    st.tuples(st.just("readline"), _SIZES),
    st.tuples(st.just("readinto"), st.integers(0, 80)),
    st.tuples(st.just("seek"), st.integers(-90, 90), st.sampled_from([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END])),
    st.tuples(st.just("tell")),
)
"""A method's name and its arguments; for `readinto` the size of the buffer."""

CONTENTS = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"x" * 17]), max_size=20).map(b"".join)
"""With lines in it."""


def check_step(reader: io.BufferedIOBase, model: io.BytesIO, step: tuple[Any, ...]) -> None:
    """Take the same step with both: they must agree."""
    name, *arguments = step
    if name == "read1":
        _check_read1(reader, model, *arguments)
    elif name == "readinto":
        assert _read_into(reader, *arguments) == _read_into(model, *arguments), step
    elif name == "seek":
        assert _seek(reader, *arguments) == _seek_in_model(model, *arguments), step
    else:
        assert getattr(reader, name)(*arguments) == getattr(model, name)(*arguments), step
    assert reader.tell() == model.tell()


def _check_read1(reader: io.BufferedIOBase, model: io.BytesIO, size: int | None) -> None:
    """It may give less than there is, but not nothing."""
    piece = reader.read1(size)  # type: ignore[arg-type]
    there = model.read(len(piece))
    assert piece == there
    if size is not None and size >= 0:
        assert len(piece) <= size
    assert piece or size == 0 or model.tell() == len(model.getvalue())


def _read_into(file: io.BufferedIOBase | io.BytesIO, size: int) -> tuple[int, bytes]:
    target = bytearray(size)
    return file.readinto(target), bytes(target)


def _seek(reader: io.BufferedIOBase, offset: int, whence: int) -> int | str:
    try:
        return reader.seek(offset, whence)
    except ValueError as error:
        return str(error)


def _seek_in_model(model: io.BytesIO, offset: int, whence: int) -> int | str:
    """A target before the start is an error here, and one beyond the end is the end; `io.BytesIO` differs in both."""
    size = len(model.getvalue())
    target = {io.SEEK_SET: 0, io.SEEK_CUR: model.tell(), io.SEEK_END: size}[whence] + offset
    return model.seek(min(target, size)) if target >= 0 else f"negative seek value {target}"
