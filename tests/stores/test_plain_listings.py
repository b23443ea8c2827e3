"""The short way through a listing's XML: it reads what the parser reads, or leaves the document to it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.errors import ProtocolError
from s3dlio.model import ListPage, ObjectColumns
from s3dlio.stores.azure import xml as azure
from s3dlio.stores.s3 import xml as s3

SERVICES: dict[str, tuple[ModuleType, str, str]] = {
    "s3": (s3, "<ListBucketResult>{}</ListBucketResult>", "Contents"),
    "azure": (azure, "<EnumerationResults><Blobs>{}</Blobs></EnumerationResults>", "Blob"),
}

LOOKS = {
    "AWS": (
        "s3",
        "<Key>a%2Fb+c</Key><LastModified>2026-11-23T01:02:03.000Z</LastModified><ETag>&quot;e&quot;</ETag>"
        "<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType><Size>12</Size>"
        "<StorageClass>STANDARD</StorageClass>",
    ),
    "Go": (
        "s3",
        "<Key>k</Key><LastModified>2026-11-23T01:02:03Z</LastModified><ETag>&#34;e&#34;</ETag><Size>0</Size>"
        "<Owner><ID></ID><DisplayName></DisplayName></Owner><StorageClass>STANDARD</StorageClass>",
    ),
    "Ceph": ("s3", "<Size>7</Size><ETag>&quot;e&quot;</ETag><Key>k</Key><Type>Normal</Type>"),
    "Google": (
        "s3",
        '<Key>k</Key><Generation>5</Generation><MetaGeneration>1</MetaGeneration><ETag>"e"</ETag>'
        "<Size>999999999999999999</Size>",
    ),
    "Azure": (
        "azure",
        "<Name>a/b</Name><Properties><Creation-Time>Mon, 23 Nov 2026 01:02:03 GMT</Creation-Time>"
        "<Last-Modified>Mon, 23 Nov 2026 01:02:03 GMT</Last-Modified><Etag>0x8DC</Etag>"
        "<ResourceType>file</ResourceType><Content-Length>12</Content-Length><Content-Encoding />"
        "<Content-Type>text/plain; charset=utf-8</Content-Type><Content-MD5>eB5eJF1ptWaXm4bijSPyxw==</Content-MD5>"
        "<AccessTier>Hot</AccessTier><AccessTierInferred>true</AccessTierInferred></Properties><OrMetadata />",
    ),
    "Azurite": (
        "azure",
        '<Name>b</Name><Properties><Content-Length>0</Content-Length><Etag>"0x8DC"</Etag><Cache-Control/></Properties>',
    ),
}


def read(service: str, body: bytes, *, plain: bool = True) -> ListPage | str:
    """The page, or that it is none; with `plain` false by the parser alone."""
    module = SERVICES[service][0]
    with pytest.MonkeyPatch.context() as patch:
        if not plain:
            patch.setattr(module, "read_plain", lambda *_: None)
        try:
            page: ListPage = module.parse_list_page(body)
        except ProtocolError:
            return "no listing"
    return page


@pytest.mark.parametrize("encoded", ["", "<EncodingType>url</EncodingType>"])
@pytest.mark.parametrize("name", LOOKS)
def test_what_services_send_is_read_the_short_way(name: str, encoded: str) -> None:
    service, entry = LOOKS[name]
    _, document, tag = SERVICES[service]
    content = encoded + f"<{tag}>{entry}</{tag}>" * 3
    body = f' \r\n<?xml version="1.0" encoding="utf-8"?>\n{document.format(content)}'.encode()
    page = read(service, body)
    assert isinstance(page, ListPage)
    assert isinstance(page.objects, ObjectColumns)
    assert len(page.objects) == 3
    assert page == read(service, body, plain=False)


# fmt: off
_S3_PARTS = [
    "<Key>a%2Fb+c</Key>", "<Key>k</Key>", "<Key> k </Key>", "<Key></Key>", "<Key/>", "<Key>\xe9</Key>",
    "<Key>\ufdd7</Key>", "<Key>a&amp;b</Key>", "<Key>&quot;</Key>", "<Key>a]]>b</Key>", "<Key>a>b</Key>",
    "<Key><![CDATA[k]]></Key>", "<Key a='b'>k</Key>", "<Key>&#7;</Key>", "<Key>\7</Key>", "<Key>a\r\nb</Key>",
    "<Key>a&b</Key>", "<Key>k<!-- --></Key>", "<Size>1</Size>", "<Size>007</Size>", "<Size> 1</Size>",
    "<Size>-1</Size>", "<Size></Size>", f"<Size>{10**18}</Size>", "<Size>4611686018427387904</Size>",
    "<Size>\u0661</Size>", "<ETag>&quot;e&quot;</ETag>", '<ETag>"e"</ETag>', "<ETag>&#34;e&#34;</ETag>",
    "<ETag>e</ETag>", '<ETag>"f"</ETag>', "<ETag/>", "<ETag>*</ETag>",
    '<ETag>W/"e"</ETag>', '<ETag>&quot;e"f&quot;</ETag>',
    "<ETag>&quot;&quot;</ETag>", '<ETag> "e" </ETag>', '<ETag>"e</ETag>',
    "<LastModified>2026-11-23T01:02:03.000Z</LastModified>", "<LastModified>never</LastModified>",
    "<LastModified/>", "<StorageClass>GLACIER</StorageClass>", "<StorageClass>STANDARD</StorageClass>",
    "<StorageClass> GLACIER </StorageClass>", "<StorageClass/>",
    "<RestoreStatus/>", "<RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress></RestoreStatus>",
    "<Owner><ID>i</ID></Owner>", "<Owner><Key>x</Key></Owner>", "<Type>Normal</Type>", "<Other>x</Other>",
]
_AZURE_PARTS = [
    "<Content-Length>1</Content-Length>", "<Content-Length> 1</Content-Length>", "<Content-Length />",
    "<Content-Length>\u0661</Content-Length>", f"<Content-Length>{10**18}</Content-Length>", "<Etag>0x8DC</Etag>",
    "<Last-Modified> Mon, 23 Nov 2026 01:02:03 GMT</Last-Modified>",
    "<Last-Modified>Tue, 24 Nov 2026 01:02:03 GMT</Last-Modified>", "<AccessTier>Cool</AccessTier>",
    "<Content-Type> a/b</Content-Type>", "<Content-Type>a/b </Content-Type>", "<Content-Type>c/d</Content-Type>",
    '<Etag>"0x8DC"</Etag>', "<Etag>&quot;e&quot;</Etag>", "<Etag/>", '<Etag>W/"e"</Etag>',
    "<AccessTier>Hot</AccessTier>", "<AccessTier />", "<AccessTier> Hot</AccessTier>", "<AccessTier></AccessTier>",
    "<Content-Type>\xe9</Content-Type>", "<Content-Type>a/b; c=d</Content-Type>", "<Content-Type> a/b </Content-Type>",
    "<ResourceType/>",
    "<Last-Modified>Mon, 23 Nov 2026 01:02:03 GMT</Last-Modified>", "<Last-Modified> Mon </Last-Modified>",
    "<ResourceType>directory</ResourceType>", "<ResourceType>file</ResourceType>", "<ResourceType>x</ResourceType>",
    "<ResourceType> directory </ResourceType>", "<Other>x</Other>", "<Other a='b'>x</Other>", "<Other>x</Another>",
    "<Other><Etag>x</Etag></Other>",
]
_ANYWHERE = ["", "\n", "text", "<!-- -->", "&amp;", "<![CDATA[ ]]>", "</Contents><Contents>", "</Blob><Blob>", "&e;"]
_BETWEEN = [
    "<CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes>", "<Contents/>", "<s3dlio-entries/>", "<x:Contents/>",
    "<Contents a='b'><Key>z</Key><Size>1</Size></Contents>", "<Contents ><Key>z</Key><Size>1</Size></Contents>",
    "<BlobPrefix><Name>p/</Name></BlobPrefix>", "<Blob/>", "</Blobs><Blobs>", "<EncodingType>url</EncodingType>",
    "<IsTruncated>true</IsTruncated>", "<NextContinuationToken>t</NextContinuationToken>",
    "<NextMarker>m</NextMarker>",
]
_AROUND = [
    ("<!-- ", " -->"), ("<![CDATA[", "]]>"), ("<?pi ", "?>"), ("<Inner>", "</Inner>"), ("<Contents>", "</Contents>"),
    ("<Blob>", "</Blob>"), ("<a b='", "'/>"), ("<!-- ", " --><Contents >"), ("<Contents />", ""), ("", "<Blob />"),
]
_HEADS = [
    "", "<?xml version='1.0'?>", '\ufeff <?xml version="1.0" encoding="UTF-8"?>\n', "<!DOCTYPE x>",
    "<?xml version='1.0' encoding='iso-8859-1'?>", "<?xml version='1.0' encoding = 'cp437'?>",
    "<?xml version='1.0' encoding='cp864'?>", "<?xml version='1.1' encoding='utf-8'?>",
]
_NAMES = ["<Name>b</Name>", "<Name Encoded='true'>%41</Name>", "<Name/>", "<Name>\xe9</Name>"]
# fmt: on


@st.composite
def s3_entries(draw: st.DrawFn) -> str:
    more = draw(st.lists(st.sampled_from(_S3_PARTS), max_size=2) | st.just(["<Owner><ID>i</ID></Owner>"]))
    parts = draw(st.permutations([*more, "<Key>key</Key>", "<Size>1</Size>"][draw(st.integers(0, 1)) :]))
    return f"<Contents>{''.join(parts)}</Contents>"


@st.composite
def azure_entries(draw: st.DrawFn) -> str:
    more = draw(st.lists(st.sampled_from(_AZURE_PARTS), max_size=2))
    parts = "".join(draw(st.permutations([*more, "<Content-Length>1</Content-Length>"])))
    name, end = (
        draw(st.sampled_from(_NAMES[:1] * 3 + _NAMES)),
        draw(st.sampled_from(["", "<OrMetadata />", "<Snapshot/>"])),
    )
    return f"<Blob>{name}<Properties>{parts}</Properties>{end}</Blob>"


@st.composite
def documents(draw: st.DrawFn, service: str, entries: st.SearchStrategy[str]) -> bytes:
    """Mostly plain ones, with a few things in them that are not."""

    def rarely(things: Sequence[str]) -> str:
        return draw(st.sampled_from([""] * 2 * len(things) + list(things)))

    content = "".join(draw(entries) + rarely(_ANYWHERE + _BETWEEN) for _ in range(draw(st.integers(1, 3))))
    before, after = draw(st.sampled_from([("", "")] * 30 + _AROUND))
    content = rarely(_BETWEEN) + before + content + after + rarely(_BETWEEN)
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(content)))
        content = content[:place] + draw(st.sampled_from([*_ANYWHERE, ">", "<", "&", "\0", "\u2028"])) + content[place:]
    head = draw(st.sampled_from([""] * 9 + _HEADS))
    return (head + SERVICES[service][1].format(content)).encode()


@given(documents("s3", s3_entries()))
def test_s3_is_read_as_the_parser_reads_it(body: bytes) -> None:
    assert read("s3", body) == read("s3", body, plain=False)


@given(documents("azure", azure_entries()))
def test_azure_is_read_as_the_parser_reads_it(body: bytes) -> None:
    assert read("azure", body) == read("azure", body, plain=False)


_ENTRIES = {
    "s3": ("<Contents>{}</Contents>", ("<Key>k%25</Key>", "<Size>1</Size>"), _S3_PARTS),
    "azure": (
        "<Blob><Name>b%</Name><Properties>{}</Properties></Blob>",
        ("<Content-Length>1</Content-Length>", "<Etag>e</Etag>"),
        _AZURE_PARTS,
    ),
}


@pytest.mark.parametrize("service", SERVICES)
def test_every_two_parts_are_read_as_the_parser_reads_them(service: str) -> None:
    _, document, _ = SERVICES[service]
    entry, needed, parts = _ENTRIES[service]
    for one, other in product(parts, ["", *parts]):
        for some in (needed, needed[:1], needed[1:]):
            content = "".join((*some[:1], one, other, *some[1:]))
            body = document.format(entry.format(content)).encode()
            assert read(service, body) == read(service, body, plain=False)


@pytest.mark.parametrize("service", SERVICES)
def test_every_two_surroundings_are_read_as_the_parser_reads_them(service: str) -> None:
    _, document, _ = SERVICES[service]
    entry, needed, _ = _ENTRIES[service]
    entries = entry.format("".join(needed)) * 2
    for head, (before, after), more in product(["", *_HEADS], [("", ""), *_AROUND], ["", *_ANYWHERE, *_BETWEEN]):
        for content in (before + entries + after + more, before + entries + more + entries + after):
            body = (head + document.format(content)).encode()
            assert read(service, body) == read(service, body, plain=False)
