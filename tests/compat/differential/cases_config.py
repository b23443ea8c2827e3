"""`S3ClientConfig`: a value, checked when the client is first used; and where credentials come from."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import typing
from functools import partial
from pathlib import Path
from typing import Any

from ...servers.seaweedfs import READERS_SECRET
from .kit import UNRELEASED, Library, Place, case, raises, refusing, tried

MiB = 1 << 20


def _use(lib: Library, at: Place, config: Any) -> object:
    """The first use of a client."""
    return len(lib.mapped(at.uri("train/"), s3client_config=config))


def _uses(lib: Library, at: Place, field: str, values: list[Any]) -> list[object]:
    return [tried(partial(_use, lib, at, lib.config(**{field: value}))) for value in values]


# --- a value ---------------------------------------------------------------------------------------------------------


@case
def the_fields_and_their_defaults(lib: Library, at: Place) -> object:
    kind = lib.root.S3ClientConfig
    hints = typing.get_type_hints(kind)
    return lib.config(), [
        (field.name, field.default, hints[field.name] == _HINTS[field.name])
        for field in dataclasses.fields(kind)
        if field.name not in UNRELEASED
    ]


_HINTS = {
    "throughput_target_gbps": float,
    "part_size": int,
    "unsigned": bool,
    "force_path_style": bool,
    "max_attempts": int,
    "profile": str | None,
}


@case
def the_fields_by_position(lib: Library, at: Place) -> object:
    return lib.root.S3ClientConfig(2.5, 16 * MiB, True, True, 3, "me"), tried(
        lambda: lib.root.S3ClientConfig(1, 2, 3, 4, 5, 6, 7, 8)
    )


@case
def equality_and_hash(lib: Library, at: Place) -> object:
    one, same, other = lib.config(part_size=9 * MiB), lib.config(part_size=9 * MiB), lib.config(part_size=10 * MiB)
    return (
        one == same,
        one == other,
        one != other,
        hash(one) == hash(same),
        len({one, same, other}),
        one == 5,
        one == dataclasses.astuple(one),
    )


@case
def a_configuration_is_frozen(lib: Library, at: Place) -> object:
    config = lib.config()
    steps = [
        partial(setattr, config, "part_size", 1),
        partial(setattr, config, "new", 1),
        partial(delattr, config, "part_size"),
    ]
    return [(tried(step, unusual=AttributeError)) for step in steps], config


@case
def replacing_a_field(lib: Library, at: Place) -> object:
    config = lib.config(part_size=9 * MiB, profile="me")
    return dataclasses.replace(config, max_attempts=2), config, tried(lambda: dataclasses.replace(config, absent=1))


@case
def a_configuration_as_text_and_tuples(lib: Library, at: Place) -> object:
    config = lib.config(unsigned=True)
    fields = dataclasses.asdict(config)
    known = {name: value for name, value in fields.items() if name not in UNRELEASED}
    return repr(config).partition(", requester_pays")[0].rstrip(")"), dataclasses.astuple(config)[:6], known


@case
def a_configuration_travels(lib: Library, at: Place) -> object:
    config = lib.config(throughput_target_gbps=3.5, profile="me", unsigned=True)
    copies = [pickle.loads(pickle.dumps(config)), copy.copy(config), copy.deepcopy(config)]
    return copies, [each == config for each in copies]


@case
def unknown_fields(lib: Library, at: Place) -> object:
    return [tried(partial(lib.config, **{name: True})) for name in ("region", "endpoint", "partsize")]


@case
def comparing_configurations_by_order(lib: Library, at: Place) -> object:
    return tried(lambda: lib.config() < lib.config(part_size=9 * MiB))


@case
def nothing_is_checked_when_it_is_made(lib: Library, at: Place) -> object:
    config: Any = lib.config(
        part_size="x", max_attempts=-1, throughput_target_gbps=None, unsigned=3, force_path_style="no"
    )
    return config, lib.checkpoint(s3client_config=config).region, lib.mapped("s3://b", s3client_config=config).region


@case
def the_client_keeps_the_configuration(lib: Library, at: Place) -> object:
    config = lib.config(part_size=9 * MiB)
    client = lib.client(s3client_config=config)
    return client.s3client_config is config, lib.client().s3client_config


# --- on first use ----------------------------------------------------------------------------------------------------


@case
def part_sizes_out_of_bounds(lib: Library, at: Place) -> object:
    return _uses(lib, at, "part_size", [5 * MiB - 1, 5 * 1024 * MiB + 1, 0])


@case
def part_sizes_within_bounds(lib: Library, at: Place) -> object:
    return _uses(lib, at, "part_size", [5 * MiB, 8 * MiB + 1, 1024 * MiB])


@case
def part_sizes_of_other_types(lib: Library, at: Place) -> object:
    return _uses(lib, at, "part_size", [8.0 * MiB, "8388608", None, [8 * MiB]])


@case
def throughput_targets(lib: Library, at: Place) -> object:
    return _uses(lib, at, "throughput_target_gbps", [0, 1, 0.5, 400.0, float("inf")])


@case
def a_negative_throughput_target(lib: Library, at: Place) -> object:
    return tried(partial(_use, lib, at, lib.config(throughput_target_gbps=-1.0)))[:2]


@case
def throughput_targets_of_other_types(lib: Library, at: Place) -> object:
    return _uses(lib, at, "throughput_target_gbps", ["10", None, [10]])


@case
def numbers_of_attempts(lib: Library, at: Place) -> object:
    return _uses(lib, at, "max_attempts", [1, 2, 64])


@case
def numbers_of_attempts_of_other_types(lib: Library, at: Place) -> object:
    return _uses(lib, at, "max_attempts", ["3", 2.5, None])


@case
def profiles_of_other_types(lib: Library, at: Place) -> object:
    return _uses(lib, at, "profile", [5, b"me", ["me"]])


@case
def a_profile_that_is_not_there(lib: Library, at: Place) -> object:
    found = _uses(lib, at, "profile", ["nobody"])[0]
    assert isinstance(found, tuple)
    return found[1], str(found[2]).partition(":")[0]


@case
def path_style(lib: Library, at: Place) -> object:
    return _uses(lib, at, "force_path_style", [True, False])


@case
def configurations_beside_each_other(lib: Library, at: Place) -> object:
    clients = [lib.client(s3client_config=lib.config(part_size=size)) for size in (5 * MiB, 6 * MiB, 7 * MiB)]
    readers = [client.get_object(at.bucket, "files/lines") for client in clients]
    return [reader.read(10) for reader in readers]


@case
def a_wrong_configuration_is_wrong_again(lib: Library, at: Place) -> object:
    dataset = lib.mapped(at.uri("train/"), s3client_config=lib.config(part_size=1))
    return tried(lambda: len(dataset)), tried(lambda: len(dataset))


@case
def a_wrong_configuration_of_writers(lib: Library, at: Place) -> object:
    checkpoint = lib.checkpoint(s3client_config=lib.config(part_size=1))
    return tried(lambda: checkpoint.writer(at.scratch("object"))), at.names()


# --- attempts --------------------------------------------------------------------------------------------------------


def _attempts(lib: Library, config: Any) -> tuple[object, int]:
    with refusing(503, "SlowDown") as server:
        found = tried(lambda: lib.client(endpoint=server.endpoint, s3client_config=config).head_object("bucket", "key"))
        return found[:2], len(server.requests)


@case
def the_number_of_attempts(lib: Library, at: Place) -> object:
    return _attempts(lib, lib.config(max_attempts=2))


@case
def the_environment_overrides_the_number_of_attempts(lib: Library, at: Place) -> object:
    at.patch.setenv("AWS_MAX_ATTEMPTS", "2")
    return [_attempts(lib, lib.config(max_attempts=attempts)) for attempts in (1, 10)]


@case
def an_endpoint_nobody_listens_at(lib: Library, at: Place) -> object:
    client = lib.client(endpoint="http://127.0.0.1:9", s3client_config=lib.config(max_attempts=2))
    reader = client.get_object("bucket", "key")
    return tried(lambda: client.head_object("bucket", "key"))[:2], tried(reader.read)[:2]


@case
def an_endpoint_without_a_scheme(lib: Library, at: Place) -> object:
    client = lib.client(endpoint="127.0.0.1:9", s3client_config=lib.config(max_attempts=1))
    return tried(lambda: client.head_object("bucket", "key"))[:2]


# --- credentials -----------------------------------------------------------------------------------------------------


def _found(lib: Library, at: Place, **fields: Any) -> object:
    return tried(partial(_use, lib, at, lib.own_config(**fields)))


def _without_keys(at: Place) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        at.patch.delenv(name)


def _profiles(at: Place) -> Path:
    """A credentials file with the profiles `right`, `wrong` and `default`."""
    keys = {"right": at.server.secret_key, "wrong": "no secret", "default": at.server.secret_key}
    sections = [
        f"[{name}]\naws_access_key_id = {at.server.access_key}\naws_secret_access_key = {key}\n"
        for name, key in keys.items()
    ]
    file = at.folder() / "credentials"
    file.write_text("\n".join(sections))
    at.patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    return file


@case
def unknown_keys(lib: Library, at: Place) -> object:
    at.patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    reader = lib.client(s3client_config=lib.own_config()).get_object(at.bucket, "alone")
    return _found(lib, at), tried(reader.read)


@case
def a_wrong_secret(lib: Library, at: Place) -> object:
    at.patch.setenv("AWS_SECRET_ACCESS_KEY", "no secret")
    return _found(lib, at)


@case
def no_credentials(lib: Library, at: Place) -> object:
    _without_keys(at)
    return _found(lib, at)


@case
def unsigned_requests(lib: Library, at: Place) -> object:
    found = _found(lib, at, unsigned=True)
    config = lib.own_config(unsigned=True)
    return found, lib.client(s3client_config=config).get_object(at.public_bucket, "open").read()


@case
def unsigned_requests_need_no_credentials(lib: Library, at: Place) -> object:
    _without_keys(at)
    client = lib.client(s3client_config=lib.own_config(unsigned=True))
    return client.head_object(at.public_bucket, "open").size, tried(
        lambda: client.head_object(at.public_bucket, "absent")
    )


@case
def no_headers_of_a_signature_in_unsigned_requests(lib: Library, at: Place) -> object:
    with refusing(404, "NoSuchKey") as server:
        for unsigned in (True, False):
            client = lib.client(endpoint=server.endpoint, s3client_config=lib.own_config(unsigned=unsigned))
            tried(client.head_object, "bucket", "key")
        return ["authorization" in headers for _, _, headers in server.requests]


@case
def a_profile_from_a_file(lib: Library, at: Place) -> object:
    _profiles(at)
    _without_keys(at)
    return [_found(lib, at, profile=name) for name in ("right", "wrong")]


@case
def a_profile_wins_over_the_environment(lib: Library, at: Place) -> object:
    _profiles(at)
    at.patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    return _found(lib, at, profile="right"), _found(lib, at)


@case
def a_profile_named_by_the_environment(lib: Library, at: Place) -> object:
    _profiles(at)
    _without_keys(at)
    at.patch.setenv("AWS_PROFILE", "right")
    right = _found(lib, at)
    at.patch.setenv("AWS_PROFILE", "wrong")
    return right, _found(lib, at)


@case
def the_default_profile(lib: Library, at: Place) -> object:
    _profiles(at)
    _without_keys(at)
    return _found(lib, at)


@case
def keys_in_the_environment_win_over_the_default_profile(lib: Library, at: Place) -> object:
    _profiles(at)
    at.patch.setenv("AWS_SECRET_ACCESS_KEY", "no secret")
    return _found(lib, at)


@case
def keys_that_change_between_two_clients(lib: Library, at: Place) -> object:
    """As in a notebook whose first cell had the wrong ones."""
    config = lib.own_config()
    at.patch.setenv("AWS_SECRET_ACCESS_KEY", "no secret")
    before = tried(_use, lib, at, config)
    at.patch.setenv("AWS_SECRET_ACCESS_KEY", at.server.secret_key)
    return before[0] == raises("S3Exception")[0], tried(_use, lib, at, config)


@case
def a_read_only_identity(lib: Library, at: Place) -> object:
    at.patch.setenv("AWS_ACCESS_KEY_ID", "rokey")
    at.patch.setenv("AWS_SECRET_ACCESS_KEY", READERS_SECRET)
    client = lib.client(s3client_config=lib.own_config())
    return (
        client.get_object(at.bucket, "alone").read(),
        tried(lambda: client.delete_object(at.bucket, "alone")),
        tried(lambda: client.copy_object(at.bucket, "alone", at.bucket, f"{at.below}copy")),
    )
