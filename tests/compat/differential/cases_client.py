"""`S3Client`: each of its methods, what they give, and what they refuse; and how it introduces itself."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

from .contents import LARGE, LINES
from .kit import REGION, Library, Place, case, refusing, tried

NOWHERE = "no-such-bucket-anywhere"


def _keys(page: Any) -> list[str]:
    return [info.key for info in page.object_info]


# --- the client itself -----------------------------------------------------------------------------------------------


@case
def the_attributes_of_a_client(lib: Library, at: Place) -> object:
    client = lib.client(s3client_config=lib.config(max_attempts=3))
    return (
        client.region,
        client.s3client_config,
        type(client.user_agent_prefix),
        [
            tried(setattr, client, name, "x", unusual=AttributeError)
            for name in ("region", "s3client_config", "user_agent_prefix")
        ],
    )


@case
def what_a_client_refuses(lib: Library, at: Place) -> object:
    kind = lib.s3client.S3Client
    return [
        tried(lambda: kind(REGION, "http://host")),
        tried(lambda: kind(REGION, config=None)),
        tried(lambda: kind(REGION, profile="me")),
        tried(lambda: lib.client().get_object(at.bucket)),
        tried(lambda: lib.client().get_object(at.bucket, "alone", None)),
        tried(lambda: lib.client().head_object("only one")),
        tried(lambda: lib.client().copy_object(at.bucket, "alone", at.bucket)),
    ]


@case
def a_client_travels_before_and_after_use(lib: Library, at: Place) -> object:
    client = lib.client(s3client_config=lib.config(max_attempts=3), endpoint=at.server.endpoint)
    before = pickle.loads(pickle.dumps(client))
    read = [each.get_object(at.bucket, "alone").read() for each in (before, client)]
    return before.region, before.s3client_config, read


@case
def threads_share_a_client(lib: Library, at: Place) -> object:
    client = lib.client()
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda number: client.get_object(at.bucket, f"train/{number:02}").read(), range(1, 12)))


@case
def a_client_of_somebody_s_own(lib: Library, at: Place) -> object:
    class Own(lib.s3client.S3Client):  # type: ignore[misc, name-defined]
        def get_object(self, bucket: str, key: str, **options: Any) -> Any:
            return super().get_object(bucket, key.lower(), **options)

    return Own(REGION).get_object(at.bucket, "ALONE").read()


# --- reading and writing ---------------------------------------------------------------------------------------------


@case
def getting_an_object(lib: Library, at: Place) -> object:
    reader = lib.client().get_object(at.bucket, "files/lines")
    by_keyword = lib.client().get_object(bucket=at.bucket, key="files/lines")
    return type(reader), reader.bucket, reader.key, reader.read() == LINES, by_keyword.read(5)


@case
def getting_an_object_whose_size_is_known(lib: Library, at: Place) -> object:
    client = lib.client()
    info = client.head_object(at.bucket, "files/lines")
    key = at.put("gone", b"12345")
    known = client.head_object(at.bucket, key)
    at.client.delete_object(Bucket=at.bucket, Key=key)
    return (
        client.get_object(at.bucket, "files/lines", object_info=info).read() == LINES,
        client.get_object(at.bucket, key, object_info=known).seek(0, 2),
        tried(client.get_object(at.bucket, key, object_info=known).read),
    )


@case
def getting_an_object_of_which_somebody_says_the_size(lib: Library, at: Place) -> object:
    told = SimpleNamespace(size=106)
    constructors = (None, lib.root.S3ReaderConstructor.range_based(), lib.root.S3ReaderConstructor.range_based(0))
    readers = [
        lib.client().get_object(at.bucket, "files/lines", object_info=told, reader_constructor=each)
        for each in constructors
    ]
    return [(each.seek(-3, 2), each.read(), each.seek(0), each.read() == LINES) for each in readers]


@case
def getting_an_object_with_any_constructor(lib: Library, at: Place) -> object:
    client, makers = lib.client(), lib.root.S3ReaderConstructor
    constructors = [None, makers.sequential(), makers.range_based(), makers.range_based(0)]
    readers = [client.get_object(at.bucket, "alone", reader_constructor=each) for each in constructors]
    return [(type(each), each.read()) for each in readers], tried(
        lambda: client.get_object(at.bucket, "k", reader_constructor=5)
    )


@case
def getting_from_no_bucket(lib: Library, at: Place) -> object:
    return tried(lambda: lib.client().get_object("", "key")), lib.client().get_object(at.bucket, "").key


@case
def the_readme_s_range(lib: Library, at: Place) -> object:
    """A part from the middle of an object, straight into the caller's buffer."""
    constructor = lib.root.S3ReaderConstructor.range_based(buffer_size=0)
    reader = lib.client().get_object(at.bucket, "files/large", reader_constructor=constructor)
    buffer = bytearray(1 << 20)
    reader.seek(10 << 20)
    return reader.readinto(buffer), bytes(buffer) == LARGE[10 << 20 : 11 << 20], reader.tell()


