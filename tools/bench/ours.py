"""The product's engines in this process, driven hop by hop over a clip."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.clip import WORDS, Clip, load_clip, random_clip
from clcr_stream.bundle.loader import Bundle, load_bundle
from clcr_stream.bundle.manifest import TOKENIZER_NAME, Manifest, SpeechSpec
from clcr_stream.frontends.positions import sinusoid, speech_positions
from clcr_stream.frontends.text import Tokenizer
from clcr_stream.inference.choose import open_backend
from clcr_stream.inference.levels import Levels, open_encoder
from clcr_stream.streams.language import LanguageStream
from clcr_stream.window.transcript import Segment

Arrays = dict[str, NDArray[Any]]
_ANY_COUNTS = np.ones(3)  # of valid tokens: only scales what is not read here


@dataclass(frozen=True)
class Playback:
    """A clip played from its start again and again: what hop n (1, 2, ...) brings, in the graphs' shapes."""

    clip: Clip
    hop_ns: int
    width: int
    position_base: float
    gamma: float
    speech: SpeechSpec | None = None

    def hop(self, number: int) -> Arrays:
        """Level 1's inputs of one hop for one stream, (1, ...) float32."""
        index = (number - 1) % self.clip.hops
        given = {
            "vision_in": self.clip.frames[index : index + 1].astype(np.float32),
            "acoustic_in": self.clip.mel[index : index + 1],
            "vision_valid": self.clip.vision_valid[index : index + 1],
            "acoustic_valid": self.clip.acoustic_valid[index : index + 1],
            "vision_position": self._position(number, self.clip.vision_valid.shape[1]),
            "acoustic_position": self._position(number, self.clip.acoustic_valid.shape[1]),
            "gamma": np.full((1, 1), self.gamma, np.float32),
        }
        if self.speech is not None:
            steps = np.arange((number - 1) * self.speech.steps_per_hop, number * self.speech.steps_per_hop)
            table = speech_positions(steps, self.speech.width, self.speech.period_steps)
            given["speech_position"] = table[None]
        return given

    def _position(self, number: int, count: int) -> NDArray[np.float32]:
        steps = np.arange((number - 1) * count, number * count)
        return sinusoid(steps, self.width, self.position_base)[None]


def playback(clip: Clip, manifest: Manifest) -> Playback:
    """The clip on a bundle's grid."""
    model, speech = manifest.model, manifest.acoustic.speech
    return Playback(clip, manifest.hop_ns, model.width, model.position_base, manifest.gamma, speech)


def spoken(bundle: Bundle, words: str = WORDS) -> Arrays:
    """What the words bring to each level at every tick, by input name and level (language_qkv_1), for one stream."""
    encoder = open_encoder(bundle, open_backend("onnxruntime"))
    stream = LanguageStream(Tokenizer(bundle.files[TOKENIZER_NAME]), encoder, bundle.manifest)
    levels = stream.update([Segment("words", 0, 1, words)]).levels
    found = {f"{name}_{level}": value.copy() for level, given in levels.items() for name, value in given.items()}
    encoder.close()
    return found


class Ours:
    """The levels and InterCAD of a bundle for one stream, as the product runs them."""

    def __init__(self, bundle: Bundle, words: Arrays) -> None:
        self.probs: NDArray[np.float64] = np.zeros(0)
        self._levels = Levels(bundle, open_backend("onnxruntime"), 1)
        self._seat = self._levels.take()
        self._rows = self._levels.inputs(self._seat)
        self._fill(words)

    def tick(self, hop: Arrays) -> float:
        """Advance by one hop; the milliseconds of the engines' run. `probs` holds the answer."""
        self._fill(hop)
        start_ns = time.perf_counter_ns()
        self._levels.run(self._seat, 1)
        took_ns = time.perf_counter_ns() - start_ns
        self.probs = self._levels.outputs(self._seat, _ANY_COUNTS).output
        return took_ns / 1e6

    def _fill(self, inputs: Arrays) -> None:
        for name, value in inputs.items():
            self._rows[name][...] = value.reshape(self._rows[name].shape)


def open_ours(folder: Path, cache: Path) -> tuple[Ours, Playback]:
    """A bundle's engines and the clip to drive them with."""
    bundle = load_bundle(folder)
    return Ours(bundle, spoken(bundle)), playback(clip_for(bundle.manifest, cache), bundle.manifest)


def clip_for(manifest: Manifest, cache: Path) -> Clip:
    """A clip of a person where the bundle has the default grid, seeded noise on any other."""
    vision, acoustic = manifest.vision, manifest.acoustic
    if (manifest.hop_ns, vision.rate_hz, acoustic.tokens_per_hop) == (200_000_000, 15, 5):
        return load_clip(cache, vision.slots_per_hop, vision.size_px, acoustic.mel)
    return random_clip(8, vision.slots_per_hop, acoustic.tokens_per_hop, vision.size_px, acoustic.mel_bands)
