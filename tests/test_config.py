from __future__ import annotations

import ast
import inspect
import pickle
import re
from dataclasses import MISSING, Field, FrozenInstanceError, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from s3dlio import config
from s3dlio.config import Config
from s3dlio.errors import ConfigError

FROM_ENVIRONMENT = [field for field in fields(Config) if field.metadata]
NUMBERS = [
    field.name
    for field in FROM_ENVIRONMENT
    if isinstance(field.metadata["default"], int | float) and not isinstance(field.metadata["default"], bool)
]
FLAGS = [field.name for field in FROM_ENVIRONMENT if "bool" in str(field.type)]
ENDPOINTS = ["endpoint", "gcs_endpoint", "azure_endpoint"]

_SPELLINGS: dict[object, tuple[str, object]] = {
    None: (" some-text\n", "some-text"),
    False: ("true", True),
    True: ("No", False),
    int: ("17", 17),
    float: ("2.5", 2.5),
    "auto": ("path", "path"),
    "full": ("file", "file"),
    "when_there": ("off", "off"),
    (): (" s3://b, file:///c ", ("s3://b", "file:///c")),
    "s3dlio": ("my-program/1", "my-program/1"),
}


def _other(field: Field[Any]) -> tuple[str, object]:
    """A value that is not the default: as the environment spells it, and as the field holds it."""
    default = field.metadata["default"]
    if field.name in FLAGS:
        return _SPELLINGS[bool(default)]
    if field.name == "sse":
        return "aws:kms", "aws:kms"
    return _SPELLINGS[type(default) if isinstance(default, int | float) else default]


def test_every_setting_has_a_variable_but_the_profile() -> None:
    """`AWS_PROFILE` names a profile that the keys in the environment are ahead of; the setting is ahead of those."""
    assert [field.name for field in fields(Config) if not field.metadata] == ["profile"]


@pytest.mark.parametrize("field", FROM_ENVIRONMENT, ids=lambda field: field.name)
def test_a_setting_comes_from_its_first_variable_that_is_not_empty(
    monkeypatch: pytest.MonkeyPatch, field: Field[Any]
) -> None:
    variables, default = field.metadata["variables"], field.metadata["default"]
    assert getattr(Config(), field.name) == default
    text, value = _other(field)
    monkeypatch.setenv(variables[-1], text)
    assert getattr(Config(), field.name) == value
    monkeypatch.setenv(variables[0], " \n")
    assert getattr(Config(), field.name) == (value if len(variables) > 1 else default)
    if len(variables) > 1:
        monkeypatch.setenv(variables[0], "first")
        assert getattr(Config(), field.name) == "first"


@pytest.mark.parametrize("field", FROM_ENVIRONMENT, ids=lambda field: field.name)
def test_an_argument_wins_even_where_it_is_the_default(monkeypatch: pytest.MonkeyPatch, field: Field[Any]) -> None:
    default = field.metadata["default"]
    text, value = _other(field)
    monkeypatch.setenv(field.metadata["variables"][0], text)
    none_is_not_given = default is None
    assert getattr(Config(**{field.name: default}), field.name) == (value if none_is_not_given else default)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["many", "8MiB", "0", "-1", "nan", "1e3x"])
def test_an_unusable_number_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    (variable,) = next(field.metadata["variables"] for field in FROM_ENVIRONMENT if field.name == name)
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError, match=f"{variable}|{name}"):
        Config()


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -5, "8", None])
def test_an_unusable_number_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        Config(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_says_true_or_false(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (variable,) = next(field.metadata["variables"] for field in FROM_ENVIRONMENT if field.name == name)
    for text, value in {"TRUE": True, "1": True, "yes": True, "on": True, "0": False, "off\n": False}.items():
        monkeypatch.setenv(variable, text)
        assert getattr(Config(), name) is value
    for text in ("tru", "2", "none", "true false"):
        monkeypatch.setenv(variable, text)
        with pytest.raises(ConfigError, match=f"{variable} must be true or false"):
            Config()
    with pytest.raises(ConfigError, match=name):
        Config(**{name: "false"})  # type: ignore[arg-type]


def test_configured_endpoints_may_be_ignored_but_not_the_one_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://h")
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert Config().endpoint is None
    assert Config(endpoint="https://other").endpoint == "https://other"
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "false")
    assert Config().endpoint == "https://h"


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize("url", ["https://CANARY:CANARY@h", "CANARY@h:80", "https://h/c?sv=1&sig=CANARY"])
def test_no_secret_enters_by_an_endpoint(monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must not hold a user") as caught:
        Config(**{name: url})  # type: ignore[arg-type]
    assert "CANARY" not in repr(caught.value) + str(pickle.dumps(caught.value))
    (variable, *_) = next(field.metadata["variables"] for field in FROM_ENVIRONMENT if field.name == name)
    monkeypatch.setenv(variable, url)
    with pytest.raises(ConfigError, match=f"{name} must not hold a user"):
        Config()


@pytest.mark.parametrize("name", ["region", "profile", "ca_bundle", "azure_account", *ENDPOINTS])
def test_text_is_text(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be text, not bytes"):
        Config(**{name: b"x"})  # type: ignore[arg-type]


def test_addressing_is_one_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="auto, path, virtual"):
        Config(addressing="dns")  # type: ignore[arg-type]
    monkeypatch.setenv("S3DLIO_ADDRESSING", "dns")
    with pytest.raises(ConfigError, match="dns"):
        Config()


@pytest.mark.parametrize("agent", ["a\nb", "a\r\nx-other: b", "tab\t", "\x7f", "caf\u00e9", "\u2603", "a\0"])
def test_a_user_agent_is_what_a_header_can_hold(agent: str) -> None:
    assert Config().user_agent == "s3dlio"
    assert Config(user_agent="my-program/1.0 (a; b)").user_agent == "my-program/1.0 (a; b)"
    with pytest.raises(ConfigError, match="user_agent must be printable ASCII"):
        Config(user_agent=agent)


def test_a_config_is_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Config(part_size=1 << 20)
    assert made == Config(part_size=1 << 20)
    assert hash(made) == hash(Config(part_size=1 << 20))
    assert made != Config()
    with pytest.raises(FrozenInstanceError):
        made.part_size = 5  # type: ignore[misc]
    monkeypatch.setenv("S3DLIO_CONNECTIONS", "3")
    assert pickle.loads(pickle.dumps(made)) == made


def test_every_setting_is_documented_and_has_a_default() -> None:
    (body,) = (node.body for node in ast.walk(ast.parse(inspect.getsource(config))) if isinstance(node, ast.ClassDef))
    documented = [
        node.target.id
        for node, after in pairwise(body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr)
    ]
    assert documented == [field.name for field in fields(Config)]
    assert all(field.default is not MISSING or field.default_factory is not MISSING for field in fields(Config))


@pytest.mark.parametrize("item", fields(Config), ids=lambda item: item.name)
def test_the_page_lists_every_setting(item: Field[object]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "settings.md").read_text()
    (row,) = re.findall(rf"^\| `{item.name}` \|([^|]*)\|", page, re.MULTILINE)
    assert re.findall("`([A-Z0-9_]+)`", row) == [*item.metadata.get("variables", ())]
