"""What is in an object, at a glance: the beginning of its content, by the kind that its first bytes tell.

Nothing of a stranger's object runs: text is escaped, and what is shown as an image is one of the formats that hold
pixels alone, so SVG is text. The name and the `Content-Type` of an object are not asked.
"""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64encode
from codecs import getincrementaldecoder
from contextlib import suppress
from dataclasses import dataclass
from html import escape

from .blocking.store import locate
from .config import Config, MiB
from .endpoint_stats import size_text
from .errors import ErrorContext, FormatError
from .numpy.arrays import find_object
from .numpy.header import FIRST, parse_header
from .safetensors import header as safetensors

_MOST = 4 * MiB
_LINES = 40
_WIDTH = 160
_DUMPED = 256
_IMAGE = re.compile(
    rb"(?P<png>\x89PNG\r\n\x1a\n)|(?P<jpeg>\xff\xd8\xff)|(?P<gif>GIF8[79]a)|(?P<webp>RIFF.{4}WEBP)", re.DOTALL
)
_NO_TEXT = re.compile(r"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")  # without escape, by which logs are coloured
_CONTEXT = ErrorContext("preview")


@dataclass(frozen=True, slots=True)
class Preview:
    """The object at `uri`, of `size` bytes: the `kind` of its content, and the `text` that a terminal shows of it.

    `image` is the whole content of an image of up to 4 MiB. A notebook shows that, or the text. Showing sends nothing.
    """

    uri: str
    size: int
    kind: str
    text: str
    image: bytes = b""

    def __repr__(self) -> str:
        return f"{self._title}\n{self.text}".rstrip()

    def _repr_html_(self) -> str:
        if self.image:
            source = f"data:image/{self.kind};base64,{b64encode(self.image).decode()}"
            return f'<p>{escape(self._title)}</p><img src="{source}" style="max-width: 100%">'
        text = f'<pre style="font-family: monospace">{escape(self.text)}</pre>'
        return f"<p>{escape(self._title)}</p>{text}"

    @property
    def _title(self) -> str:
        return f"{_printable(self.uri)}: {self.kind}, {size_text(self.size)}"


def preview(uri: str, *, config: Config | None = None) -> Preview:
    """What is in the object at `uri`, to be shown in a notebook or a terminal: see :class:`Preview`.

    Text and JSON, also compressed by gzip, the type and shape of an `.npy`, the tensors of a safetensors object, a PNG,
    JPEG, GIF or WebP, else the first bytes. 64 KiB are read; of an image, or a longer header of tensors, up to 4 MiB.
    `config` has the settings, by default the environment's. Errors: `NotFoundError`, `StoreError`.
    """
    stored = find_object(*locate(uri, config))
    head, size = bytes(stored.head), stored.meta.size
    if (needed := _needed(head, size)) > len(head):
        head += stored.read(len(head), needed)
    if image := _IMAGE.match(head):
        whole = len(head) == size
        text = "" if whole else "An image of more than 4 MiB is not shown."
        return Preview(uri, size, str(image.lastgroup), text, head if whole else b"")
    kind, lines = _described(head, size)
    return Preview(uri, size, kind, "\n".join(_shown(lines)))


def _needed(head: bytes, size: int) -> int:
    """How much of an object of `size` bytes, which begins with `head`, it takes to show it."""
    needed = len(head)
    if _IMAGE.match(head):
        needed = size
    elif head[safetensors.LENGTH :].startswith(b"{"):
        with suppress(FormatError):
            needed = safetensors.header_end(head, size, _CONTEXT)
    return needed if needed <= _MOST else len(head)


def _described(head: bytes, size: int) -> tuple[str, list[str]]:
    for described in (_array, _tensors, _decompressed):
        with suppress(FormatError, zlib.error):
            return described(head, size)
    return _plain(head, whole=len(head) == size)


def _array(head: bytes, size: int) -> tuple[str, list[str]]:
    header = parse_header(head, _CONTEXT)
    return "array", [f"{header.dtype} {header.shape}" + ", in Fortran's order" * header.fortran]


def _tensors(head: bytes, size: int) -> tuple[str, list[str]]:
    end = safetensors.header_end(head, size, _CONTEXT)
    tensors = safetensors.parse_header(head[safetensors.LENGTH : end], size, _CONTEXT).tensors
    return f"{len(tensors)} tensors", [f"{it.dtype:4}  {it.shape!s:16}  {name}" for name, it in tensors.items()]


def _decompressed(head: bytes, size: int) -> tuple[str, list[str]]:
    if not head.startswith(b"\x1f\x8b"):
        raise zlib.error("no gzip")
    gzip = zlib.decompressobj(wbits=31)
    content = gzip.decompress(head, FIRST)
    kind, lines = _plain(content, whole=gzip.eof and not gzip.unused_data)
    return f"{kind}, compressed", lines


def _plain(content: bytes, *, whole: bool) -> tuple[str, list[str]]:
    """Text, or bytes: those there are, all of the object where it is `whole`."""
    try:
        text = getincrementaldecoder("utf-8-sig")().decode(content, final=whole)
    except UnicodeDecodeError:
        return "bytes", _dump(content)
    if _NO_TEXT.search(text):
        return "bytes", _dump(content)
    if text.lstrip().startswith(("{", "[")):
        with suppress(ValueError, RecursionError):
            return "JSON", json.dumps(json.loads(text), indent=2, ensure_ascii=False).splitlines()
    return "text", text.splitlines() + ["..."] * (not whole)


def _dump(content: bytes) -> list[str]:
    rows = (content[at : at + 16] for at in range(0, min(len(content), _DUMPED), 16))
    lines = [f"{row.hex(' '):47}  {''.join(chr(byte) if 32 <= byte < 127 else '.' for byte in row)}" for row in rows]
    return lines + ["..."] * (len(content) > _DUMPED)


def _shown(lines: list[str]) -> list[str]:
    return [*map(_printable, lines[:_LINES]), *["..."] * (len(lines) > _LINES)]


def _printable(line: str) -> str:
    """What a terminal does not take for a command: what cannot be printed as Python writes it."""
    letters = (letter if letter.isprintable() else repr(letter)[1:-1] for letter in line[:_WIDTH].expandtabs())
    return "".join(letters) + "..." * (len(line) > _WIDTH)
