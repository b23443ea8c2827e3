"""Listings and block lists."""

from __future__ import annotations

from datetime import UTC, datetime
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.errors import ProtocolError
from s3dlio.model import ListPage, ObjectMeta
from s3dlio.stores.azure.store import block_id
from s3dlio.stores.azure.xml import block_list, parse_list_page

PAGE = """\ufeff<?xml version="1.0" encoding="utf-8"?>
<EnumerationResults ServiceEndpoint="https://acct.blob.core.windows.net/" ContainerName="con">
 <Prefix>a</Prefix><MaxResults>3</MaxResults><Delimiter>/</Delimiter>
 <Blobs>
  <Blob><Name>a &amp; b</Name><Properties>
   <Last-Modified>Mon, 23 Nov 2026 01:02:03 GMT</Last-Modified><Etag>0x8DC</Etag>
   <Content-Length>12</Content-Length><Content-Type>text/plain</Content-Type><AccessTier>Hot</AccessTier>
  </Properties></Blob>
  <Blob><Name>a/directory</Name><Properties>
   <ResourceType>directory</ResourceType><Content-Length>0</Content-Length></Properties></Blob>
  <BlobPrefix><Name>a/</Name></BlobPrefix>
  <Blob><Name Encoded="true">a%EF%BF%BE%01+</Name><Properties><Content-Length>0</Content-Length></Properties></Blob>
  <BlobPrefix><Name Encoded="true">a%01/</Name></BlobPrefix>
 </Blobs>
 <NextMarker>2!92!more</NextMarker>
</EnumerationResults>"""


def test_a_page() -> None:
    moment = datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC)
    first = ObjectMeta("a & b", 12, '"0x8DC"', moment, storage_class="Hot", content_type="text/plain")
    assert parse_list_page(PAGE.encode()) == ListPage(
        (first, ObjectMeta("a\ufffe\x01+", 0)), ("a/", "a\x01/"), "2!92!more"
    )


def test_the_last_page() -> None:
    page = "<EnumerationResults><Blobs/><NextMarker /></EnumerationResults>"
    assert parse_list_page(page.encode()) == ListPage(())


def listing(blob: str) -> bytes:
    return f"<EnumerationResults><Blobs>{blob}</Blobs></EnumerationResults>".encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not xml",
        b"<ListBucketResult/>",
        b"<!DOCTYPE x><EnumerationResults/>",
        PAGE.encode()[:-30],
        listing("<Blob><Name>a</Name></Blob>"),
        listing("<Blob><Name>a</Name><Properties><Content-Length>-1</Content-Length></Properties></Blob>"),
        listing("<Blob><Name>a</Name><Properties><Content-Length>\u0663</Content-Length></Properties></Blob>"),
        listing("<Blob><Properties><Content-Length>1</Content-Length></Properties></Blob>"),
        listing("<Blob><Name/><Properties><Content-Length>1</Content-Length></Properties></Blob>"),
        listing("<BlobPrefix/>"),
    ],
)
def test_what_is_no_listing(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_list_page(body)


@given(st.lists(st.tuples(st.text(min_size=1), st.integers(0, 1 << 50)), max_size=5))
def test_names_come_back(blobs: list[tuple[str, int]]) -> None:
    blobs = [(name, size) for name, size in blobs if is_xml(name)]
    items = (
        f"<Blob><Name>{escape(name, {chr(13): '&#13;'})}</Name>"
        f"<Properties><Content-Length>{size}</Content-Length></Properties></Blob>"
        for name, size in blobs
    )
    page = parse_list_page(listing("".join(items)))
    assert [(meta.key, meta.size) for meta in page.objects] == blobs


def is_xml(name: str) -> bool:
    try:
        ElementTree.fromstring(f"<a>{escape(name)}</a>".encode("utf-8", "surrogatepass"))
    except ElementTree.ParseError:
        return False
    return True


@given(st.lists(st.tuples(st.uuids(), st.integers(1, 50_000)), min_size=1, max_size=5))
def test_block_ids_are_of_one_length_and_differ(parts: list[tuple[object, int]]) -> None:
    ids = [block_id(str(upload).replace("-", ""), number) for upload, number in parts]
    assert {len(block) for block in ids} == {28}
    assert len(set(ids)) == len(set(parts))
    root = ElementTree.fromstring(block_list(ids))
    assert (root.tag, [(item.tag, item.text) for item in root]) == ("BlockList", [("Latest", block) for block in ids])
