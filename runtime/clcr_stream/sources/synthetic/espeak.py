"""The drawn person's sentences spoken aloud by espeak-ng, for a recogniser to hear."""

from __future__ import annotations

import io
import shutil
import subprocess
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from clcr_stream.errors import SourceError
from clcr_stream.sources.audio import decode_sound

PROGRAM = "espeak-ng"
TIMEOUT_S = 20.0
QUIETER = 0.7  # than the loudest that a sample can be
MEAN_PITCH_HZ = 120.0  # of espeak's pitch 50


def check() -> None:
    """SourceError with what to run when espeak-ng is not installed."""
    if shutil.which(PROGRAM) is None:
        raise SourceError(f"voice=espeak needs {PROGRAM}; run `apt-get install {PROGRAM}`")


@lru_cache(maxsize=16)
def speak(words: str, pitch_hz: float, loudness: float, rate_hz: int) -> NDArray[np.float32]:
    """The words as samples (n,) at `rate_hz`, -1..1, without silence around; the same each time. SourceError."""
    pitch = int(np.clip(50 * pitch_hz / MEAN_PITCH_HZ, 0, 99))
    command = [PROGRAM, "--stdin", "--stdout", "-v", "en", "-s", "150", "-p", str(pitch)]
    try:
        done = subprocess.run(command, input=words.encode(), capture_output=True, timeout=TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise SourceError(f"voice=espeak: {PROGRAM} does not speak ({error})") from None
    sound = decode_sound(io.BytesIO(done.stdout), rate_hz)
    voiced = np.flatnonzero(np.abs(sound) > 0.01)
    if not len(voiced):
        raise SourceError(f"voice=espeak: {PROGRAM} says nothing; is a voice installed?")
    sound = sound[voiced[0] : voiced[-1] + 1]
    return np.asarray(sound * (QUIETER * loudness / np.abs(sound).max()), np.float32)
