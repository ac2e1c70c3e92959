"""The cameras, screens and microphones of this machine, for lists; nothing is opened for capture."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

VIDEO_CLASS = Path("/sys/class/video4linux")
X_SOCKETS = Path("/tmp/.X11-unix")


def list_cameras(root: Path = VIDEO_CLASS) -> list[dict[str, str]]:
    """Cameras that the kernel knows: device and name."""
    if not root.is_dir():
        return []
    cameras = []
    for entry in sorted(root.iterdir()):
        name = entry / "name"
        label = name.read_text(encoding="utf-8", errors="replace").strip() if name.is_file() else entry.name
        cameras.append({"device": f"/dev/{entry.name}", "name": label})
    return cameras


def list_screens(environment: Mapping[str, str] = os.environ, sockets: Path = X_SOCKETS) -> list[str]:
    """X displays: the session's own first, then those that have a socket on this machine."""
    found = [environment["DISPLAY"]] if environment.get("DISPLAY") else []
    if sockets.is_dir():
        numbers = sorted(int(path.name[1:]) for path in sockets.iterdir() if re.fullmatch(r"X\d+", path.name))
        known = {display.partition(".")[0] for display in found}
        found += [f":{number}" for number in numbers if f":{number}" not in known]
    return found


def list_microphones() -> list[dict[str, str | int]]:
    """Inputs that PortAudio knows: index, name, rate. SourceError with what to install when PyAudio is missing."""
    from clcr_stream.sources.microphone import load_pyaudio, quiet_stderr

    module = load_pyaudio()
    with quiet_stderr():
        audio = module.PyAudio()
        try:
            devices = [audio.get_device_info_by_index(index) for index in range(audio.get_device_count())]
        finally:
            audio.terminate()
    return [
        {"index": int(device["index"]), "name": str(device["name"]), "rate_hz": int(device["defaultSampleRate"])}
        for device in devices
        if int(device["maxInputChannels"]) > 0
    ]
