"""Recorded clips through exported engines, hop by hop as the runtime would: for calibration and for the task metric."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clcr.network.model import CLCR
from clcr.network.streaming import Grid
from clcr.training.data.augment import at_model_size
from clcr.training.data.cache import MEL_PER_TOKEN, Clip, Pack
from clcr.training.data.prepare import prepare
from clcr_export.proof import Arrays, Chain, Run, Scenario
from clcr_stream.errors import ConfigError


@contextmanager
def opened(source: Path, split: str, model: CLCR, tokenizer: Path) -> Iterator[Pack]:
    """The labelled clips of a pack's split; a manifest (CSV beside its media) is decoded for as long as this is open.

    Raises ConfigError when it is neither, when the split is empty, or when its sound is for another acoustic encoder.
    """
    if source.is_dir():
        yield _pack(source, split, model)
    elif source.suffix == ".csv" and source.is_file():
        encoder = model.config.acoustic_encoder
        with tempfile.TemporaryDirectory() as folder:
            made = prepare(source, source.parent, Path(folder), tokenizer, progress=False, encoder=encoder)
            yield _pack(made, split, model)
    else:
        raise ConfigError(f"{source}: is neither a prepared pack nor a manifest .csv; see docs/data.md")


def _pack(folder: Path, split: str, model: CLCR) -> Pack:
    pack = Pack(folder, split, model.config.labels)
    pack.check_mel(model.config.mel)
    return pack


def scenario_of(clip: Clip, grid: Grid, mel_bands: int) -> Scenario:
    """A whole clip on the grid of hops: what is missing, and what fills up the last hop, is masked."""
    clip = at_model_size(clip)
    hops = max(1, clip.hops)
    shown = np.zeros(hops * grid.vision_slots, np.float32)
    shown[: len(clip.slots)] = clip.slots
    frames = np.full((len(shown), 3, grid.size_px, grid.size_px), 127, np.uint8)  # grey: it sets no int8 scale
    frames[shown > 0] = clip.frames.transpose(0, 3, 1, 2)
    heard = np.zeros(hops * grid.acoustic_slots, np.float32)
    whole = len(clip.mel) // MEL_PER_TOKEN
    heard[:whole] = 1.0
    mel = np.zeros((len(heard) * MEL_PER_TOKEN, mel_bands), np.float32)
    mel[: whole * MEL_PER_TOKEN] = clip.mel[: whole * MEL_PER_TOKEN]
    ids = np.zeros((hops, grid.language_tokens), np.int32)
    valid = np.zeros((hops, grid.language_tokens), np.float32)
    words = clip.tokens[: grid.language_tokens]
    ids[:, : len(words)], valid[:, : len(words)] = words, 1.0
    return Scenario(
        frames=frames.reshape(hops, grid.vision_slots, *frames.shape[1:]),
        vision_valid=shown.reshape(hops, -1),
        mel=mel.reshape(hops, -1, mel_bands),
        acoustic_valid=heard.reshape(hops, -1),
        token_ids=ids,
        token_valid=valid,
        language_step=np.zeros(hops, np.int64),
    )


def once_per_text(run: Run) -> Run:
    """The same, but the language engine runs only when its input changes, as in the runtime."""
    last: tuple[Arrays, Arrays] | None = None

    def remembering(name: str, inputs: Arrays) -> Arrays:
        nonlocal last
        if name != "language":
            return run(name, inputs)
        if last is None or any(not np.array_equal(last[0][key], value) for key, value in inputs.items()):
            last = (inputs, run(name, inputs))
        return last[1]

    return remembering


def answers(start: Callable[[], Chain], pack: Pack, say: Callable[[str], None]) -> NDArray[np.float32]:
    """Probabilities (n, C) that the engines give at each clip's last hop; `start` makes a chain at a stream's start."""
    found = []
    for index in range(len(pack)):
        say(f"{pack.name}: clip {index + 1} of {len(pack)}")
        chain = start()
        scenario = scenario_of(pack.clip(index), Grid(), chain.model.config.mel_bands)
        for hop in range(scenario.hops):
            outputs = chain.tick(scenario, hop)
        found.append(outputs["intercad"]["probs"][0])
    return np.stack(found)


def thinned(pack: Pack, most: int) -> list[int]:
    """At most `most` clips of a pack, spread evenly over it."""
    return sorted({int(row) for row in np.linspace(0, len(pack) - 1, min(most, len(pack))).round()})
