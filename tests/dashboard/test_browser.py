"""The dashboard in a real browser; skipped where there is no chromium (CLCR_BROWSER=1 scripts/test installs it)."""

from __future__ import annotations

import csv
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from browser import Browser, chromium
from clcr_stream.dashboard.server import Dashboard
from clcr_stream.wire.messages import Window
from clcr_stream.wire.publisher import Publisher, PublishOptions
from clcr_stream.wire.watcher import Place, Watcher
from media import eventually
from wire_messages import HOP_NS, ORIGIN_NS, prediction, session, status, tokens, words

pytestmark = pytest.mark.skipif(chromium() is None, reason="no chromium: CLCR_BROWSER=1 scripts/test installs it")

EMOTIONS = {"neutral": 0.1, "sad": 0.05, "happy": 0.7, "surprise": 0.05, "fear": 0.05, "anger": 0.05}
MEASURED = prediction(1).modalities
HEARD = replace(MEASURED, acoustic=replace(MEASURED.acoustic, numbers={"level_dbfs": -20.0, "speech_share": 0.4}))
HTML = "<img src=x onerror=alert(1)> it's <b>bold</b>"
LABEL = "document.getElementById('answer-label').textContent"
RECORDING = "document.getElementById('recording').textContent"
BANNER = "document.getElementById('banner').textContent"


class Talking:
    """A publisher that says something new five times a second, as a session does; a context manager."""

    def __init__(self, endpoint: str, run: str, label: str) -> None:
        rest = dict.fromkeys(EMOTIONS, 0.06)
        self._probs = rest | {label: 0.7}
        self._run = run
        self._stop = threading.Event()
        options = PublishOptions(stream="left", endpoint=endpoint, heartbeat_ms=200)
        self._publisher = Publisher(options, lambda: status("left", run, state="running"))
        self._thread = threading.Thread(target=self._talk)

    def _talk(self) -> None:
        seq = 100 if self._run.startswith("a") else 900
        origin_ns = ORIGIN_NS
        self._publisher.publish(session("left", self._run, labels=tuple(EMOTIONS), origin_ns=origin_ns))
        while not self._stop.wait(HOP_NS / 1e9):
            seq += 1 if seq != 105 else 300  # a minute without an answer: then there is a past to scroll back to
            end_ns = origin_ns + seq * HOP_NS
            self._publisher.publish(prediction(seq, self._probs, "left", self._run, modalities=HEARD))
            window = Window(start_ns=end_ns - 6 * 10**9, end_ns=end_ns)
            self._publisher.publish(tokens(seq, "left", self._run, window=window))
            if seq % 10 == 0:
                spoken = {"start_ns": end_ns - 2 * 10**9, "end_ns": end_ns - 10**9, "seq": seq}
                self._publisher.publish(words(HTML, str(seq), "left", self._run, **spoken))

    def __enter__(self) -> Talking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._publisher.close()


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"ipc://{tmp_path_factory.mktemp('page')}/left.sock"


@pytest.fixture(scope="module")
def dashboard(endpoint: str) -> Iterator[Dashboard]:
    with Watcher([Place("left", endpoint)], kept_s=600.0) as watcher, Dashboard(watcher) as found:
        yield found


