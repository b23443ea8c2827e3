"""How several endpoints are spelled, and that a `Config` keeps them as one text."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3dlio.config import Config
from s3dlio.endpoints import endpoint_urls
from s3dlio.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("http://a:9000", ["http://a:9000"]),
        ("http://a, http://b ,", ["http://a", "http://b"]),
        ("http://a,http://b,http://a", ["http://a", "http://b"]),
        ("http://10.0.0.{1...3}:9000", [f"http://10.0.0.{number}:9000" for number in (1, 2, 3)]),
        ("http://node{08...10}", ["http://node08", "http://node09", "http://node10"]),
        ("http://r{1...2}n{1...2}", ["http://r1n1", "http://r1n2", "http://r2n1", "http://r2n2"]),
        ("http://h:{9000...9001},http://i", ["http://h:9000", "http://h:9001", "http://i"]),
        ("", []),
    ],
)
def test_spellings(text: str, urls: list[str]) -> None:
    assert endpoint_urls(text) == urls


def test_a_file_lists_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "endpoints.txt"
    place.write_text("# the rack\nhttp://n{1...2}:80\n\nhttp://spare # by the door\n")
    monkeypatch.chdir(tmp_path)
    for spelled in (f"@{place}", "@endpoints.txt"):
        assert endpoint_urls(spelled) == ["http://n1:80", "http://n2:80", "http://spare"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://first,@{place}")
    assert Config().endpoint == "http://first,http://n1:80,http://n2:80,http://spare"


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ("# none\n", "names none"), ("@other\n", "another file"), ("\udcff", "cannot be read")],
)
def test_a_file_that_does_not(tmp_path: Path, content: str | None, message: str) -> None:
    place = tmp_path / "endpoints.txt"
    if content is not None:
        place.write_text(content, "utf-8", errors="surrogateescape")
    with pytest.raises(ConfigError, match=message):
        Config(endpoint=f"@{place}")


@pytest.mark.parametrize("text", ["http://n{3...1}", "http://n{0...1024}", "http://n{0...32}m{0...32}"])
def test_too_many_or_none(text: str) -> None:
    with pytest.raises(ConfigError):
        endpoint_urls(text)


@pytest.mark.parametrize("name", ["endpoint", "gcs_endpoint", "azure_endpoint"])
def test_a_config_keeps_one_text(name: str) -> None:
    make: Callable[..., Config] = Config
    config = make(**{name: ["http://a:1", "http://b:{2...3}"]})
    assert getattr(config, name) == "http://a:1,http://b:2,http://b:3"
    assert config == make(**{name: "http://a:1, http://b:2, http://b:3"}) == pickle.loads(pickle.dumps(config))
    assert hash(config) == hash(make(**{name: ("http://a:1", "http://b:2,http://b:3")}))


@pytest.mark.parametrize("given", [["http://u:p@a"], "http://a,http://u:p@b", [1], "http://a?x,http://b"])
def test_what_is_no_endpoint(given: object) -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        Config(endpoint=given)  # type: ignore[arg-type]


_NUMBERS = st.tuples(st.integers(0, 30), st.integers(0, 5), st.integers(1, 3))


@given(st.lists(st.tuples(st.sampled_from(["http://h", "https://x.y:"]), _NUMBERS), min_size=1, max_size=4))
def test_ranges_are_what_counting_gives(parts: list[tuple[str, tuple[int, int, int]]]) -> None:
    text = ",".join(f"{before}{{{first:0{width}}...{first + more}}}" for before, (first, more, width) in parts)
    counted = [
        f"{before}{str(number).rjust(len(f'{first:0{width}}'), '0')}"
        for before, (first, more, width) in parts
        for number in range(first, first + more + 1)
    ]
    assert endpoint_urls(text) == sorted(set(counted), key=counted.index)


@given(st.text(st.characters(exclude_characters="@"), max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        urls = endpoint_urls(text)
    except ConfigError:
        return
    assert len(set(urls)) == len(urls) <= 1024
    assert all(url == url.strip() for url in urls)
