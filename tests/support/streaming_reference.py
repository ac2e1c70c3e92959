"""The PyTorch model on the whole of a recording: what the runtime, fed in pieces, must compute.

The reference shares no code with the runtime but the model, log-mel, the loudness, the tokenizer and the sinusoid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clcr.network.batch import Batch
from clcr.network.config import MODALITIES
from clcr.network.intraced import Described
from clcr.network.model import CLCR, Tokens
from clcr_stream.frontends.text import Tokenizer
from recordings import SIZE_PX, SLOTS, TEXT_TOKENS, TOKENS, WINDOW_HOPS, Laid, Recording, Said


class Offline(Laid):
    """The model on a recording: sound and picture of a prefix at once, words as they are laid out."""

    def __init__(self, model: CLCR, tokenizer: Tokenizer, recording: Recording) -> None:
        super().__init__(tokenizer, recording)
        self.model = model
        self._described: dict[Said, list[Described]] = {}

    @torch.no_grad()
    def encode(self, hops: int, begin: int = 0) -> list[Tokens]:
        """Per level the described tokens of sound and picture of hops [begin, hops), nothing known of earlier ones."""
        slots, tokens = slice(begin * SLOTS, hops * SLOTS), slice(begin * TOKENS, hops * TOKENS)
        crops = [None if frame is None else frame.crop for frame in self.slots[slots]]
        faces = [crop for crop in crops if crop is not None]
        mel = self.mel(self.model.config.mel, begin, hops)
        batch = replace(
            nothing(),
            frames=torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2) if faces else nothing().frames,
            vision_valid=torch.tensor([[float(crop is not None) for crop in crops]]),
            mel=torch.from_numpy(mel)[None],
            acoustic_valid=torch.from_numpy(self.acoustic_valid[tokens])[None],
            vision_step=torch.tensor([self.recording.first_hop * SLOTS + slots.start]),
            acoustic_step=torch.tensor([self.recording.first_hop * TOKENS + tokens.start]),
        )
        return self.model.encode(batch)

    @torch.no_grad()
    def at(self, hops: int, encoded: list[Tokens], begin: int = 0) -> dict[str, NDArray[Any]]:
        """What the model says of the window that ends after `hops` hops, given the tokens since hop `begin`.

        Asked for in order of `hops`, or after `place_words` for every hop between.
        """
        text = [self.describe(said) for said in self.place_words(hops)]
        start = max(0, hops - WINDOW_HOPS) - begin
        window = [
            {
                "vision": tokens["vision"].window(start * SLOTS, (hops - begin) * SLOTS),
                "acoustic": tokens["acoustic"].window(start * TOKENS, (hops - begin) * TOKENS),
                "language": joined([tokens["language"], *(part[level] for part in text)]),
            }
            for level, tokens in enumerate(encoded)
        ]
        out = self.model.aggregate(self.model.fuse(window, self.recording.gamma))
        counts = [[max(1.0, float(level.valid[m].sum())) for m in MODALITIES] for level in out.levels]
        mass = [[float(level.alpha[m].sum()) for m in MODALITIES] for level in out.levels]
        return {
            "output": self.model.probabilities(out)[0].numpy(),
            "omega": out.omega[0].numpy(),
            "beta": out.beta[0].numpy(),
            "eta": out.eta[0].numpy(),
            "mass": np.array(mass) / np.array(counts),
            "budget": np.stack([level.budget[0].numpy() for level in out.levels]),
            "present": out.levels[0].present[0].numpy(),
            "shared": np.stack([level.shared[0].numpy() for level in out.levels]),
            "private": np.stack([level.private[0].numpy() for level in out.levels]),
        }

    def describe(self, said: Said) -> list[Described]:
        """Per level the described tokens of one segment, encoded alone and without padding: once, for all its ticks."""
        if said not in self._described:
            self._described[said] = self._encode_words(said)
        return self._described[said]

    def _encode_words(self, said: Said) -> list[Described]:
        batch = replace(
            nothing(),
            token_ids=torch.tensor([said.ids]),
            token_valid=torch.ones(1, len(said.ids)),
            language_step=torch.tensor([said.first_step]),
        )
        return [level["language"] for level in self.model.encode(batch)]


def joined(parts: list[Described]) -> Described:
    """The last tokens of several segments, one after the other."""
    qkv, marks, pool = (
        torch.cat(tensors, axis)
        for axis, tensors in zip((2, 2, 1), zip(*(p.parts() for p in parts), strict=True), strict=True)
    )
    whole = Described(qkv, marks, pool)
    return whole.window(max(0, whole.length - TEXT_TOKENS), whole.length)


def nothing() -> Batch:
    """One sample in which every modality is absent."""
    none, zero = torch.zeros(1, 0), torch.zeros(1, dtype=torch.long)
    frames = torch.zeros(0, 3, SIZE_PX, SIZE_PX, dtype=torch.uint8)
    return Batch(frames, none, torch.zeros(1, 0, 64), none, none.long(), none, zero, zero, zero)
