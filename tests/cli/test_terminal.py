"""What a person sees of a session: status line, notices and summary."""

from __future__ import annotations

import threading

import msgspec
import pytest

from clcr_stream.cli.terminal import Notices, StatusLine, status_line, summary_text
from clcr_stream.clock import NS_PER_S
from clcr_stream.streams.account import Account, Last
from clcr_stream.streams.reports import View, summarise
from clcr_stream.wire import messages


def test_the_status_line_shows_sources_label_cost_and_skips() -> None:
    account = Account()
    account.published(10.0, 5.0, 1.0, Last("happy", 0.91, ("language_absent",)))
    account.skipped("late", 3)
    view = View("left", account, (messages.Source(name="0", kind="camera", state="live"),))
    line = status_line([view])
    assert line == "camera:live | happy 0.91 | tick 5/5 ms p50/p95 | published 1 skipped 3 | language_absent"


def test_the_status_line_shows_a_value_and_says_when_there_is_no_answer() -> None:
    account = Account()
    assert status_line([View("left", account, ())]).startswith("no prediction yet | published 0")
    account.published(10.0, 5.0, 1.0, Last(value=-0.25))
    assert status_line([View("left", account, ())]).startswith("-0.25 | ")
    account.published(10.0, 5.0, 1.0, Last(degraded=("no_input",)))
    assert status_line([View("left", account, ())]).startswith("no answer | ")


def test_the_status_line_of_several_streams_names_each() -> None:
    absent = messages.Source(name="1", kind="camera", state="absent")
    line = status_line([View("left", Account(), ()), View("right", Account(), (absent,))])
    left, right = line.split(" || ")
    assert left.startswith("left: ") and right.startswith("right: camera:absent | no prediction yet")


def test_the_summary_adds_up_and_knows_its_percentiles() -> None:
    account = Account()
    for value in range(1, 101):
        account.published(float(value), value / 10, value / 100, Last())
    account.skipped("overrun", 7)
    values = summarise("default", account, ())
    assert values.ticks == messages.Ticks(due=107, published=100, skipped={"overrun": 7})
    assert values.skipped == {"late": 0, "overrun": 7, "invalid": 0}
    assert values.capture_to_publish_ms == messages.Latency(p50=50.5, p95=95.05, p99=99.01)
    assert values.as_json()["tick_ms"] == {"p50": 5.05, "p95": 9.505, "p99": 9.901}
    assert "ticks 107 = published 100 + skipped (late 0, overrun 7, invalid 0)" in summary_text(values)


def test_the_summary_repeats_what_a_person_could_do_about_a_source() -> None:
    told = "the file holds no audio; faces are found when the picture is turned: give --rotate 90"
    values = summarise("default", Account(), camera_sources("ended", told))
    assert f"camera 0: {told}" in summary_text(values)
    assert "camera" not in summary_text(summarise("default", Account(), camera_sources("ended", "end of input")))


def camera(state: str, reason: str | None = None, stream: str = "default") -> tuple[View, ...]:
    return (View(stream, Account(), camera_sources(state, reason)),)


def camera_sources(state: str, reason: str | None) -> tuple[messages.Source, ...]:
    return (msgspec.convert({"name": "0", "kind": "camera", "state": state, "reason": reason}, messages.Source),)


def test_why_a_source_is_not_there_is_told_once_until_it_comes_back() -> None:
    notices = Notices()
    assert notices.new(camera("starting", "no line yet")) == []
    assert notices.new(camera("absent", "no such camera; looking every second")) == [
        "warning: camera 0: absent: no such camera; looking every second"
    ]
    assert notices.new(camera("absent", "no such camera; looking every second")) == []
    assert notices.new(camera("live")) == ["camera 0: back"]
    assert notices.new(camera("live")) == []
    assert notices.new(camera("stale", "no new picture for 1.1 s")) == [
        "warning: camera 0: stale: no new picture for 1.1 s"
    ]
    assert notices.new(camera("stale", "no new picture for 1.6 s")) == []
    assert notices.new(camera("failed", "broken")) == ["warning: camera 0: failed: broken"]


def test_the_same_camera_name_in_two_streams_is_told_for_each_with_its_stream() -> None:
    notices = Notices()
    left, right = camera("absent", "gone", "left"), camera("absent", "gone", "right")
    assert notices.new(left + right) == [
        "warning: left: camera 0: absent: gone",
        "warning: right: camera 0: absent: gone",
    ]
    assert notices.new(left + camera("live", stream="right")) == ["right: camera 0: back"]


def test_a_source_that_is_there_from_the_start_and_ends_is_not_mentioned() -> None:
    notices = Notices()
    told = [notices.new(camera(state)) for state in ("starting", "live", "ended")]
    assert told == [[], [], []]