@case
def putting_an_object(lib: Library, at: Place) -> object:
    client = lib.client()
    with client.put_object(at.bucket, f"{at.below}a") as first:
        first.write(b"1")
    second = client.put_object(bucket=at.bucket, key=f"{at.below}b", storage_class=None)
    second.write(b"2")
    second.close()
    return type(first), type(second), at.names(), at.get("b")


@case
def putting_an_object_of_a_storage_class(lib: Library, at: Place) -> object:
    client, key = lib.client(), f"{at.below}a"
    with client.put_object(at.bucket, key, "STANDARD_IA") as writer:
        writer.write(b"1")
    (page,) = client.list_objects(at.bucket, key)
    head = at.client.head_object(Bucket=at.bucket, Key=key)
    return client.head_object(at.bucket, key).storage_class, page.object_info[0].storage_class, head.get("StorageClass")


# --- listing ---------------------------------------------------------------------------------------------------------


@case
def a_page_of_a_listing(lib: Library, at: Place) -> object:
    pages = list(lib.client().list_objects(at.bucket, "train/"))
    return [(type(page), page) for page in pages]


@case
def an_entry_of_a_listing(lib: Library, at: Place) -> object:
    (page,) = lib.client().list_objects(at.bucket, "alone")
    (info,) = page.object_info
    kinds = [type(getattr(info, name)) for name in ("key", "etag", "size", "last_modified")]
    return info, kinds, type(info), info.etag[0], 1_500_000_000 < info.last_modified < 5_000_000_000


@case
def entries_travel(lib: Library, at: Place) -> object:
    (page,) = lib.client().list_objects(at.bucket, "train/0")
    head = lib.client().head_object(at.bucket, "alone")
    return [pickle.loads(pickle.dumps(each)) for each in (page.object_info[0], head)]


@case
def entries_are_fixed(lib: Library, at: Place) -> object:
    (page,) = lib.client().list_objects(at.bucket, "alone")
    head = lib.client().head_object(at.bucket, "alone")
    return [tried(setattr, each, "size", 1, unusual=AttributeError) for each in (page.object_info[0], head)]


@case
def a_listing_as_an_iterator(lib: Library, at: Place) -> object:
    pages = lib.client().list_objects(at.bucket, "train/")
    first = next(pages)
    return (
        iter(pages) is pages,
        type(pages),
        len(first.object_info),
        tried(lambda: next(pages)),
        tried(lambda: next(pages)),
        tried(lambda: len(pages)),
    )


@case
def the_attributes_of_a_listing(lib: Library, at: Place) -> object:
    pages = lib.client().list_objects(at.bucket, "train/", "/", 5)
    told = []
    for page in pages:
        fixed = pages.bucket, pages.prefix, pages.delimiter, pages.max_keys
        told.append((fixed, pages.complete, type(pages.continuation_token), len(page.object_info)))
    return told


@case
def pages_of_few_keys(lib: Library, at: Place) -> object:
    return [
        [_keys(page) for page in lib.client().list_objects(at.bucket, "train/", max_keys=most)]
        for most in (1, 4, 11, 12)
    ]


@case
def more_keys_than_a_page_holds(lib: Library, at: Place) -> object:
    return [
        [len(page.object_info) for page in lib.client().list_objects(at.bucket, "many/", max_keys=most)]
        for most in (600, 1000)
    ]


@case
def folders_of_a_listing(lib: Library, at: Place) -> object:
    client = lib.client()
    prefixes = ("", "fol", "folders", "folders/", "folders/sub/", "special/")
    return [
        [(_keys(page), page.common_prefixes) for page in client.list_objects(at.bucket, prefix, "/")]
        for prefix in prefixes
    ]


@case
def other_delimiters(lib: Library, at: Place) -> object:
    client = lib.client()
    return [
        [(_keys(page), page.common_prefixes) for page in client.list_objects(at.bucket, "train/", each)]
        for each in ("0", "1", "/0")
    ]


@case
def folders_in_pages(lib: Library, at: Place) -> object:
    for name in ("a/1", "a/2", "b/1", "c", "d/1"):
        at.put(name, b"")
    pages = lib.client().list_objects(at.bucket, at.below, "/", max_keys=2)
    return [(_keys(page), page.common_prefixes) for page in pages]


