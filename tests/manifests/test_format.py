"""The file: what is written is read, whatever it is; what is damaged is told of, and never more than that."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s3dlio.errors import FormatError, ObjectChangedError, ProtocolError
from s3dlio.manifest import create, load, writing
from s3dlio.model import ObjectMeta

from .conftest import written

URI = "memory://bucket/train/"
HEX = st.text("0123456789abcdef", min_size=32, max_size=32)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
DIGESTS = st.builds('"{}"'.format, HEX)
IN_PARTS = st.builds('"{}-{}"'.format, HEX, st.integers(1, 99_999))
ETAGS = [DIGESTS, DIGESTS | IN_PARTS, st.just('"0x8DC1"') | st.none(), DIGESTS | st.none(), st.none()]
ETAGS.append(TEXTS.map(lambda text: text or None) | DIGESTS)


def metas(etags: st.SearchStrategy[str | None]) -> st.SearchStrategy[list[ObjectMeta]]:
    keys = TEXTS.map(lambda text: f"train/{text}")
    return st.lists(st.builds(ObjectMeta, keys, st.integers(0, (1 << 64) - 1), etags), max_size=80)


PAGES = st.sampled_from(ETAGS).flatmap(lambda etags: st.lists(metas(etags), max_size=3))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pages=PAGES)
def test_what_is_listed_is_found(pages: list[list[ObjectMeta]], tmp_path: Path) -> None:
    listed = [meta for page in pages for meta in page]
    manifest = written(tmp_path / "manifest", URI, pages)
    for found in (manifest, pickle.loads(pickle.dumps(manifest))):
        assert list(found) == [found[i] for i in range(len(found))] == listed
        assert found[::-1] == tuple(reversed(listed))
        for outside in (len(listed), -len(listed) - 1):
            with pytest.raises(IndexError):
                found[outside]
    header = manifest.header
    assert (header.uri, header.count, header.size) == (URI, len(listed), sum(meta.size for meta in listed))


def numbered(count: int) -> list[ObjectMeta]:
    """Of very different lengths, some as long as a key can be."""
    keys = (f"{number:05}".ljust((number * 131) % 1019 + 5, "é" if number % 2 else "e") for number in range(count))
    texts = (f"train/{key}".encode()[:1024].decode(errors="ignore") for key in keys)
    return [ObjectMeta(key, number << 20, f'"{number:032x}"') for number, key in enumerate(texts)]


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 127, 128, 129, 320])
def test_any_number_of_rows_at_a_time(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "_ROWS", 64)
    listed = numbered(count)
    manifest = written(tmp_path / "manifest", URI, [listed[:100], [], listed[100:]])
    assert list(manifest) == listed


def test_keys_as_long_as_they_can_be_fill_a_block(tmp_path: Path) -> None:
    listed = [ObjectMeta("train/" + f"{number:05}".ljust(1018, "x"), 1) for number in range(130)]
    assert list(written(tmp_path / "manifest", URI, [listed])) == listed


def test_a_row_has_24_bytes_at_most(tmp_path: Path) -> None:
    """Beside the key: of etags as S3 has them, also of objects that were uploaded in up to 255 parts."""
    listed = [ObjectMeta(f"train/{n:05}", (1 << 32) - 1, f'"{n:032x}-{n % 255 + 1}"') for n in range(6400)]
    manifest = written(tmp_path / "manifest", URI, [listed])
    texts = sum(len(meta.key) for meta in listed)
    assert (tmp_path / "manifest").stat().st_size <= 24 * len(listed) + texts
    assert manifest[-1] == listed[-1]


@pytest.mark.parametrize("meta", [ObjectMeta("other/a", 1), ObjectMeta("train/" + "x" * 1025, 1)])
def test_what_no_store_should_list(meta: ObjectMeta, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="the store lists"):
        written(tmp_path / "manifest", URI, [[meta]])


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The file of a manifest of three objects."""
    path = tmp_path / "small"
    written(path, URI, [[ObjectMeta(f"train/{key}", 5, f'"{key}"') for key in ("a", "é", "c")]])
    return path


def looked_at(path: Path) -> Sequence[ObjectMeta]:
    return list(load(path))


def test_a_cut_file_is_told_of(small: Path) -> None:
    whole = small.read_bytes()
    for length in range(len(whole)):
        small.write_bytes(whole[:length])
        with pytest.raises(FormatError):
            load(small)
    small.write_bytes(whole + b"\0")
    with pytest.raises(FormatError, match="damaged"):
        load(small)


def test_a_flipped_bit_is_an_error_of_ours_or_another_value(small: Path) -> None:
    whole = small.read_bytes()
    head = whole.index(b"}") + 1
    for place in range(len(whole)):
        for bit in (1, 128):
            small.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            try:
                found = looked_at(small)
            except FormatError:
                continue
            assert place >= head, "the head has a checksum"
            assert len(found) == 3


def told(path: Path, text: str, rest: bytes = b"") -> None:
    """Have the manifest say `text` of itself, with a right checksum, and go on with `rest`."""
    data = text.encode()
    data += b" " * (-(20 + len(data)) % 8)
    path.write_bytes(struct.pack("<8sIII", b"s3dlio-m", 1, len(data), crc32(data)) + data + rest)


@pytest.mark.parametrize(
    "wrong",
    [
        {"count": -1},
        {"count": 1 << 70},
        {"count": "3"},
        {"count": True},
        {"count": 1.0},
        {"size": None},
        {"text": 1 << 80},
        {"scheme": "http"},
        {"bucket": ""},
        {"prefix": "\ud800"},
        {"made": "yesterday"},
        {"digests": 1},
        {"digests": 2, "etag_width": 16},
        {"more": 1},
    ],
)
def test_a_head_that_lies(wrong: dict[str, Any], small: Path) -> None:
    whole = small.read_bytes()
    (length,) = struct.unpack("<I", whole[12:16])
    true, rest = json.loads(whole[20 : 20 + length]), whole[20 + length :]
    told(small, json.dumps(true), rest)
    assert len(load(small)) == 3
    told(small, json.dumps(true | wrong), rest)
    with pytest.raises(FormatError):
        load(small)


@pytest.mark.parametrize("text", ["", "[]", "5", "{}", "[" * 100_000, "9" * 5000, '{"count": 1}'])
def test_a_head_that_is_none(text: str, small: Path) -> None:
    told(small, text)
    with pytest.raises(FormatError, match="no manifest"):
        load(small)


def test_another_version_is_named(small: Path) -> None:
    data = bytearray(small.read_bytes())
    data[8] = 2
    small.write_bytes(data)
    with pytest.raises(FormatError, match="version 2, and 1 is known"):
        load(small)


def test_a_file_that_was_replaced_is_no_copy(small: Path) -> None:
    sent = pickle.dumps(load(small))
    written(small, URI, [[ObjectMeta("train/other", 1)]])
    with pytest.raises(ObjectChangedError):
        pickle.loads(sent)


def test_an_error_says_where(small: Path) -> None:
    small.write_bytes(b"")
    with pytest.raises(FormatError) as caught:
        load(small)
    assert (caught.value.key, caught.value.bucket) == ("small", str(small.parent))


def test_a_manifest_says_what_it_is_of(tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    header = create("memory://empty/", tmp_path / "manifest")
    manifest = load(f"file://{tmp_path}/manifest")
    assert manifest.header == header
    assert header.made_at is not None
    assert before <= header.made_at <= datetime.now(UTC)
    assert list(manifest) == []
    assert repr(manifest).startswith("<Manifest of 0 objects of memory://empty/, ")
