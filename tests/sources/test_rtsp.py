"""A real RTSP server (GStreamer's): H.264 and G.711 as RTP over TCP, capture times by RTCP, losses, a password."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import av.packet
import cv2
import numpy as np
import pytest

from clcr_stream.clock import NS_PER_MS, NS_PER_S, MonotonicClock
from clcr_stream.errors import SourceError
from clcr_stream.sources.base import BOTH
from clcr_stream.sources.network import NetworkSource
from clcr_stream.sources.urls import open_url
from clcr_stream.window.grid import TimeGrid
from clcr_stream.window.ring import make_rings
from crowd import slowdown
from faulty import expect_state, free_port, seconds, source, watched, write_pictures
from job_process import Message
from job_rtsp import RATE_HZ, RtspCamera, missing_rtsp
from media import GreyFinder, eventually, make_sinks

pytestmark = pytest.mark.skipif((reason := missing_rtsp()) is not None, reason=reason or "")
TOLD = hasattr(av.packet.Packet, "has_sidedata")  # PyAV from 16 on says what a packet's sender told
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A talking person's pictures, 2 s, and a second of tone in each two."""
    folder = write_pictures(tmp_path_factory.mktemp("rtsp") / "person")
    write_sound(folder, RATE_HZ)
    return folder


@pytest.fixture(scope="module")
def flashes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright picture and a click at the beginning of each 2 s."""
    folder = tmp_path_factory.mktemp("rtsp") / "flashes"
    folder.mkdir()
    random = np.random.default_rng(3)
    for number in range(30):
        picture = random.integers(0, 20, (120, 160, 3), np.uint8) + np.uint8(90 if number else 230)
        cv2.imwrite(str(folder / f"{number:03}.jpg"), picture)
    write_sound(folder, 400)
    return folder


def write_sound(folder: Path, loud_samples: int) -> None:
    at = np.arange(2 * RATE_HZ)
    tone = np.sin(2 * np.pi * 1000 * at / RATE_HZ) * (at < loud_samples)
    (folder / "sound.raw").write_bytes((tone * 16000).astype("<i2").tobytes())


def full(message: Message) -> bool:
    return all(message["modalities"][kind]["coverage"] > 0.4 for kind in ("vision", "acoustic"))


def by_its_sender(status: Message) -> bool:
    """Capture times by the wall clock of RTCP, and not, after 20 s, by a fit of stamps and arrivals."""
    timing = source(status)["timing"]
    return timing is not None and timing["by"] == "device" and timing["offset_ms"] == 0.0


def test_a_session_sees_and_hears_a_camera_by_rtsp_and_takes_it_back_after_it_hung_and_after_it_was_killed(
    person: Path, tmp_path: Path, record_property: Record
) -> None:
    port = free_port()
    camera = RtspCamera(person, port)
    url = f"rtsp://{camera.place}"
    with watched(tmp_path, "--camera", url, "--mic", url) as session:
        expect_state(session, "absent", 30)
        begun_ns = session.now_ns()
        with camera:
            first_s = seconds(expect_state(session, "live", 30, begun_ns), begun_ns)
            session.expect(full, 30)
            if TOLD:
                session.expect(by_its_sender, 30, "status", begun_ns)
            frozen_ns = session.now_ns()
            camera.freeze()
            told_s = seconds(expect_state(session, "stale lost", 10, frozen_ns), frozen_ns)
            expect_state(session, "lost reconnecting", 10, frozen_ns)
            thawed_ns = session.now_ns()
            camera.thaw()
            live = expect_state(session, "live", 30, thawed_ns)
            thaw_s = seconds(live, thawed_ns)
            killed_ns = session.now_ns()
        lost = expect_state(session, "lost", 10, killed_ns)
        again_ns = session.now_ns()
        with RtspCamera(person, port):
            back = expect_state(session, "live", 30, again_ns)
            session.expect(full, 30, after_ns=back.arrived_ns)
            code, _ = session.terminate()
        numbers = [got.message["seq"] for got in session.reader.received("prediction")]
    assert code == 0, session.stderr()
    assert source(lost.message)["reason"].endswith("trying again")
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    waits = {"first_s": first_s, "told_s": told_s, "thaw_s": thaw_s, "killed_s": seconds(lost, killed_ns)}
    record_property("rtsp", waits | {"back_s": seconds(back, again_ns)})
    assert told_s <= 1.0 * slowdown() and seconds(lost, killed_ns) <= 1.0 * slowdown()
    # The longest pause between tries is 5 s; the server takes 1 s to start, FFmpeg 2 s to know the streams.
    assert seconds(back, again_ns) <= 9.0 * slowdown()


@pytest.mark.skipif(not TOLD, reason="this PyAV does not show what senders tell: pip install 'av>=16.1'")
def test_a_flash_and_a_click_are_where_the_camera_took_them(flashes: Path, record_property: Record) -> None:
    clock = MonotonicClock()
    grid = TimeGrid(clock.now_ns(), NS_PER_S // 5, window_hops=150, frame_rate_hz=15, sample_rate_hz=16_000)
    sinks = replace(make_sinks(clock), rings=make_rings(grid, 112), finder=GreyFinder(), patience_ns=400 * NS_PER_MS)
    with RtspCamera(flashes, free_port()) as camera:
        source = NetworkSource(f"rtsp://{camera.place}", BOTH, sinks)
        source.start()
        assert eventually(lambda: source.report().counts["frames"] >= 15 * 10, 60)
        source.close()
        loops_ms = (np.array(camera.end()) - sinks.origin_ns) / NS_PER_MS
    items = sinks.rings.vision.read(0, 15 * 30)
    bright = (items.frames[:, 0, 0, 0] > 170) & (items.captured_ns >= 0)
    flashes_ms = (items.captured_ns[bright] - sinks.origin_ns) / NS_PER_MS
    heard = sinks.rings.acoustic.read(0, 16_000 * 30).samples
    loud = np.flatnonzero(np.abs(heard) > 0.15)
    clicks_ms = loud[np.diff(loud, prepend=-(10**9)) > 8_000] / 16
    late = {
        what: [float(seen - loops_ms[np.abs(loops_ms - seen).argmin()]) for seen in found[-3:]]
        for what, found in (("flash_ms", flashes_ms), ("click_ms", clicks_ms))
    }
    record_property("rtsp_capture", late)
    assert len(flashes_ms) >= 4 and len(clicks_ms) >= 4
    assert np.median(np.abs(late["flash_ms"])) <= 10
    # Sound begins where it arrived and is moved by the counting of samples, 6 ms a second at most.
    assert np.median(np.abs(late["click_ms"])) <= 25
    timing = source.report().timing
    assert timing is not None and timing.by == "device" and timing.offset_ms == 0.0


@pytest.mark.parametrize(
    ("login", "path", "said", "code"),
    [
        ("", "live", "asks for a name and a password (401)", "unauthorized"),
        ("user:wrong@", "live", "does not accept this name and password (401)", "unauthorized"),
        ("user:secret@", "elsewhere", "has no stream of this path (404)", "not_found"),
    ],
)
def test_a_camera_that_refuses_is_told_in_words_and_without_the_password(
    person: Path, login: str, path: str, said: str, code: str
) -> None:
    with RtspCamera(person, free_port(), "user:secret") as camera:
        host = camera.place.removesuffix("/live")
        with pytest.raises(SourceError) as caught:
            open_url(f"rtsp://{login}{host}/{path}", BOTH, 16_000, lambda _: None)
    assert said in str(caught.value) and caught.value.code == code
    assert "wrong" not in str(caught.value) and "secret" not in str(caught.value)


def test_a_camera_with_a_password_plays_for_who_knows_it(person: Path) -> None:
    with RtspCamera(person, free_port(), "user:secret") as camera:
        source = NetworkSource(f"rtsp://user:secret@{camera.place}", BOTH, make_sinks(MonotonicClock()))
        source.start()
        assert eventually(lambda: source.report().counts["frames"] >= 5, 30)
        source.close()
    assert "secret" not in str(source.report())