@case
def a_listing_by_keyword(lib: Library, at: Place) -> object:
    (page,) = lib.client().list_objects(bucket=at.bucket, prefix="train/1", delimiter="", max_keys=10)
    return _keys(page), tried(lambda: lib.client().list_objects(at.bucket, limit=5))


@case
def a_listing_of_nothing(lib: Library, at: Place) -> object:
    return list(lib.client().list_objects(at.bucket, "absent/"))


@case
def a_listing_of_special_keys(lib: Library, at: Place) -> object:
    return [
        _keys(page)
        for prefix in ("special/", "special/é", "special/a%", "special/a ")
        for page in lib.client().list_objects(at.bucket, prefix)
    ]


@case
def a_listing_of_a_missing_bucket(lib: Library, at: Place) -> object:
    pages = lib.client().list_objects(NOWHERE)
    return tried(lambda: next(pages)), tried(lambda: next(pages))[:2]


@case
def limits_that_are_no_numbers_of_keys(lib: Library, at: Place) -> object:
    return [tried(lib.client().list_objects, at.bucket, "train/", "", wrong) for wrong in (-1, "5", 2.5, None)]


# --- one object ------------------------------------------------------------------------------------------------------


@case
def the_head_of_an_object(lib: Library, at: Place) -> object:
    head = lib.client().head_object(at.bucket, "files/lines")
    return type(head), head, [hasattr(head, name) for name in ("key", "bucket", "restore_status")]


@case
def the_heads_of_special_keys(lib: Library, at: Place) -> object:
    names = ("special/a b", "special/a%20b", "special/a#b?c=d&e", "special/é/ü 日本", "folders/")
    return [lib.client().head_object(at.bucket, name).size for name in names]


@case
def the_head_of_nothing(lib: Library, at: Place) -> object:
    client = lib.client()
    return tried(lambda: client.head_object(at.bucket, "absent")), tried(lambda: client.head_object(NOWHERE, "absent"))


@case
def deleting_an_object(lib: Library, at: Place) -> object:
    at.put("a", b"1")
    at.put("b", b"2")
    client = lib.client()
    gone = client.delete_object(at.bucket, f"{at.below}a")
    return gone, at.names(), client.delete_object(bucket=at.bucket, key=f"{at.below}a")


@case
def deleting_special_keys(lib: Library, at: Place) -> object:
    for name in ("a b", "a%20b", "a+b", "é?"):
        at.put(name, b"")
    for name in ("a%20b", "é?"):
        lib.client().delete_object(at.bucket, f"{at.below}{name}")
    return at.names()


@case
def deleting_from_a_missing_bucket(lib: Library, at: Place) -> object:
    with refusing(404, "NoSuchBucket") as server:
        return tried(lambda: lib.client(endpoint=server.endpoint).delete_object("bucket", "key"))


@case
def copying_an_object(lib: Library, at: Place) -> object:
    at.put("a", b"content")
    gives = lib.client().copy_object(at.bucket, f"{at.below}a", at.bucket, f"{at.below}copy of a")
    return gives, sorted(at.names()), at.get("copy of a")


@case
def copying_by_keyword_to_another_bucket(lib: Library, at: Place) -> object:
    source = {"src_bucket": at.bucket, "src_key": "alone"}
    lib.client().copy_object(**source, dst_bucket=at.other_bucket, dst_key=f"{at.below}here")
    return at.names(), at.get("here", bucket=at.other_bucket)


@case
def copying_keys_that_are_escaped(lib: Library, at: Place) -> object:
    names = ("a b", "a+b", "é/ü 日本", "a#b?c=d&e")
    for name in names:
        at.put(name, name.encode())
        lib.client().copy_object(at.bucket, quote(f"{at.below}{name}"), at.bucket, f"{at.below}copy/{name}")
    return sorted(at.names()), [at.get(f"copy/{name}") for name in names]


@case
def copying_over_another_object(lib: Library, at: Place) -> object:
    at.put("a", b"new")
    at.put("b", b"the old one")
    lib.client().copy_object(at.bucket, f"{at.below}a", at.bucket, f"{at.below}b")
    return at.get("b"), at.names()


@case
def copying_nothing(lib: Library, at: Place) -> object:
    client = lib.client()
    return tried(lambda: client.copy_object(at.bucket, "absent", at.bucket, f"{at.below}x")), at.names()


@case
def arguments_of_other_types(lib: Library, at: Place) -> object:
    client = lib.client()
    return [
        tried(lambda: client.head_object(5, "key")),
        tried(lambda: client.head_object(at.bucket, None)),
        tried(lambda: client.delete_object(at.bucket, b"key"), unusual=AttributeError),
        tried(lambda: client.copy_object(at.bucket, 5, at.bucket, "key")),
    ]