@pytest.fixture(scope="module")
def browser(dashboard: Dashboard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.mark.timeout(240)
def test_a_person_watches_a_session_through_its_restart(
    browser: Browser, dashboard: Dashboard, endpoint: str, tmp_path: Path
) -> None:
    browser.open(dashboard.url)
    browser.eventually(BANNER, lambda text: "waiting for a session of this name" in text)
    with Talking(endpoint, "a" * 16, "happy"):
        assert browser.eventually(LABEL, lambda text: text == "happy")
        browser.eventually(RECORDING, lambda text: text == "REC faces and sound")
        refused_connections_are_counted(browser, endpoint)
        updates_with_five_a_second(browser)
        nothing_of_the_token_is_left_in_the_address(browser)
        words_are_text(browser)
        what_was_measured_is_shown(browser)
        a_screen_reader_finds_names(browser)
        keys_select_a_span(browser)
        the_selection_is_exported(browser, tmp_path)
        the_past_can_be_looked_at(browser)
        light_and_dark_differ(browser)
        a_phone_needs_no_scrolling_sideways(browser)
    browser.eventually(BANNER, lambda text: text == "the session has ended; waiting for the next one")
    browser.eventually(f"{RECORDING} === '' && document.getElementById('recording').hidden")
    with Talking(endpoint, "b" * 16, "fear"):
        assert browser.eventually(LABEL, lambda text: text == "fear")
        browser.eventually("document.getElementById('banner').hidden")
        browser.send("Page.reload")
        assert browser.eventually(LABEL, lambda text: text == "fear"), "the tab keeps the token over a reload"
    assert browser.logs == []
    own = f"127.0.0.1:{dashboard.guard.port}"
    assert {re.sub(r"^\w+://([^/]*).*", r"\1", url) for url in browser.asked} == {own}


def what_was_measured_is_shown(browser: Browser) -> None:
    """What is null is left out; no column for a quality that sound and words do not have."""
    lines = browser.eventually("[...document.querySelectorAll('#numbers li')].map((line) => line.textContent)")
    assert lines == ["Pictures: quality 0.90, light 50 %, sharpness 120", "Sound: level −20 dBFS, speech 40 %"]
    heads = browser.ask("[...document.querySelectorAll('#modalities th[scope=col]')].map((head) => head.textContent)")
    cells = browser.ask("document.querySelector('#modalities tbody tr').cells.length")
    assert "Quality" not in heads and len(heads) == cells


def refused_connections_are_counted(browser: Browser, endpoint: str) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(endpoint.removeprefix("ipc://"))
        # A ZMTP 3.1 greeting that asks for CURVE, of a publisher without it.
        peer.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x01CURVE" + bytes(15) + b"\x00" + bytes(31))
        browser.eventually(
            "document.getElementById('ticks').textContent", lambda text: "connections refused: 1" in text
        )


def updates_with_five_a_second(browser: Browser) -> None:
    draws = """new Promise((done) => {
        let count = 0;
        const pen = CanvasRenderingContext2D.prototype, before = pen.clearRect;
        pen.clearRect = function (...given) {
            if (this.canvas.id === 'chart') count += 1;
            return before.apply(this, given);
        };
        setTimeout(() => { pen.clearRect = before; done(count); }, 3000);
    })"""
    assert 8 <= browser.eventually(draws, lambda found: found >= 8) <= 40


def nothing_of_the_token_is_left_in_the_address(browser: Browser) -> None:
    assert browser.ask("location.href").endswith("/")
    assert browser.ask("document.cookie") == ""


def words_are_text(browser: Browser) -> None:
    browser.eventually("document.querySelectorAll('#words li').length")
    assert browser.ask("document.querySelector('#words li span').textContent") == HTML
    assert browser.ask("document.querySelectorAll('#words img, #words b, #lanes img, #lanes b').length") == 0


def a_screen_reader_finds_names(browser: Browser) -> None:
    browser.send("Accessibility.enable")
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    named = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]}
    assert ("tab", "left") in named and ("button", "Export CSV") in named and ("slider", "Scroll back") in named
    nameless = [
        role for role, name in named if role in ("button", "slider", "image", "tab", "heading", "table") and not name
    ]
    assert [role for role in nameless if role != "table"] == []
    assert any(
        role == "image" and name.startswith("vision: tokens in use at levels 1, 2, 3: 50 %") for role, name in named
    )
    assert browser.eventually("document.getElementById('spoken').textContent", lambda text: text == "Now: happy")


def keys_select_a_span(browser: Browser) -> None:
    browser.ask("document.getElementById('chart').focus()")
    for _ in range(6):
        browser.press("ArrowLeft", shift=True)
    selected = browser.ask("document.getElementById('selection').textContent")
    assert re.match(r"Selected 1\.2 s, \d\d:\d\d:\d\d to \d\d:\d\d:\d\d$", selected), selected
    browser.press("Escape")
    assert browser.ask("document.getElementById('clear').hidden")
    browser.press("Tab")
    assert browser.ask("document.activeElement.id") in ("scroll", "live"), "the focus is not trapped in the curve"


def the_selection_is_exported(browser: Browser, folder: Path) -> None:
    browser.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    browser.ask("document.getElementById('chart').focus()")
    for _ in range(10):
        browser.press("ArrowLeft", shift=True)
    browser.ask("document.getElementById('export').click()")
    table = folder / "clcr-left.csv"
    assert eventually(table.exists, 30)
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    seen_s = (int(rows[-1]["end_ns"]) - int(rows[0]["end_ns"])) / 1e9  # of ten hops; a busy machine skips some
    assert 1.4 <= seen_s <= 2.4 and {row["label"] for row in rows} == {"happy"}, rows
    browser.ask("document.getElementById('clear').click()")


def the_past_can_be_looked_at(browser: Browser) -> None:
    browser.ask("document.querySelector('[data-span=\"30\"]').click()")
    browser.eventually("document.getElementById('scroll').max", lambda value: int(value) > 20)
    browser.ask(
        "{ const at = document.getElementById('scroll'); at.value = '0'; at.dispatchEvent(new Event('input')) }"
    )
    browser.eventually("document.getElementById('live').getAttribute('aria-pressed')", lambda value: value == "false")
    browser.ask("document.getElementById('live').click()")
    browser.eventually("document.getElementById('live').getAttribute('aria-pressed')", lambda value: value == "true")


def light_and_dark_differ(browser: Browser) -> None:
    page = "getComputedStyle(document.documentElement).backgroundColor"
    light = browser.ask(page)
    browser.dark(True)
    assert browser.ask(page) != light
    browser.dark(False)


def a_phone_needs_no_scrolling_sideways(browser: Browser) -> None:
    browser.size(360, 740, phone=True)
    assert browser.eventually("innerWidth", lambda width: width == 360)
    assert browser.ask("document.documentElement.scrollWidth") == 360
    small = browser.ask(
        "[...document.querySelectorAll('button')].filter((one) => one.offsetHeight && one.offsetHeight < 36).length"
    )
    assert small == 0, "too small for a finger"
    browser.size(1280, 900)
