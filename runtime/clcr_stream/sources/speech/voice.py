"""When somebody speaks: Silero's voice-activity detector, block by block, and the utterances that follow from it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr_stream.sources.speech.recogniser import SPEECH_HZ

BLOCK = 512  # samples that the detector judges at once: 32 ms
CONTEXT = 64  # samples of the block before that it sees as well
BEGINS_P, ENDS_P = 0.5, 0.35  # a voice begins above the one and ends below the other
PAUSE = int(0.5 * SPEECH_HZ)  # a pause this long ends an utterance


class VoiceDetector:
    """The probability that a block holds speech; remembers what it heard before.

    `path` is the network in ONNX format, as faster-whisper ships it: `input` (1, CONTEXT + BLOCK), `h`, `c`.
    """

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.reset()

    def reset(self) -> None:
        """Forget what was heard."""
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)
        self._input = np.zeros((1, CONTEXT + BLOCK), np.float32)

    def __call__(self, block: NDArray[np.float32]) -> float:
        """Probability 0..1 of speech in samples (BLOCK,)."""
        self._input[0, :CONTEXT] = self._input[0, -CONTEXT:]
        self._input[0, CONTEXT:] = block
        probabilities, self._h, self._c = self._session.run(None, {"input": self._input, "h": self._h, "c": self._c})
        return float(probabilities.reshape(-1)[0])


class Turn(Enum):
    """What a block means for the utterance."""

    SILENCE = "silence"
    BEGINS = "begins"
    GOES_ON = "goes on"
    ENDS = "ends"


class Utterances:
    """Where utterances begin and end, from each block's probability."""

    def __init__(self) -> None:
        self.speaking = False
        self.voiced = 0  # samples with a voice in this utterance
        self._quiet = 0  # samples since the last voice

    def take(self, probability: float) -> Turn:
        """The next block."""
        if not self.speaking:
            if probability < BEGINS_P:
                return Turn.SILENCE
            self.speaking, self.voiced, self._quiet = True, BLOCK, 0
            return Turn.BEGINS
        if probability >= ENDS_P:
            self.voiced += BLOCK
            self._quiet = 0
            return Turn.GOES_ON
        self._quiet += BLOCK
        if self._quiet < PAUSE:
            return Turn.GOES_ON
        self.speaking = False
        return Turn.ENDS

    @property
    def quiet(self) -> int:
        """Samples since the last voice of this utterance."""
        return self._quiet