# --- errors ----------------------------------------------------------------------------------------------------------


@case
def the_exception(lib: Library, at: Place) -> object:
    kind = lib.root.S3Exception
    error = kind("text")
    return (
        kind.__name__,
        [base.__name__ for base in kind.__bases__],
        str(error),
        repr(error),
        error.args,
        issubclass(kind, Exception),
    )


@case
def the_exception_travels(lib: Library, at: Place) -> object:
    error = tried(lambda: lib.client().head_object(at.bucket, "absent"))
    try:
        lib.client().head_object(at.bucket, "absent")
    except lib.root.S3Exception as caught:
        arrived = pickle.loads(pickle.dumps(caught))
        return error, isinstance(arrived, lib.root.S3Exception), str(arrived), arrived.args == caught.args
    return "nothing was raised"


@case
def answers_that_are_errors(lib: Library, at: Place) -> object:
    found = []
    for status, code in ((403, "AccessDenied"), (400, "InvalidRequest"), (409, "Conflict")):
        with refusing(status, code) as server:
            client = lib.client(endpoint=server.endpoint, s3client_config=lib.config(max_attempts=2))
            found.append([tried(client.head_object, "bkt", "k")[:2], tried(next, client.list_objects("bkt"))[:2]])
    return found


@case
def what_a_refusal_says(lib: Library, at: Place) -> object:
    with refusing(403, "AccessDenied") as server:
        client = lib.client(endpoint=server.endpoint, s3client_config=lib.config(max_attempts=2))
        return tried(lambda: next(client.list_objects("bkt"))), tried(client.get_object("bkt", "k").read)


# --- who it is -------------------------------------------------------------------------------------------------------


def _agent(prefix: str) -> str:
    """Without the product's own name and version."""
    return prefix.partition(" ")[2]


@case
def the_user_agent(lib: Library, at: Place) -> object:
    kind = lib.module("_user_agent").UserAgent
    comments: list[Any] = [None, [], ["one"], ["one", "two"], ["", "one", ""]]
    return (
        [_agent(kind(each).prefix) for each in comments],
        _agent(kind.get_default_prefix()),
        _agent(kind(comments=["x"]).prefix),
    )


@case
def what_is_no_comment(lib: Library, at: Place) -> object:
    kind = lib.module("_user_agent").UserAgent
    return [tried(kind, wrong) for wrong in ("text", ("a",), {"a": 1}, 5)]


@case
def the_user_agent_of_a_client(lib: Library, at: Place) -> object:
    kind = lib.module("_user_agent").UserAgent
    return _agent(lib.client().user_agent_prefix), _agent(lib.client(user_agent=kind(["mine"])).user_agent_prefix)


@case
def the_user_agent_is_sent(lib: Library, at: Place) -> object:
    with refusing(404, "NoSuchKey") as server:
        client = lib.client(endpoint=server.endpoint, user_agent=lib.module("_user_agent").UserAgent(["mine", "1.0"]))
        tried(lambda: client.head_object("bucket", "key"))
        ((method, path, headers),) = server.requests
    return method, path, client.user_agent_prefix in headers["user-agent"], "(mine; 1.0)" in headers["user-agent"]


# --- the client for tests --------------------------------------------------------------------------------------------


@case
def the_client_in_memory(lib: Library, at: Place) -> object:
    mock = lib.s3client.MockS3Client(REGION, "bucket")
    mock.add_object("a/1", b"one")
    mock.add_object("a/2", b"two")
    (page,) = mock.list_objects("bucket")
    read = mock.get_object("bucket", "a/1").read()
    mock.remove_object("a/1")
    return (
        _keys(page),
        read,
        mock.head_object("bucket", "a/2").size,
        [_keys(each) for each in mock.list_objects("bucket", "a/")],
    )


@case
def writing_to_the_client_in_memory(lib: Library, at: Place) -> object:
    mock = lib.s3client.MockS3Client(region=REGION, bucket="bucket", s3client_config=lib.config())
    with mock.put_object("bucket", "key") as writer:
        writer.write(b"data")
    mock.delete_object("bucket", "absent")
    return mock.get_object("bucket", "key").read(), mock.region, isinstance(mock, lib.s3client.S3Client)


@case
def what_is_not_in_memory(lib: Library, at: Place) -> object:
    mock = lib.s3client.MockS3Client(REGION, "bucket")
    return tried(mock.get_object("bucket", "absent").read), tried(lambda: next(mock.list_objects("other")))
