"""What is shown of an object: each kind by its content, no more read than that takes, and nothing hostile runs."""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import s3dlio
import s3dlio.numpy

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
HOSTILE = '</pre><script>alert(1)</script><img src=x onerror="alert(1)">'


def shown(content: bytes | str, key: str = "object") -> s3dlio.Preview:
    s3dlio.put(f"memory://previews/{key}", content)
    return s3dlio.preview(f"memory://previews/{key}")


def html(preview: s3dlio.Preview) -> str:
    return preview._repr_html_()


class Elements(HTMLParser):
    """The elements of a piece of HTML, as a browser finds them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.found]


def test_text_is_shown_with_its_name_and_size() -> None:
    assert repr(shown("one\r\n\ttwo\n")) == "memory://previews/object: text, 10 B\none\n        two"


def test_long_text_is_cut() -> None:
    lines = shown("\n".join(str(number) for number in range(100_000))).text.splitlines()
    assert (lines[0], lines[39:]) == ("0", ["39", "..."])
    assert shown("x" * 200).text == "x" * 160 + "..."


def test_what_is_read_may_end_within_a_letter() -> None:
    preview = shown("x" + "é" * 40_000)  # byte 65,536 is the first of a letter's two
    assert preview.kind == "text"
    assert preview.text.splitlines()[-1] == "..."


def test_json_is_indented() -> None:
    preview = shown('{"names": ["é", "\\ud800"]}')
    assert preview.kind == "JSON"
    assert preview.text.splitlines() == ["{", '  "names": [', '    "é",', '    "\\ud800"', "  ]", "}"]


@pytest.mark.parametrize("content", ['{"a": ', "[" * 20_000, '{"a": 1}\n{"a": 2}\n', "[" + "9" * 5000 + "]"])
def test_what_is_no_json_is_text(content: str) -> None:
    assert shown(content).kind == "text"


def test_json_that_was_not_read_to_its_end_is_text() -> None:
    assert shown(json.dumps([0] * 40_000)).kind == "text"


def test_what_is_compressed_is_decompressed_as_far_as_it_is_shown() -> None:
    assert repr(shown(gzip.compress(b'{"a": 1}'))).endswith('\n{\n  "a": 1\n}')
    assert shown(b"\x1f\x8b broken").kind == "bytes"


def test_what_would_be_enormous_is_not_decompressed() -> None:
    shown(bomb := gzip.compress(bytes(1 << 26)))
    tracemalloc.start()
    try:
        assert shown(bomb).kind == "bytes, compressed"
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()


def test_the_type_and_the_shape_of_an_array_are_told() -> None:
    s3dlio.numpy.save("memory://previews/array", np.zeros((3, 4), "f4", order="F"))
    preview = s3dlio.preview("memory://previews/array")
    assert (preview.kind, preview.text) == ("array", "float32 (3, 4), in Fortran's order")
    assert shown(b"\x93NUMPY\1\0\xff\xff{").kind == "bytes"


@pytest.mark.parametrize("count", [2, 2000])  # the header of 2000 is longer than what is read first
def test_tensors_are_listed(count: int) -> None:
    preview = shown(safetensors.numpy.save({f"layer.{number}": np.zeros((2, 3), "f2") for number in range(count)}))
    assert preview.kind == f"{count} tensors"
    assert preview.text.splitlines()[0] == "F16   (2, 3)            layer.0"


@pytest.mark.parametrize(
    ("content", "kind"),
    [(PNG, "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF89a", "gif"), (b"RIFF\n\0\0\0WEBPVP8 ", "webp")],
)
def test_an_image_is_shown_as_what_its_bytes_are(content: bytes, kind: str) -> None:
    ((_, _), (tag, image)) = Elements(html(shown(content, "image.svg"))).found
    assert (tag, image["src"]) == ("img", f"data:image/{kind};base64,{b64encode(content).decode()}")


def test_an_image_is_read_to_its_end() -> None:
    content = PNG + bytes(100_000)
    assert shown(content).image == content


def test_anything_else_is_shown_as_bytes() -> None:
    preview = shown(b"\0A" * 200)
    assert preview.text.splitlines()[0] == " ".join(["00 41"] * 8) + "  " + ".A" * 8
    assert len(preview.text.splitlines()) == 17
    assert shown(b"\0").text == "00".ljust(47) + "  ."


def test_an_empty_object_is_empty_text() -> None:
    assert repr(shown(b"")) == "memory://previews/object: text, 0 B"


@pytest.mark.parametrize("begin", [PNG, b"text", b"\xff" * 8 + b"{"])
def test_of_an_enormous_object_the_beginning_is_read(begin: bytes, tmp_path: Path) -> None:
    with (tmp_path / "enormous").open("wb") as file:
        file.write(begin)
        os.truncate(file.fileno(), 1 << 40)
    preview = s3dlio.preview(f"file://{tmp_path}/enormous")
    assert (preview.size, preview.image) == (1 << 40, b"")
    assert len(preview.text) < 2000


@pytest.mark.parametrize("content", [HOSTILE, json.dumps({HOSTILE: HOSTILE}), f"<svg>{HOSTILE}</svg>", HOSTILE + "\0"])
def test_content_is_never_markup(content: str) -> None:
    assert Elements(html(shown(content))).tags == ["p", "pre"]


def test_names_are_never_markup() -> None:
    assert Elements(html(shown("text", HOSTILE.replace("/", "")))).tags == ["p", "pre"]
    assert Elements(html(shown(PNG, HOSTILE.replace("/", "")))).tags == ["p", "img"]
    tensors = safetensors.numpy.save({HOSTILE: np.zeros(2)})
    assert Elements(html(shown(tensors))).tags == ["p", "pre"]


def test_a_terminal_gets_no_commands() -> None:
    assert repr(shown("\x1b]0;title\x07 \u202e\n", "a\x1b[2J")).isascii()
    assert "\x1b" not in repr(shown("\x1b[31mred", "a\x1b[2J"))
    assert shown("\x1b[31mred").text == r"\x1b[31mred"


def test_what_is_not_there_is_an_error() -> None:
    with pytest.raises(s3dlio.NotFoundError):
        s3dlio.preview("memory://previews/absent")


def test_a_preview_of_a_server(bucket: str, s3_environment: object) -> None:
    content = PNG + os.urandom(100_000)
    s3dlio.put(f"s3://{bucket}/image", content)
    assert s3dlio.preview(f"s3://{bucket}/image").image == content
