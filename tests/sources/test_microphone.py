"""A microphone that is absent, speaks, falls silent and returns, with a fake PyAudio on a clock the test moves."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import SourceError
from clcr_stream.sources.microphone import MicrophoneSource, choose_device, quiet_stderr
from media import ORIGIN_NS, SteppedClock, eventually, make_sinks

BUILT_IN = {"index": 0, "name": "Built-in", "maxInputChannels": 2, "defaultSampleRate": 48000.0}
SPEAKER = {"index": 1, "name": "USB speaker", "maxInputChannels": 0, "defaultSampleRate": 48000.0}
USB = {"index": 2, "name": "USB Microphone", "maxInputChannels": 1, "defaultSampleRate": 44100.0}


class FakePyAudio:
    """A PyAudio module with the given devices; `rates` are what they open with. Streams are driven by the test."""

    paInt16, paContinue, paInputOverflow = 8, 0, 2

    def __init__(self, devices: list[dict[str, Any]], rates: tuple[int, ...] = (16000,)) -> None:
        self.devices, self.rates = devices, rates
        self.streams: list[SimpleNamespace] = []
        self.terminated = 0
        self.opened = threading.Semaphore(0)

    def PyAudio(self) -> FakePyAudio:
        return self

    def get_device_count(self) -> int:
        return len(self.devices)

    def get_device_info_by_index(self, index: int) -> dict[str, Any]:
        return self.devices[index]

    def get_default_input_device_info(self) -> dict[str, Any]:
        if not self.devices:
            raise OSError("No Default Input Device Available")
        return self.devices[0]

    def open(self, **options: object) -> SimpleNamespace:
        if options["rate"] not in self.rates:
            raise OSError(-9997, "Invalid sample rate")
        stream = SimpleNamespace(options=options, closed=False)
        stream.close = lambda: setattr(stream, "closed", True)
        self.streams.append(stream)
        self.opened.release()
        return stream

    def terminate(self) -> None:
        self.terminated += 1


class Bench:
    """A microphone source with its fake device, and the means to speak into it."""

    def __init__(self, module: FakePyAudio, device: str = "default", sample_rate_hz: int = 16_000) -> None:
        self.clock = SteppedClock()
        self.sinks = make_sinks(self.clock, sample_rate_hz)
        self.module = module
        self.source = MicrophoneSource(device, self.sinks, lambda: module)
        self.source.start()

    def speak(self, samples: np.ndarray, status: int = 0, late_s: float = 0.0) -> None:
        """One callback, when its last sample was recorded; or `late_s` later, with PortAudio's stamps."""
        assert self.module.streams
        options = self.module.streams[-1].options
        frames = len(samples)
        self.clock.move_to(self.clock.now_ns() + frames * NS_PER_S // options["rate"])
        pcm = np.repeat((samples * 32767).astype(np.int16), options["channels"])
        stamps = {"current_time": 50.0, "input_buffer_adc_time": 50.0 - frames / options["rate"] - late_s}
        options["stream_callback"](pcm.tobytes(), frames, stamps if late_s else {}, status)

    def settled(self, blocks: int) -> bool:
        return eventually(lambda: self.source.report().counts["blocks"] == blocks)


def test_what_lay_in_the_devices_buffers_is_placed_before_its_arrival() -> None:
    bench = Bench(FakePyAudio([BUILT_IN]))
    assert bench.module.opened.acquire(timeout=10)
    bench.clock.move_to(ORIGIN_NS + NS_PER_S // 10 - NS_PER_S // 50)
    bench.speak(np.full(320, 0.5), late_s=0.025)
    assert bench.settled(1)
    bench.source.close()
    present = np.flatnonzero(bench.sinks.rings.acoustic.read(0, 1600).present)
    assert (present[0], present[-1]) == (880, 1199), "a block of 20 ms, 25 ms before it was handed over"
    timing = bench.source.report().timing
    assert timing is not None and (timing.by, timing.delay_ms, timing.subtracted_ms) == ("device", 25.0, 25.0)


def test_a_missing_pyaudio_is_waited_for_and_the_command_is_told() -> None:
    def missing() -> None:
        raise SourceError('PyAudio is not installed; run `pip install "clcr-stream[live]"`', "not_installed")

    clock = SteppedClock()
    source = MicrophoneSource("default", make_sinks(clock), missing)
    source.start()
    assert clock.await_wait(ORIGIN_NS + NS_PER_S // 4)
    assert source.report().state == "absent"
    assert 'pip install "clcr-stream[live]"' in source.report().reason and source.report().code == "not_installed"
    source.close()
    assert source.finished


def test_a_microphone_that_comes_later_is_picked_up() -> None:
    module = FakePyAudio([])
    bench = Bench(module)
    assert bench.clock.await_wait(ORIGIN_NS + NS_PER_S // 4)
    assert "no microphone found" in bench.source.report().reason
    assert module.terminated == 1
    module.devices.append(BUILT_IN)
    bench.clock.move_to(ORIGIN_NS + 2 * NS_PER_S)
    assert module.opened.acquire(timeout=10)
    bench.speak(np.full(320, 0.5))
    assert eventually(lambda: bench.source.report().state == "live")
    bench.source.close()


def test_blocks_land_where_they_were_recorded() -> None:
    module = FakePyAudio([BUILT_IN])
    bench = Bench(module)
    assert module.opened.acquire(timeout=10)
    bench.clock.move_to(ORIGIN_NS + NS_PER_S)
    for level in (0.1, 0.2, 0.3):
        bench.speak(np.full(320, level))
    assert bench.settled(3)
    bench.source.close()
    items = bench.sinks.rings.acoustic.read(16000 - 10, 16000 + 970)
    assert items.present.tolist() == [False] * 10 + [True] * 960 + [False] * 10
    np.testing.assert_allclose(items.samples[[10, 329, 330, 969]], [0.1, 0.1, 0.2, 0.3], atol=1e-3)
    assert module.streams[0].closed
    assert module.terminated == 1


@pytest.mark.parametrize(("device", "rate_hz"), [(BUILT_IN, 48000), (USB, 44100)])
def test_a_device_with_another_rate_is_resampled(device: dict[str, Any], rate_hz: int) -> None:
    module = FakePyAudio([device], rates=(rate_hz,))
    bench = Bench(module)
    assert module.opened.acquire(timeout=10)
    at_s = np.arange(rate_hz) / rate_hz
    tone = 0.5 * np.sin(2 * np.pi * 500 * at_s)
    size = rate_hz // 50
    for start in range(0, rate_hz, size):
        bench.speak(tone[start : start + size])
    assert bench.settled(50)
    bench.source.close()
    items = bench.sinks.rings.acoustic.read(0, 16000)
    assert items.present[200:15900].all()
    spectrum = np.abs(np.fft.rfft(items.samples[:16000] * np.hanning(16000)))
    assert int(np.argmax(spectrum)) == 500
    assert abs(float(np.abs(items.samples).max()) - 0.5) < 0.03


@pytest.mark.parametrize("rates", [(24_000, 48_000), (16_000, 48_000)])
def test_a_device_is_opened_at_the_bundle_s_rate_if_it_can(rates: tuple[int, ...]) -> None:
    module = FakePyAudio([BUILT_IN], rates=rates)
    bench = Bench(module, sample_rate_hz=24_000)
    assert module.opened.acquire(timeout=10)
    opened_hz = module.streams[-1].options["rate"]
    assert opened_hz == (24_000 if 24_000 in rates else 48_000)
    tone = 0.5 * np.sin(2 * np.pi * 500 * np.arange(opened_hz) / opened_hz)
    for start in range(0, opened_hz, opened_hz // 50):
        bench.speak(tone[start : start + opened_hz // 50])
    assert bench.settled(50)
    bench.source.close()
    items = bench.sinks.rings.acoustic.read(0, 24_000)
    assert items.present[200:23_800].all()
    assert int(np.argmax(np.abs(np.fft.rfft(items.samples * np.hanning(24_000))))) == 500


def test_a_silent_microphone_is_reopened_from_a_new_portaudio() -> None:
    module = FakePyAudio([BUILT_IN])
    bench = Bench(module)
    assert module.opened.acquire(timeout=10)
    bench.speak(np.full(320, 0.5))
    assert bench.settled(1)
    bench.clock.move_to(bench.clock.now_ns() + NS_PER_S // 2 + 1)
    assert module.opened.acquire(timeout=10)
    assert (bench.source.report().state, bench.source.report().code) == ("reconnecting", "no_data")
    assert module.streams[0].closed
    assert module.terminated == 1
    bench.speak(np.full(320, 0.25))
    assert eventually(lambda: bench.source.report().state == "live")
    assert bench.source.report().code == ""
    bench.source.close()
    assert bench.source.report().counts["reopened"] == 1
    items = bench.sinks.rings.acoustic.read(0, 16000)
    assert items.present.sum() == 640
    assert not items.present[330:8300].any()


def test_an_overflow_leaves_a_gap_and_is_counted() -> None:
    module = FakePyAudio([BUILT_IN])
    bench = Bench(module)
    assert module.opened.acquire(timeout=10)
    bench.speak(np.full(320, 0.5))
    assert bench.settled(1)
    bench.clock.move_to(bench.clock.now_ns() + NS_PER_S // 10)
    bench.speak(np.full(320, 0.5), status=module.paInputOverflow)
    assert bench.settled(2)
    bench.source.close()
    counts = bench.source.report().counts
    assert (counts["overflows"], counts["gaps"]) == (1, 1)
    assert bench.sinks.rings.acoustic.read(0, 2240).present.tolist() == [True] * 320 + [False] * 1600 + [True] * 320


def test_devices_are_chosen_by_default_index_and_name_and_never_replaced() -> None:
    module = FakePyAudio([BUILT_IN, SPEAKER, USB])
    assert choose_device(module, "default") is BUILT_IN
    assert choose_device(module, "2") is USB
    assert choose_device(module, "name:usb") is USB
    for absent in ("1", "7", "name:Webcam"):
        with pytest.raises(SourceError, match="clcr-stream devices") as caught:
            choose_device(module, absent)
        assert caught.value.code == "no_device"


def test_a_device_that_opens_at_no_rate_is_waited_for() -> None:
    module = FakePyAudio([BUILT_IN], rates=())
    bench = Bench(module)
    assert bench.clock.await_wait(ORIGIN_NS + NS_PER_S // 4)
    assert "Built-in does not open" in bench.source.report().reason
    bench.source.close()
    assert module.terminated == 1


def test_a_microphone_that_another_program_holds_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(self: FakePyAudio, **_: object) -> None:
        raise OSError(-9985, "Device unavailable")

    monkeypatch.setattr(FakePyAudio, "open", unavailable)
    bench = Bench(FakePyAudio([BUILT_IN]))
    assert bench.clock.await_wait(ORIGIN_NS + NS_PER_S // 4)
    assert bench.source.report().code == "in_use"
    bench.source.close()


def test_what_libraries_print_while_opening_is_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    import os

    with quiet_stderr():
        os.write(2, b"ALSA lib pcm.c: Unknown PCM cards.pcm.rear\n")
    os.write(2, b"mine\n")
    assert capfd.readouterr().err == "mine\n"
