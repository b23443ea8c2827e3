"""How far a call is: shown after a second; by a bar in a terminal, by lines every two seconds elsewhere."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

import s3dlio
from s3dlio.blocking import progress
from s3dlio.blocking.progress import Display, Tally, line


class Bar:
    def __init__(self) -> None:
        self.n = 0
        self.total: int | None = None
        self.postfix = ""
        self.closed = False

    def set_postfix_str(self, text: str, refresh: bool) -> None:
        self.postfix = text

    def update(self, more: int) -> None:
        self.n += more

    def close(self) -> None:
        self.closed = True


class Watch:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def lines_at(times: list[float], tally: Tally, **options: Any) -> list[str]:
    watch, stream = Watch(), io.StringIO()
    display = Display("sync", tally, clock=watch, stream=stream, open_bar=lambda verb, tally: None, **options)
    with display:
        for now in times:
            watch.now = 100 + now
            tally.add(1_000_000, 1)
            display.tick()
    return stream.getvalue().splitlines()


def test_lines_come_every_two_seconds() -> None:
    assert lines_at([0.5, 1.5, 1.9, 2.0, 2.1, 3.9, 4.0, 9.0, 9.1], Tally()) == [
        "s3dlio sync: 4 objects, 4.0 MB, 2.0 MB/s",
        "s3dlio sync: 7 objects, 7.0 MB, 1.8 MB/s",
        "s3dlio sync: 8 objects, 8.0 MB, 0.9 MB/s",
    ]


def test_a_short_call_shows_nothing() -> None:
    assert lines_at([0.1, 0.9, 1.9], Tally()) == []


def test_nothing_is_shown_that_is_not_wanted() -> None:
    assert lines_at([3.0, 6.0], Tally(), wanted=False) == []


def test_a_total_that_is_known_is_told() -> None:
    assert line("upload", Tally(done=2_500_000, total=10_000_000, objects=3), 0.5) == (
        "s3dlio upload: 3 objects, 2.5 of 10.0 MB, 5.0 MB/s"
    )
    assert line("get_many", Tally("objects", 1500, 3000), 3) == "s3dlio get_many: 1,500 of 3,000 objects, 500 a second"


def test_a_bar_appears_after_a_second_and_moves_to_the_end() -> None:
    watch, bars = Watch(), list[Bar]()

    def open_bar(verb: str, tally: Tally) -> Bar:
        bars.append(Bar())
        return bars[-1]

    tally = Tally(total=10)
    with Display("sync", tally, clock=watch, open_bar=open_bar) as display:
        display.tick()
        assert bars == []
        watch.now += progress.APPEARS
        tally.add(4, 2)
        display.tick()
        assert (bars[0].n, bars[0].total, bars[0].postfix) == (4, 10, "2 objects")
        tally.expect(5)
        tally.add(11, 1)
    assert len(bars) == 1
    assert (bars[0].n, bars[0].total, bars[0].closed) == (15, 15, True)


def test_a_stream_that_nobody_reads_ends_no_call() -> None:
    stream = io.StringIO()
    stream.close()
    watch = Watch()
    display = Display("sync", Tally(), clock=watch, stream=stream, open_bar=lambda verb, tally: None)
    watch.now += 5
    display.tick()


def test_there_is_a_bar_of_tqdms_in_a_terminal_and_none_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress.bar("sync", Tally()) is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    shown = progress.bar("sync", Tally(total=2000))
    progress.move(shown, Tally(done=1000, total=4000, objects=3))
    assert "25%" in str(shown)
    assert "3 objects" in str(shown)
    shown.close()
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert progress.bar("sync", Tally()) is None


def test_a_long_call_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "APPEARS", 0.0)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    items = {f"memory://progress/{number}": "x" for number in range(3)}
    s3dlio.put_many(items, progress=False)
    assert capsys.readouterr().err == ""
    s3dlio.put_many(items)
    assert "put_many: 2 of 3 objects" in capsys.readouterr().err
