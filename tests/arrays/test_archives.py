"""Members of tars and zips are where tarfile and zipfile find them, and files that lie are refused."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3dlio import archives
from s3dlio.archives import Member, Window, content_of, tar_members, zip_members
from s3dlio.errors import ErrorContext, FormatError, IntegrityError, StoreError, UnsupportedError

from .content import damaged

CONTEXT = ErrorContext("read", key="shard")
FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
NAMES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="/\\\0\r\n"), min_size=1, max_size=5)
PATHS = st.lists(NAMES.filter(lambda name: not set(name) <= set(".")), min_size=1, max_size=3).map("/".join)
LONG = st.builds(lambda path, times: f"long/{path * times}", PATHS, st.integers(1, 80))
FILES = st.lists(st.tuples(PATHS | LONG, st.binary(max_size=1500)), max_size=6)


def window(data: bytes, reads: list[tuple[int, int]] | None = None) -> Window:
    def fetch(start: int, end: int) -> bytes:
        assert 0 <= start <= end <= len(data)
        if reads is not None:
            reads.append((start, end))
        return data[start:end]

    return Window(fetch, len(data), CONTEXT)


def memory(size: int) -> memoryview:
    assert size < 1 << 20, "more than any of these files can hold"
    return memoryview(bytearray(size))


def contents(members: list[Member], data: bytes) -> list[tuple[str, bytes]]:
    view = memoryview(data)
    return [(each.name, bytes(content_of(each, view[each.start : each.end], CONTEXT, memory))) for each in members]


def tar_of(files: list[tuple[str, bytes]], **options: Any) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", **options) as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def zip_of(files: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED, *, streamed: bool = False) -> bytes:
    data = io.BytesIO()
    if streamed:
        data.seekable = lambda: False  # type: ignore[method-assign]
    with zipfile.ZipFile(data, "w", method) as archive:
        for number, (name, content) in enumerate(files):
            info = zipfile.ZipInfo(f"{number}-{name}")
            info.compress_type = method
            with archive.open(info, "w", force_zip64=bool(number % 2)) as member:
                member.write(content)
    return data.getvalue()


def as_tarfile_has_them(data: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        return [(info.name, archive.extractfile(info).read()) for info in archive if info.isreg()]  # type: ignore[union-attr]


def as_zipfile_has_them(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist() if not info.filename.endswith("/")]


def found_by(model: Callable[[bytes], Any], data: bytes) -> Any:
    """`None` where it refuses them: both compare what the other does not, such as names that stand twice."""
    try:
        return model(data)
    except Exception:  # of a stranger's bytes it may raise anything
        return None


@given(FILES, FORMATS)
def test_a_tar_has_what_tarfile_finds(files: list[tuple[str, bytes]], kind: int) -> None:
    if kind == tarfile.USTAR_FORMAT:
        files = [(name, content) for name, content in files if len(name.encode()) <= 100]
    data = tar_of(files, format=kind)
    assert contents(tar_members(window(data)), data) == as_tarfile_has_them(data) == files


@settings(max_examples=50)
@given(FILES, st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]), st.booleans())
def test_a_zip_has_what_zipfile_finds(files: list[tuple[str, bytes]], method: int, streamed: bool) -> None:
    data = zip_of(files, method, streamed=streamed)
    assert contents(zip_members(window(data)), data) == as_zipfile_has_them(data)


KINDS: list[tuple[Any, Any, Any]] = [
    (tar_of, tar_members, as_tarfile_has_them),
    (zip_of, zip_members, as_zipfile_has_them),
]
SOME = [("a/b.txt", b"hello"), ("a/b.json", b"{}" * 700), ("\u4e2d" * 60, b"x" * 513)]


@pytest.mark.parametrize(("make", "find", "model"), KINDS)
@given(data=st.data())
def test_a_damaged_one_is_an_error_or_what_the_model_finds(
    make: Any, find: Any, model: Any, data: st.DataObject
) -> None:
    found = data.draw(damaged(make(SOME)))
    try:
        members = contents(find(window(found)), found)
    except (FormatError, IntegrityError, UnsupportedError):
        return
    expected = found_by(model, found)
    assert expected is None or members == expected


@given(st.data(), st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
def test_a_zip_with_another_number_in_it_is_an_error_or_what_zipfile_finds(data: st.DataObject, method: int) -> None:
    found = bytearray(zip_of(SOME[:2], method))
    width, place = data.draw(st.sampled_from([2, 4])), data.draw(st.integers(0, len(found) - 4))
    found[place : place + width] = data.draw(st.sampled_from([0, 1, (1 << 8 * width) - 1])).to_bytes(width, "little")
    try:
        members = contents(zip_members(window(bytes(found))), bytes(found))
    except StoreError:
        return
    expected = found_by(as_zipfile_has_them, bytes(found))
    assert expected is None or members == expected


def edited(data: bytes, signature: bytes, offset: int, value: int, width: int = 4, *, nth: int = 0) -> bytes:
    place = -1
    for _ in range(nth + 1):
        place = data.index(signature, place + 1)
    return data[: place + offset] + value.to_bytes(width, "little") + data[place + offset + width :]


DIRECTORY, LOCAL = b"PK\1\2", b"PK\3\4"
TWO = zip_of([("a", b"1" * 100), ("b", b"2" * 100)])
DEFLATED = zip_of([("a", b"1" * 100)], zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize(
    "data",
    [
        edited(TWO, DIRECTORY, 42, 0, nth=1),  # both begin at the same byte
        edited(TWO, DIRECTORY, 42, 1, nth=1),  # one inside the other
        edited(TWO, DIRECTORY, 20, 200),  # reaches into the next
        edited(TWO, DIRECTORY, 42, 0x7FFFFFFF, nth=1),  # outside
        edited(TWO, b"PK\5\6", 12, 0x7FFFFFFF),
        edited(TWO, b"PK\5\6", 16, 0x7FFFFFFF),
        TWO[:-30],
        b"",
    ],
)
def test_a_zip_whose_directory_lies_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        zip_members(window(data))
    assert caught.value.key == "shard"


@pytest.mark.parametrize(
    "data",
    [
        edited(TWO, DIRECTORY, 24, 0x7FFFFFFF),  # longer than what is stored
        edited(TWO, LOCAL, 28, 0xFFFF, 2),  # the local header reaches past the member
        edited(TWO, LOCAL, 0, 0),
        edited(TWO, LOCAL, 30, ord("z"), 1),  # the local header has another name
        edited(DEFLATED, DIRECTORY, 24, 0x7FFFFFFF),  # two gigabytes, of a few bytes
        edited(DEFLATED, DIRECTORY, 24, 99),
        edited(DEFLATED, DIRECTORY, 24, 101),
    ],
)
def test_a_member_that_lies_is_a_format_error(data: bytes) -> None:
    members = zip_members(window(data))
    with pytest.raises(FormatError) as caught:
        contents(members, data)
    assert caught.value.key == "shard"


def tar_header(name: bytes, size: int, kind: bytes = b"0") -> bytes:
    number = b"\x80" + size.to_bytes(11, "big") if size >= 8**11 else b"%011o\0" % size
    head = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + number + b"0" * 11 + b"\0" + b" " * 8 + kind
    head = head.ljust(257, b"\0") + b"ustar\x0000"
    head = head.ljust(512, b"\0")
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no tar at all" * 100,
        tar_header(b"a", 513) + b"x" * 512,
        tar_header(b"a", 1 << 62) + b"x" * 512,
        tar_header(b"a", 1 << 62, b"x") + b"x" * 512,
        tar_header(b"a", 1 << 40, b"L") + b"x" * 512,
        tar_header(b"a", 0)[:400],
        tar_header(b"a", 5) + b"hello".ljust(512, b"\0") + b"\1" * 512,
        tar_header(b"a", 5) + b"hello".ljust(512, b"\0") + tar_header(b"b", 0)[:300],
        tar_header(b"", 20, b"x") + b"99999999999 path=a\n".ljust(512, b"\0"),
        (tar_header(b"", 20, b"x") + b"10 path=a\n".ljust(512, b"\0")) * 3000,
    ],
)
def test_a_tar_that_lies_is_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        tar_members(window(data))
    assert caught.value.key == "shard"


def test_what_cannot_be_read_by_its_range_is_said() -> None:
    with pytest.raises(UnsupportedError, match="encrypted"):
        zip_members(window(edited(TWO, DIRECTORY, 8, 1, 2)))
    sparse = tar_header(b"a", 0, b"S")
    with pytest.raises(UnsupportedError, match="holes"):
        tar_members(window(sparse + b"\0" * 1024))


def test_a_header_of_half_a_terabyte_is_not_read() -> None:
    head = tar_header(b"a", 1 << 39, b"x")

    def fetch(start: int, end: int) -> bytes:
        assert end <= 1 << 20
        return (head + bytes(end))[start:end]

    with pytest.raises(FormatError, match="a header of 549755813888 bytes"):
        tar_members(Window(fetch, 1 << 40, CONTEXT))


def test_links_and_folders_are_passed_over() -> None:
    data = tar_header(b"folder/", 0, b"5") + tar_header(b"link", 0, b"2") + tar_of([("a", b"hello")])
    assert contents(tar_members(window(data)), data) == [("a", b"hello")]
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("folder/", b"")
        archive.writestr("folder/a", b"hello")
    assert contents(zip_members(window(zipped.getvalue())), zipped.getvalue()) == [("folder/a", b"hello")]


def test_small_files_are_read_in_one_go_and_large_ones_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_NEAR", 10_000)
    monkeypatch.setattr(archives, "_LEAST", 1000)
    monkeypatch.setattr(archives, "_MOST_AHEAD", 100_000)
    reads: list[tuple[int, int]] = []
    many = tar_of([(f"{number}", b"x" * 600) for number in range(400)])
    assert len(tar_members(window(many, reads))) == 400
    assert len(reads) < 25
    assert max(end - start for start, end in reads) <= 100_000
    reads.clear()
    large = tar_of([(f"{number}", b"x" * 50_000) for number in range(20)])
    assert len(tar_members(window(large, reads))) == 20
    assert sum(end - start for start, end in reads) < len(large) // 10


def test_a_zip_is_known_by_its_end() -> None:
    reads: list[tuple[int, int]] = []
    data = zip_of([("a", b"x" * 1_000_000)])
    assert len(zip_members(window(data, reads))) == 1
    assert reads == [(len(data) - archives.TAIL, len(data))]


def test_what_fetching_raises_is_not_taken_for_the_file() -> None:
    def fetch(start: int, end: int) -> bytes:
        raise StoreError("out")

    find: Callable[[Window], list[Member]]
    for find in (tar_members, zip_members):
        with pytest.raises(StoreError, match=r"^out$"):
            find(Window(fetch, 5000, CONTEXT))


def test_a_zip_of_more_than_four_gigabytes_is_found_by_its_long_numbers() -> None:
    """Its directory alone is real: what lies before it is never read."""
    gap = 5 << 30
    small = zip_of([("a", b"")])
    place = small.index(DIRECTORY)
    extra = struct.pack("<HHQ", 1, 8, gap - place)
    entry = edited(small[place : small.index(b"PK\5\6")], DIRECTORY, 42, 0xFFFFFFFF)
    entry = edited(entry, DIRECTORY, 30, len(extra), 2) + extra
    end = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(entry), gap)
    end += struct.pack("<4sIQI", b"PK\6\7", 0, gap + len(entry), 1)
    end += struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(entry), 0xFFFFFFFF, 0)
    tail = entry + end
    size = gap + len(tail)

    def fetch(start: int, stop: int) -> bytes:
        assert start >= size - archives.TAIL
        return (b"\0" * archives.TAIL + tail)[start - size : (stop - size) or None]

    (member,) = zip_members(Window(fetch, size, CONTEXT))
    assert (member.name, member.start, member.end) == ("0-a", gap - place, gap)
