"""A microphone made of software (PulseAudio's null sink) through PyAudio and the command, with the server's death."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from clcr_stream.sources.synthetic.person import Person, PersonOptions
from job_checks import check_numbers, check_pace, validate
from job_live import SoundServer, missing_sound
from job_process import NS_PER_S, Message, Watched, free_endpoint
from media import write_wav

RATE_HZ = 16_000

WHY_NOT = missing_sound()
pytestmark = [pytest.mark.device, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]
SECONDS = 4
SPEECH_S = 40  # longer than a busy machine takes to start a session
MICROPHONE = ("--camera", "none", "--mic", "default", "--pace", "real")
Record = Callable[[str, object], None]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SoundServer]:
    with SoundServer(tmp_path / "pulse") as running:
        yield running


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The voice of test:// as a sound file."""
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    samples = Person(PersonOptions(), RATE_HZ).sound(0, SPEECH_S * RATE_HZ)
    return write_wav(path, samples, RATE_HZ)


def heard(message: Message) -> bool:
    return message["modalities"]["acoustic"]["present"] and not deaf(message)


def deaf(message: Message) -> bool:
    return bool({"acoustic_stale", "acoustic_absent", "no_input"} & set(message["degraded"]))


def microphone(status: Message) -> Message:
    found: Message = status["sources"][0]
    return found


def test_speech_in_a_virtual_microphone_becomes_predictions_without_a_gap(
    server: SoundServer, speech: Path, tmp_path: Path, record_property: Record
) -> None:
    server.play(speech)
    loudness = np.frombuffer(server.hear(0.5), "<i2").astype(np.float64)
    assert np.sqrt(np.mean((loudness / 32768) ** 2)) > 0.005, "nothing is played into the microphone"
    given = [*MICROPHONE, "--duration", str(SECONDS)]
    with Watched(tmp_path, given, free_endpoint(), server.environment) as session:
        goodbye = session.expect(lambda message: message["state"] == "goodbye", 30, "status")
        assert session.process.wait(10) == 0, session.stderr()
        received = session.reader.received()
    predictions = [got for got in received if got.message["type"] == "prediction"]
    messages = [got.message for got in predictions]
    shares = [message["modalities"]["acoustic"]["coverage"] for message in messages]
    counts = microphone(goodbye.message)["counts"]
    silent_hops = sum(share == 0.0 for share in shares)
    assert silent_hops <= 10, "the microphone took 2 s to open"
    assert shares == sorted(shares)
    # Each hop after the first heard adds a hop of sound; the hop in which the microphone opened is part of one.
    assert shares[-1] >= (messages[-1]["seq"] - silent_hops - 1) / 30 - 0.01, shares
    assert counts["gaps"] == 0 and counts["overflows"] == 0 and counts["queue_drops"] == 0, counts
    figures = validate(received) | check_numbers(messages) | check_pace(predictions)
    figures |= {"opened_within_hops": silent_hops + 1, "coverage_last": shares[-1], "counts": counts}
    record_property("microphone", figures)


def test_a_sound_server_that_dies_is_flagged_and_one_that_returns_is_heard_again(
    server: SoundServer, speech: Path, tmp_path: Path, record_property: Record
) -> None:
    server.play(speech)
    with Watched(tmp_path, list(MICROPHONE), free_endpoint(), server.environment) as session:
        first = session.expect(heard, 30)
        session.expect(lambda message: message["modalities"]["acoustic"]["coverage"] > 0.2, 30)
        killed_ns = session.now_ns()
        server.kill()
        flagged = session.expect(deaf, 10, after_ns=killed_ns)
        told = session.expect(
            lambda message: microphone(message)["state"] in ("stale", "lost", "reconnecting"), 10, "status", killed_ns
        )
        session.expect(lambda message: message["seq"] >= flagged.message["seq"] + 5, 10)  # it goes on meanwhile
        server.start()
        server.play(speech)
        returned_ns = session.now_ns()
        back = session.expect(heard, 20, after_ns=returned_ns)
        live = session.expect(lambda message: microphone(message)["state"] == "live", 10, "status", returned_ns)
        code, seconds = session.terminate()
        received = session.reader.received()
    assert code == 0, session.stderr()
    assert seconds <= 2.0
    flagged_s, back_s = (flagged.arrived_ns - killed_ns) / NS_PER_S, (back.arrived_ns - returned_ns) / NS_PER_S
    assert flagged_s <= 1.0
    assert back_s <= 5.0
    assert (told.arrived_ns - killed_ns) / NS_PER_S <= 2.0, "a heartbeat each second tells the source's state"
    assert microphone(live.message)["counts"]["reopened"] >= 1
    validate(received)
    hearing = [
        got
        for got in received
        if got.message["type"] == "prediction" and first.arrived_ns <= got.arrived_ns <= killed_ns
    ]
    record_property(
        "sound_server_killed",
        {
            "flagged_s": round(flagged_s, 3),
            "status_stale_s": round((told.arrived_ns - killed_ns) / NS_PER_S, 3),
            "recovered_s": round(back_s, 3),
            "exit_s": round(seconds, 3),
            **check_pace(hearing),
        },
    )