def test_what_a_person_can_do_about_a_live_source_is_said_once() -> None:
    notices, hint = Notices(), "faces are found when the picture is turned: give --rotate 90"
    assert notices.new(camera("live")) == []
    assert notices.new(camera("live", hint)) == [f"camera 0: {hint}"]
    assert notices.new(camera("live", hint)) == notices.new(camera("live")) == []
    assert notices.new(camera("stale", "no new picture")) == ["warning: camera 0: stale: no new picture"]


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def test_a_camera_that_comes_and_goes_is_told_a_few_times_and_then_once_a_minute_with_a_count() -> None:
    clock = Clock()
    notices = Notices(clock)
    lines = []
    for _ in range(600):  # gone for a second, back for a second, for 20 minutes
        for state in ("stale", "live"):
            lines += notices.new(camera(state, "no new picture" if state == "stale" else None))
            clock.now_ns += NS_PER_S
    assert 20 <= len(lines) <= 30
    assert lines[:6] == ["warning: camera 0: stale: no new picture", "camera 0: back"] * 3
    assert lines[6].endswith("changes before that were not shown)")
    counted = sum(int(line.rsplit("(", 1)[1].split()[0]) for line in lines if "(" in line)
    assert 1200 - 120 <= counted + len(lines) <= 1200, "every change is shown or counted, but for the last minute's"


def test_a_source_that_stays_away_after_it_had_come_and_gone_is_told_in_the_end() -> None:
    clock = Clock()
    notices = Notices(clock)
    for _ in range(10):
        notices.new(camera("stale", "no new picture"))
        notices.new(camera("live"))
    clock.now_ns += 61 * NS_PER_S
    (line,) = notices.new(camera("failed", "unplugged"))
    assert (
        line.startswith("warning: camera 0: failed: unplugged (") and notices.new(camera("failed", "unplugged")) == []
    )


def test_refused_readers_are_told_at_once_and_then_once_a_minute_with_their_number() -> None:
    clock = Clock()
    notices = Notices(clock)
    lines = []
    for count in range(1201):  # a reader that tries again ten times a second, for two minutes
        lines += notices.new([View("left", Account(), (), refused=count)])
        clock.now_ns += NS_PER_S // 10
    assert [line.split(" (")[0] for line in lines] == [f"warning: connections refused: {count}" for count in (1, 601)]
    clock.now_ns += 61 * NS_PER_S
    two = [View("left", Account(), (), refused=1201), View("right", Account(), ())]
    assert [line.split(" (")[0] for line in notices.new(two)] == ["warning: left: connections refused: 1201"]
    assert notices.new(two) == []


def test_a_narrow_terminal_keeps_the_label_and_the_counts() -> None:
    account = Account()
    account.published(10.0, 5.0, 1.0, Last("happy", 0.91, ("language_absent",)))
    view = View("left", account, camera_sources("live", None))
    assert status_line([view], 60) == "camera:live | happy 0.91 | published 1 skipped 0"
    assert status_line([view], 40) == "happy 0.91 | published 1 skipped 0"
    assert status_line([view], 24) == "published 1 skipped 0"
    assert status_line([view] * 3, 40) == "3 streams | published 3 skipped 0"


@pytest.mark.parametrize("columns", range(1, 140, 7))
@pytest.mark.parametrize("streams", [1, 2, 5])
def test_a_status_line_is_never_wider_than_the_terminal_unless_that_is_tiny(columns: int, streams: int) -> None:
    account = Account()
    account.published(10.0, 5.0, 1.0, Last("happy", 0.91, ("vision_absent", "language_absent")))
    line = status_line([View("left", account, camera_sources("live", None))] * streams, columns)
    assert len(line) <= max(columns, len("5 streams | published 5 skipped 0"))


class Lines:
    """A stream that says when something was written to it."""

    def __init__(self, terminal: bool) -> None:
        self.text, self.written, self._terminal = "", threading.Event(), terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        self.text += text
        self.written.set()
        return len(text)

    def flush(self) -> None: ...


@pytest.fixture(autouse=True)
def terminal_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_notice_stays_on_the_screen_even_when_the_session_is_short(terminal: bool) -> None:
    out, pending = Lines(terminal), ["camera 0: absent: no such camera"]
    with StatusLine(lambda _: "all is well", out, 3600.0, lambda: [pending.pop()] if pending else []):  # type: ignore[arg-type]
        pass
    assert "camera 0: absent: no such camera\n" in out.text
    assert out.text.count("camera 0") == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_one_line_rewritten_and_a_file_gets_plain_lines(terminal: bool) -> None:
    out = Lines(terminal)
    with StatusLine(lambda _: "all is well", out, period_s=0.001):  # type: ignore[arg-type]
        assert out.written.wait(10)
    assert "all is well" in out.text
    assert ("\x1b[K" in out.text) is terminal
    assert out.text.endswith("\x1b[K" if terminal else "\n")


def test_a_source_s_name_moves_no_cursor_and_adds_no_line() -> None:
    out, told = Lines(terminal=False), Lines(terminal=False)
    with StatusLine(lambda _: "file a\x1b[2J\nb.mp4", out, 0.001):  # type: ignore[arg-type]
        assert out.written.wait(10)
    assert set(out.text.splitlines()) == {"file a·[2J b.mp4"}
    with StatusLine(lambda _: "", told, 3600.0, lambda: ["file a\x1b[2J\nb.mp4: failed"]):  # type: ignore[arg-type]
        pass
    assert set(told.text.splitlines()) == {"file a·[2J b.mp4: failed"}


@pytest.mark.parametrize("name", ["dumb", ""])
def test_a_terminal_that_knows_no_escape_codes_gets_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", name)
    out = Lines(terminal=True)
    with StatusLine(lambda _: "all is well", out, 0.001, lambda: ["camera 0: back"]):  # type: ignore[arg-type]
        assert out.written.wait(10)
    assert "\x1b" not in out.text and "\r" not in out.text and "camera 0: back\n" in out.text
