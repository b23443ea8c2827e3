"""What every store must do, as one class of tests: a backend is done when its subclass passes.

A subclass gives the `store` fixture, an open store with nothing in it, and says what its server cannot.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest

from s3dlio.alignment import Checksum
from s3dlio.errors import (
    AlreadyExistsError,
    IntegrityError,
    InvalidKeyError,
    InvalidUriError,
    NotFoundError,
    NotModifiedError,
    ObjectChangedError,
    PreconditionFailedError,
    RangeError,
    StoreError,
    UnsupportedError,
    UploadNotFoundError,
)
from s3dlio.model import (
    BoundedRange,
    GetOptions,
    GetRange,
    ListOptions,
    ObjectMeta,
    OffsetRange,
    Part,
    PutOptions,
    SuffixRange,
)
from s3dlio.stores.store import BytesSink, ObjectStore
from s3dlio.transfer import ParallelStore

KEY = "folder/object.bin"
OTHER_ETAG = '"0123456789abcdef0123456789abcdef"'
PART = bytes(range(256)) * (5 << 12)
"""5 MiB, the least that a part which is not the last must have."""

RANGE = 64 << 10
"""At this size stores around a store begin to read in several ranges, where a subclass has such a one."""

HOSTILE_KEYS = [
    *(f"in{character}side" for character in "?#%+ ;=&'\"<>*~@:!$,()[]{}|^`"),
    *("é", "漢字", "\U0001f600", "e\u0301", "\u2028", "\ufffe", "\x80"),
    *("%20", "a%2Fb", "a+b", "trailing ", " leading", "end.", "..."),
    *("tab\tinside", "line\nfeed", "carriage\rreturn", "control\x01\x7f"),
    *("two//slashes", "/leading", "trailing/", "back\\slash", "dot/./segment", "dot/../segment", ".", ".."),
    *("l" * 255, "/".join(["k" * 200] * 5)),
]

UNUSABLE_KEYS = ["", "k" * 1025, "é" * 513, "\ud800", "a\udfffb"]

NAMES = ["a-b", "a.c", "a", "a/b", "b/c/d", "b/c/e", "b/f", "c", "é", "漢", "\U0001f600", "\uffee"]


@dataclass(frozen=True)
class Elsewhere:
    """Another bucket of the same service: its name, and a store of it with nothing in it."""

    bucket: str
    store: ObjectStore


class StoreConformance:
    """Tests over a `store` fixture."""

    refused_keys: ClassVar[Mapping[str, str]] = {}
    """Keys the server refuses, and why."""
    renamed_keys: ClassVar[Mapping[str, str]] = {}
    """Keys the server keeps under another name, which listings then show."""
    unlistable_keys: ClassVar[Collection[str]] = ()
    """Keys the server holds, but fails to list."""
    folders_hold_bytes: ClassVar[bool] = True
    """Whether a key that ends in a slash is an object like others, with content."""
    metadata_name: ClassVar[str] = "other-name"
    """A name of metadata, as unusual as the server allows."""
    storage_class: ClassVar[str | None] = None
    has_tags: ClassVar[bool] = False
    """A class of storage that is not the server's default; `None` where objects have none."""
    default_classes: ClassVar[Collection[str]] = ()
    """What the server may say of objects for which no class was asked."""
    folders_first: ClassVar[bool] = False
    """Whether keys are sorted by path component, so that `a/b` comes before `a-b`."""

    names: ClassVar[Sequence[str]] = NAMES
    """Keys that can be there together."""

    def in_order(self, keys: list[str]) -> list[str]:
        """`keys` as the server sorts them: by their UTF-8 bytes, if it does what S3 does."""
        return sorted(keys, key=lambda key: [part.encode() for part in key.split("/")] if self.folders_first else key)

    @pytest.fixture
    def elsewhere(self) -> Elsewhere | None:
        """Another bucket, where the service has others."""
        return None

    # Reading

    @pytest.mark.parametrize("size", [0, 1, RANGE - 1, RANGE, RANGE + 1, 2 * RANGE, 4 * RANGE + 500])
    async def test_what_is_put_can_be_got(self, store: ObjectStore, size: int) -> None:
        data = PART[7 : 7 + size]
        await store.put(KEY, data)
        assert await store.get(KEY) == data
        view = memoryview(bytearray(size))
        result = await store.get_into(KEY, view)
        assert (bytes(view), result.start, result.end, result.meta.size) == (data, 0, size, size)

    @pytest.mark.parametrize("size", [0, 1, RANGE, RANGE + 1, 4 * RANGE + 500])
    async def test_a_stream_is_the_object(self, store: ObjectStore, size: int) -> None:
        data = PART[7 : 7 + size]
        await store.put(KEY, data)
        parallel = ParallelStore(store, part_size=RANGE, parts_in_flight=2)
        async with parallel.open_reader(KEY) as reader:
            assert (reader.meta.size, reader.end) == (size, size)
            assert b"".join([piece async for piece in reader]) == data
        with pytest.raises(RangeError):
            async with parallel.open_reader(KEY, start=size + 1):
                pass

    async def test_many_objects_come_in_order_those_that_are_absent_too(self, store: ObjectStore) -> None:
        objects = {f"many/{number}": PART[number : number + size] for number, size in enumerate((0, 9, RANGE + 1, 70))}
        for key, data in objects.items():
            await store.put(key, data)
        parallel = ParallelStore(store, part_size=RANGE, parts_in_flight=2)
        for wanted in (list(objects), [await store.head(key) for key in objects]):
            async with parallel.get_many([*wanted, "many/absent", *wanted]) as reader:
                before = [await anext(reader) for _ in objects]
                with pytest.raises(NotFoundError):
                    await anext(reader)
                assert [pair async for pair in reader] == before == list(objects.items())

    async def test_an_object_of_several_parts_can_be_got_whole_and_into_memory(self, store: ObjectStore) -> None:
        data = PART + PART[::-1] + b"tail"
        await store.put(KEY, data)
        assert await store.get(KEY) == data
        (known,) = await listed(store)
        assert await store.get(KEY, known=known) == data
        view = memoryview(bytearray(len(data) - 10))
        await store.get_into(KEY, view, start=10, if_match=known.etag)
        assert view == data[10:]

    async def test_a_checksum_that_is_told_is_that_of_all_bytes(self, store: ObjectStore) -> None:
        await store.put(KEY, PART[: RANGE - 1])
        whole = await store.fetch(KEY, BytesSink())
        part = await store.fetch(KEY, BytesSink(), GetOptions(BoundedRange(5, 10)))
        assert whole.verified == (whole.meta.checksum is not None)
        for told in (whole.meta.checksum, part.meta.checksum, (await store.head(KEY)).checksum):
            assert told is None or told.value == Checksum(told.algorithm, PART[: RANGE - 1]).value

    async def test_data_may_be_any_contiguous_memory(self, store: ObjectStore) -> None:
        await store.put(KEY, memoryview(bytearray(b"..in the middle.."))[2:-2].cast("B", (1, 13)))
        assert await store.get(KEY) == b"in the middle"

    @pytest.mark.parametrize(
        ("byte_range", "expected"),
        [
            (BoundedRange(0, 1), b"0"),
            (BoundedRange(2, 5), b"234"),
            (BoundedRange(9, 10), b"9"),
            (BoundedRange(0, 10), b"0123456789"),
            (BoundedRange(8, 1000), b"89"),
            (OffsetRange(0), b"0123456789"),
            (OffsetRange(9), b"9"),
            (SuffixRange(3), b"789"),
            (SuffixRange(10), b"0123456789"),
            (SuffixRange(1000), b"0123456789"),
        ],
    )
    async def test_a_range_is_cut_at_the_objects_end(
        self, store: ObjectStore, byte_range: GetRange, expected: bytes
    ) -> None:
        await store.put(KEY, b"0123456789")
        sink = BytesSink()
        result = await store.fetch(KEY, sink, GetOptions(byte_range=byte_range))
        assert sink.data == expected == await store.get_range(KEY, byte_range)
        assert b"0123456789"[result.start : result.end] == expected
        assert result.meta.size == 10

    @pytest.mark.parametrize("byte_range", [BoundedRange(10, 11), BoundedRange(50, 60), OffsetRange(10)])
    async def test_a_range_at_or_past_the_end_is_an_error(self, store: ObjectStore, byte_range: GetRange) -> None:
        await store.put(KEY, b"0123456789")
        with pytest.raises(RangeError):
            await store.get_range(KEY, byte_range)

    @pytest.mark.parametrize("byte_range", [BoundedRange(0, 1), OffsetRange(0), SuffixRange(1)])
    async def test_an_empty_object_has_no_range(self, store: ObjectStore, byte_range: GetRange) -> None:
        await store.put(KEY, b"")
        with pytest.raises(RangeError):
            await store.get_range(KEY, byte_range)

    async def test_get_into_fills_the_view_or_fails(self, store: ObjectStore) -> None:
        await store.put(KEY, b"0123456789")
        view = memoryview(bytearray(4))
        result = await store.get_into(KEY, view, start=6)
        assert (bytes(view), result.start, result.end) == (b"6789", 6, 10)
        with pytest.raises(IntegrityError, match="only 3"):
            await store.get_into(KEY, view, start=7)
        with pytest.raises(RangeError):
            await store.get_into(KEY, view, start=10)

    async def test_get_into_takes_views_of_other_items_than_bytes(self, store: ObjectStore) -> None:
        await store.put(KEY, b"\x01\x00\x00\x00\x02\x00\x00\x00")
        numbers = memoryview(bytearray(8)).cast("I")
        await store.get_into(KEY, numbers)
        assert bytes(numbers) == b"\x01\x00\x00\x00\x02\x00\x00\x00"

    async def test_get_into_nothing_still_looks_at_the_object(self, store: ObjectStore) -> None:
        await store.put(KEY, b"0123456789")
        nothing = memoryview(bytearray())
        assert (await store.get_into(KEY, nothing, start=3)).meta.size == 10
        with pytest.raises(ObjectChangedError):
            await store.get_into(KEY, nothing, if_match=OTHER_ETAG)
        with pytest.raises(NotFoundError):
            await store.get_into("absent", nothing)

    async def test_if_match_pins_the_version(self, store: ObjectStore) -> None:
        etag = (await store.put(KEY, b"first")).etag
        assert await store.get(KEY, if_match=etag) == b"first"
        assert await store.get_range(KEY, BoundedRange(1, 3), if_match=etag) == b"ir"
        await store.put(KEY, b"second")
        with pytest.raises(ObjectChangedError):
            await store.get(KEY, if_match=etag)
        with pytest.raises(ObjectChangedError):
            await store.get_range(KEY, BoundedRange(1, 3), if_match=etag)
        with pytest.raises(ObjectChangedError):
            await store.get_into(KEY, memoryview(bytearray(6)), if_match=etag)

    async def test_if_none_match_spares_the_body(self, store: ObjectStore) -> None:
        etag = (await store.put(KEY, b"first")).etag
        with pytest.raises(NotModifiedError):
            await store.fetch(KEY, BytesSink(), GetOptions(if_none_match=etag))
        sink = BytesSink()
        await store.fetch(KEY, sink, GetOptions(if_none_match=OTHER_ETAG))
        assert sink.data == b"first"

    async def test_what_a_listing_knew_may_be_stale(self, store: ObjectStore) -> None:
        await store.put(KEY, PART[: 4 * RANGE])
        (known,) = await listed(store)
        for data in (PART[: 9 * RANGE], PART[1 : RANGE + 2], b"s", b"", PART):
            await store.put(KEY, data)
            assert await store.get(KEY, known=known) == data

    async def test_an_absent_object_is_a_file_not_found(self, store: ObjectStore) -> None:
        for work in (
            store.get("absent"),
            store.get_range("absent", OffsetRange(0)),
            store.get_into("absent", memoryview(bytearray(5))),
            store.head("absent"),
            store.copy("absent", "target"),
        ):
            with pytest.raises(FileNotFoundError) as caught:
                await work
            assert isinstance(caught.value, NotFoundError)
            assert caught.value.operation
        assert not await store.exists("absent")
        assert await listed(store) == []

    # Metadata

    async def test_head_get_and_listing_agree(self, store: ObjectStore) -> None:
        before = datetime.now(UTC) - timedelta(seconds=2)
        options = PutOptions("application/x-test", {"name": "a value", self.metadata_name: "1; 2, 3"})
        made = await store.put(KEY, b"content", options)
        head = await store.head(KEY)
        fetched = (await store.fetch(KEY, BytesSink())).meta
        (shown,) = await listed(store)
        assert await store.exists(KEY)
        for meta in (head, fetched, shown):
            assert (meta.key, meta.size, meta.etag) == (KEY, 7, made.etag)
            assert meta.last_modified is not None
            assert before <= meta.last_modified <= datetime.now(UTC) + timedelta(seconds=2)
        for meta in (head, fetched):
            assert (meta.content_type, dict(meta.metadata)) == (options.content_type, dict(options.metadata))

    async def test_copy_takes_everything_along(self, store: ObjectStore) -> None:
        await store.put("the source?", b"content", PutOptions("application/x-test", {"name": "value"}))
        await store.put("a target", b"is replaced")
        made = await store.copy("the source?", "a target")
        head = await store.head("a target")
        assert await store.get("a target") == b"content"
        assert (head.key, head.etag, head.size) == ("a target", made.etag, 7)
        assert (head.content_type, dict(head.metadata)) == ("application/x-test", {"name": "value"})
        assert await store.exists("the source?")

    async def test_copy_reaches_into_another_bucket_or_says_that_it_cannot(
        self, store: ObjectStore, elsewhere: Elsewhere | None
    ) -> None:
        source = "a folder/source?+%20&é"
        await store.put(source, b"not this one")
        if elsewhere is None:
            with pytest.raises(UnsupportedError) as refused:
                await store.copy(source, KEY, source_bucket="another")
            assert refused.value.operation == "CopyObject"
            assert [meta.key for meta in await listed(store)] == [source]
            return
        await elsewhere.store.put(source, b"content", PutOptions("application/x-test", {"name": "value"}))
        made = await store.copy(source, KEY, source_bucket=elsewhere.bucket)
        head = await store.head(KEY)
        assert await store.get(KEY) == b"content"
        assert (head.key, head.etag, head.size) == (KEY, made.etag, 7)
        assert (head.content_type, dict(head.metadata)) == ("application/x-test", {"name": "value"})
        assert [meta.key for meta in await listed(elsewhere.store)] == [source]
        with pytest.raises(NotFoundError):
            await store.copy("absent", "target", source_bucket=elsewhere.bucket)
        for name in ("", "no/bucket?", "..", "a b"):
            with pytest.raises(InvalidUriError):
                await store.copy(source, "target", source_bucket=name)
        assert not await store.exists("target")

    # Writing

    async def test_an_object_is_of_the_storage_class_that_was_asked_for(self, store: ObjectStore) -> None:
        wanted = PutOptions(storage_class=self.storage_class or "ANY")
        await store.put("at once", b"content", wanted)
        upload = await store.create_upload("in parts", wanted)
        await store.complete_upload(upload, [await store.upload_part(upload, 1, b"content")])
        await store.put("plain", b"content")
        for key in ("at once", "in parts"):
            assert (await store.head(key)).storage_class == self.storage_class, key
        assert (await store.head("plain")).storage_class in {None, *self.default_classes}
        shown = {meta.key: meta.storage_class for meta in await listed(store)}
        assert (shown["at once"], shown["in parts"]) == (self.storage_class, self.storage_class)

    async def test_tags_are_taken_or_refused(self, store: ObjectStore) -> None:
        wanted = PutOptions(tags={"kind": "a test", "empty": ""})
        if not self.has_tags:
            for work in (store.put(KEY, b"content", wanted), store.create_upload(KEY, wanted)):
                with pytest.raises(UnsupportedError, match="tags"):
                    await work
            assert await listed(store) == []
            return
        await store.put("at once", b"content", wanted)
        upload = await store.create_upload("in parts", wanted)
        await store.complete_upload(upload, [await store.upload_part(upload, 1, b"content")])
        assert [meta.key for meta in await listed(store)] == ["at once", "in parts"]

    async def test_a_put_replaces_all_of_the_old_object(self, store: ObjectStore) -> None:
        await store.put(KEY, b"a long first version", PutOptions("application/x-test", {"name": "value"}))
        await store.put(KEY, b"short")
        head = await store.head(KEY)
        assert await store.get(KEY) == b"short"
        assert (head.size, dict(head.metadata)) == (5, {})
        assert head.content_type != "application/x-test"

    async def test_create_only_spares_an_existing_object(self, store: ObjectStore) -> None:
        once = PutOptions(if_none_match=True)
        await store.put(KEY, b"first", once)
        with pytest.raises(FileExistsError) as caught:
            await store.put(KEY, b"second", once)
        assert isinstance(caught.value, AlreadyExistsError)
        assert await store.get(KEY) == b"first"

    async def test_a_conditional_put_replaces_one_version_only(self, store: ObjectStore) -> None:
        first = await store.put(KEY, b"first")
        await store.put(KEY, b"second", PutOptions(if_match=first.etag))
        with pytest.raises(PreconditionFailedError):
            await store.put(KEY, b"third", PutOptions(if_match=first.etag))
        assert await store.get(KEY) == b"second"
        with pytest.raises(StoreError):
            await store.put("absent", b"third", PutOptions(if_match=first.etag))
        assert not await store.exists("absent")

    # Keys

    async def test_hostile_keys_come_back_as_they_went_in(self, store: ObjectStore) -> None:
        unlike = {
            *self.refused_keys,
            *self.renamed_keys,
            *self.unlistable_keys,
            *([] if self.folders_hold_bytes else ["trailing/"]),
        }
        keys = [key for key in HOSTILE_KEYS if key not in unlike]
        for key in keys:
            await store.put(key, key.encode())
        for key in keys:
            assert await store.get(key) == key.encode(), key
            assert (await store.head(key)).key == key
        assert [meta.key for meta in await listed(store)] == self.in_order(keys)
        for key in keys:
            assert [meta.key for meta in await listed(store, key)][:1] == [key]
        for key in keys:
            await store.copy(key, "copy")
            assert await store.get("copy") == key.encode(), key
        await store.delete_many(["copy", *keys[::2]])
        for key in keys[1::2]:
            await store.delete(key)
        assert await listed(store) == []

    async def test_keys_a_server_cannot_hold_are_refused_or_shown_by_another_name(self, store: ObjectStore) -> None:
        for key in self.refused_keys:
            with pytest.raises(StoreError):
                await store.put(key, b"content")
        assert await listed(store) == []
        for key, name in self.renamed_keys.items():
            await store.put(key, key.encode())
            assert await store.get(key) == key.encode()
            assert [meta.key for meta in await listed(store)] == [name]
            await store.delete(key)
            assert await listed(store) == []

    async def test_a_marker_of_a_folder_is_an_object(self, store: ObjectStore) -> None:
        await store.put("folder/", b"")
        await store.put("folder/object", b"")
        assert [meta.key for meta in await listed(store, "folder/")] == ["folder/", "folder/object"]
        assert (await store.head("folder/")).size == 0
        await store.delete("folder/object")
        await store.delete("folder/")
        assert await listed(store) == []

    @pytest.mark.parametrize("key", UNUSABLE_KEYS, ids=["empty", "long", "long in UTF-8", "surrogate", "half a pair"])
    async def test_keys_that_are_none_are_refused_by_every_verb(self, store: ObjectStore, key: str) -> None:
        await store.put("good", b"content")
        for work in (
            store.get(key),
            store.get_range(key, OffsetRange(0)),
            store.get_into(key, memoryview(bytearray(3))),
            store.head(key),
            store.exists(key),
            store.put(key, b""),
            store.delete(key),
            store.copy(key, "target"),
            store.copy("good", key),
            store.create_upload(key),
        ):
            with pytest.raises(InvalidKeyError):
                await work
        assert [meta.key for meta in await listed(store)] == ["good"]

    # Listing

    async def test_an_empty_store_lists_one_empty_page(self, store: ObjectStore) -> None:
        pages = [page async for page in store.list()]
        assert [(page.objects, page.prefixes, page.token) for page in pages] == [((), (), None)]

    @pytest.mark.parametrize("limit", [1, 2, 3, len(NAMES) - 1, len(NAMES), 1000])
    async def test_pages_add_up_to_the_whole_in_order(self, store: ObjectStore, limit: int) -> None:
        for name in self.names:
            await store.put(name, name.encode())
        keys: list[str] = []
        token: str | None = None
        while True:
            page = await store.list_page("", ListOptions(token=token, limit=limit))
            assert len(page.objects) <= limit
            keys += [meta.key for meta in page.objects]
            token = page.token
            if token is None:
                break
        assert keys == self.in_order([*self.names])

    async def test_a_prefix_is_plain_text(self, store: ObjectStore) -> None:
        for name in self.names:
            await store.put(name, b"")
        for prefix in ("a", "a/", "b/c", "b/c/", "b/c/d", "漢", "nothing", "b/c/d/"):
            found = [meta.key for meta in await listed(store, prefix)]
            assert found == self.in_order([name for name in self.names if name.startswith(prefix)]), prefix

    @pytest.mark.parametrize("limit", [1, 2, 1000])
    async def test_a_delimiter_folds_what_lies_deeper(self, store: ObjectStore, limit: int) -> None:
        for name in self.names:
            await store.put(name, b"")
        top = [name for name in self.names if "/" not in name]
        assert await folded(store, "", "/", limit) == (self.in_order(top), ["a/", "b/"])
        assert await folded(store, "b/", "/", limit) == (["b/f"], ["b/c/"])
        assert await folded(store, "b", "/", limit) == ([], ["b/"])
        assert await folded(store, "b/c/", "/", limit) == (["b/c/d", "b/c/e"], [])
        assert await folded(store, "nothing", "/", limit) == ([], [])

    async def test_start_after_passes_over_keys(self, store: ObjectStore) -> None:
        for name in self.names:
            await store.put(name, b"")
        for after in ("", "b/c/d", "b/c/dd", "c", "漢", "\U0001f601"):
            found = [meta.key async for page in store.list(start_after=after) for meta in page.objects]
            assert found == [name for name in self.in_order([*self.names]) if name > after], after
        found = [meta.key async for page in store.list("b/", start_after="b/c/d") for meta in page.objects]
        assert found == ["b/c/e", "b/f"]
        (page,) = [page async for page in store.list(start_after="b/c/d", delimiter="/")]
        assert page.prefixes == ("b/",)

    # Deleting

    async def test_delete_removes_one_object_and_bears_its_absence(self, store: ObjectStore) -> None:
        await store.put("a", b"")
        await store.put("a/b", b"")
        await store.delete("a")
        await store.delete("a")
        await store.delete("never there")
        assert [meta.key for meta in await listed(store)] == ["a/b"]

    async def test_delete_many_takes_more_keys_than_one_request_does(self, store: ObjectStore) -> None:
        await store.put("first", b"")
        await store.put("kept", b"")
        await store.put("control\x01", b"")
        await store.put("last\r\n<&>", b"")
        await store.delete_many(iter(["first", "control\x01", *(f"absent/{n}" for n in range(1100)), "last\r\n<&>"]))
        assert [meta.key for meta in await listed(store)] == ["kept"]
        await store.delete_many([])

    async def test_delete_many_goes_on_after_a_key_it_cannot_remove(self, store: ObjectStore) -> None:
        await store.put("first", b"")
        await store.put("last", b"")
        with pytest.raises(InvalidKeyError):
            await store.delete_many(["first", *UNUSABLE_KEYS, "last"])
        assert await listed(store) == []

    # Multipart uploads

    async def test_parts_may_come_in_any_order_and_again(self, store: ObjectStore) -> None:
        upload = await store.create_upload(KEY, PutOptions("application/x-test", {"name": "value"}))
        last = await store.upload_part(upload, 3, b"the end")
        await store.upload_part(upload, 1, b"to be replaced")
        second = await store.upload_part(upload, 2, memoryview(PART)[::1])
        first = await store.upload_part(upload, 1, PART[::-1])
        assert not await store.exists(KEY)
        assert await listed(store) == []
        made = await store.complete_upload(upload, [first, second, last])
        head = await store.head(KEY)
        assert await store.get(KEY) == PART[::-1] + PART + b"the end"
        assert (head.key, head.etag, head.size) == (KEY, made.etag, 2 * len(PART) + 7)
        assert (head.content_type, dict(head.metadata)) == ("application/x-test", {"name": "value"})

    async def test_an_upload_may_leave_parts_out_and_be_empty(self, store: ObjectStore) -> None:
        upload = await store.create_upload(KEY)
        await store.upload_part(upload, 1, b"left out")
        await store.complete_upload(upload, [await store.upload_part(upload, 5, b"")])
        assert await store.get(KEY) == b""

    async def test_wrong_parts_make_no_object(self, store: ObjectStore) -> None:
        await store.put(KEY, b"old")
        upload = await store.create_upload(KEY)
        first, last = await store.upload_part(upload, 1, PART), await store.upload_part(upload, 2, b"end")
        wrong = [
            [first, Part(2, OTHER_ETAG, 3)],
            [first, Part(3, last.etag, 3)],
            [last, first],
            [],
        ]
        for parts in wrong:
            with pytest.raises(StoreError):
                await store.complete_upload(upload, parts)
            assert await store.get(KEY) == b"old"

    async def test_an_aborted_upload_is_gone(self, store: ObjectStore) -> None:
        upload = await store.create_upload(KEY)
        part = await store.upload_part(upload, 1, b"content")
        await store.abort_upload(upload)
        await store.abort_upload(upload)
        with pytest.raises(UploadNotFoundError):
            await store.upload_part(upload, 2, b"content")
        with pytest.raises(UploadNotFoundError):
            await store.complete_upload(upload, [part])
        assert not await store.exists(KEY)

    async def test_two_uploads_of_one_key_are_apart(self, store: ObjectStore) -> None:
        one, two = await store.create_upload(KEY), await store.create_upload(KEY)
        first, second = await store.upload_part(one, 1, b"one"), await store.upload_part(two, 1, b"two")
        await store.complete_upload(two, [second])
        assert await store.get(KEY) == b"two"
        await store.complete_upload(one, [first])
        assert await store.get(KEY) == b"one"

    async def test_a_conditional_upload_spares_an_existing_object(self, store: ObjectStore) -> None:
        old = await store.put(KEY, b"old")
        upload = await store.create_upload(KEY, PutOptions(if_none_match=True))
        part = await store.upload_part(upload, 1, b"new")
        with pytest.raises(AlreadyExistsError):
            await store.complete_upload(upload, [part])
        upload = await store.create_upload(KEY, PutOptions(if_match=OTHER_ETAG))
        with pytest.raises(PreconditionFailedError):
            await store.complete_upload(upload, [await store.upload_part(upload, 1, b"new")])
        assert await store.get(KEY) == b"old"
        upload = await store.create_upload(KEY, PutOptions(if_match=old.etag))
        await store.complete_upload(upload, [await store.upload_part(upload, 1, b"new")])
        assert await store.get(KEY) == b"new"

    async def test_a_store_shows_where_it_is(self, store: ObjectStore) -> None:
        assert store.uri in repr(store)


async def listed(store: ObjectStore, prefix: str = "") -> list[ObjectMeta]:
    """All objects, over all pages."""
    return [meta async for page in store.list(prefix) for meta in page.objects]


async def folded(store: ObjectStore, prefix: str, delimiter: str, limit: int) -> tuple[list[str], list[str]]:
    """Keys and common prefixes of a listing in pages of `limit`."""
    keys: list[str] = []
    prefixes: list[str] = []
    token: str | None = None
    while True:
        page = await store.list_page(prefix, ListOptions(delimiter=delimiter, token=token, limit=limit))
        assert len(page.objects) <= limit
        keys += [meta.key for meta in page.objects]
        prefixes += page.prefixes
        token = page.token
        if token is None:
            return keys, prefixes
