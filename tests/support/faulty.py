"""For tests of faults: the command on a bundle that computes nothing, a camera's pictures, and what a status says."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import av
import numpy as np

from clcr_stream.sources.synthetic.source import write_clip
from job_process import NS_PER_S, Message, Received, Watched, free_endpoint
from media import write_wav
from tiny_bundle import write_bundle

PICTURES = 30
ROOM_S = 120
RATE_HZ = 16_000


def write_pictures(folder: Path) -> Path:
    """A talking person as JPEG files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_clip(folder / "person.mp4", 2.0)
    container: Any
    with av.open(str(folder / "person.mp4")) as container:
        for number, frame in zip(range(PICTURES), container.decode(video=0), strict=False):
            frame.to_image().save(folder / f"{number:03}.jpg", quality=80)
    return folder


def write_room(path: Path) -> Path:
    """Two minutes of a quiet room in which somebody says a word every 2 s."""
    time_s = np.arange(ROOM_S * RATE_HZ) / RATE_HZ
    words = 0.3 * np.sin(2 * np.pi * 150 * time_s) * (time_s % 2.0 < 0.5)
    samples = words + np.random.default_rng(0).normal(0, 0.0005, len(time_s))
    return write_wav(path, samples, RATE_HZ)


def free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def watched(place: Path, *given: str, extra: dict[str, str] | None = None) -> Watched:
    """The command, without engines and words, and its reader."""
    place.mkdir(parents=True, exist_ok=True)
    write_bundle(place / "bundle")
    fixed = ("--bundle", str(place / "bundle"), "--backend", "null", "--transcript", "none", "--pace", "real")
    return Watched(place, [*fixed, *given], free_endpoint(), extra)


def source(status: Message, number: int = 0) -> Message:
    """The first source, or another one, as a status tells of it."""
    found: Message = status["sources"][number]
    return found


def expect_state(session: Watched, states: str, timeout_s: float, after_ns: int = 0, number: int = 0) -> Received:
    """The first status in which the source is in one of these states, separated by blanks."""
    allowed = states.split()
    return session.expect(lambda status: source(status, number)["state"] in allowed, timeout_s, "status", after_ns)


def seconds(got: Received, since_ns: int) -> float:
    """From a moment until the message was there."""
    return (got.arrived_ns - since_ns) / NS_PER_S
