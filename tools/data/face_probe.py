"""What a trained face network knows of people whom it never saw, cold and with their baseline: a frozen probe.

python tools/data/face_probe.py runs/faces/final --pack cache/packs/javased_av --json docs/results/face_probe/probe.json

The mean of the features over a clip goes into a logistic regression; one speaker after the other is left out.
"cold": the clip alone. "earlier clips": minus the mean of the speaker's clips before it in a random order, weighted
n / (n + 1), mean of several orders. "all clips": minus the mean of all of the speaker's clips, which no stream knows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clcr_stream.errors import ClcrError

if TYPE_CHECKING:  # torch takes 2 s to import, which --help need not wait for
    import torch

    from clcr.network.encoders import GridResNet
    from clcr.training.data.cache import Pack

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by its path, it finds its siblings

from data.probing import Floats, score, store

PENALTY = 10.0
ORDERS = 5
EVERY = 2  # frames


def features(network: GridResNet, packs: Sequence[Pack]) -> dict[str, Floats]:
    """Of every clip the mean over its frames: of the grid's values, and of what CLCR reads (after its GELU)."""
    import torch
    from torch.nn import functional

    from clcr.training.data.augment import at_model_size

    grid: list[Floats] = []
    projected: list[Floats] = []
    seen: list[torch.Tensor] = []
    network.project.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    for clip in (pack.clip(index) for pack in packs for index in range(len(pack))):
        frames = at_model_size(clip).frames[::EVERY]
        pictures = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).float()
        if not len(pictures):
            pictures = torch.full((1, 3, 112, 112), 127.0)
        seen.clear()
        with torch.no_grad():
            projected.append(functional.gelu(network(pictures)).mean(0).double().numpy())
        grid.append(seen[0].mean(0).double().numpy())
    return {"grid": np.stack(grid), "projected": np.stack(projected)}


def centred(x: Floats, speakers: NDArray[np.str_]) -> Floats:
    """Minus the mean of all clips of the speaker."""
    out = x.copy()
    for speaker in np.unique(speakers):
        out[speakers == speaker] -= x[speakers == speaker].mean(0)
    return out


def without_the_past(x: Floats, speakers: NDArray[np.str_], rng: np.random.Generator) -> Floats:
    """Minus the shrunk mean of the speaker's clips that come before, in a random order."""
    out = x.copy()
    for speaker in np.unique(speakers):
        mean = np.zeros(x.shape[1])
        for count, index in enumerate(rng.permutation(np.flatnonzero(speakers == speaker))):
            out[index] -= mean * count / (count + 1)
            mean = (mean * count + x[index]) / (count + 1)
    return out


def probe(network: GridResNet, folder: Path) -> dict[str, Any]:
    """Scores of every kind of features, cold and with a past."""
    from clcr.training.data.cache import Pack

    packs = [Pack(folder, split) for split in ("train", "dev")]
    speakers = np.concatenate([pack.speakers for pack in packs])
    targets = np.concatenate([pack.targets for pack in packs]).astype(np.int64)
    names = [str(speaker) for speaker in speakers]
    people = len(set(names))
    found: dict[str, Any] = {"pack": folder.name, "n": len(targets), "speakers": people, "penalty": PENALTY}
    rng = np.random.default_rng(0)
    for name, x in features(network, packs).items():
        past = [score(without_the_past(x, speakers, rng), targets, names, people, PENALTY) for _ in range(ORDERS)]
        found[name] = {
            "cold": score(x, targets, names, people, PENALTY),
            "earlier clips": {"macro_f1": float(np.mean([one["macro_f1"]["value"] for one in past])), "orders": past},
            "all clips": score(centred(x, speakers), targets, names, people, PENALTY),
        }
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and write the scores; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path, metavar="RUN/final", help="a face network that clcr-train published")
    parser.add_argument("--pack", type=Path, required=True, metavar="DIR", help="a prepared pack of videos")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)

    from clcr.network.encoders import GridResNet
    from clcr.training.checkpoint import load_weights
    from clcr.training.start import face_channels, face_weights

    try:
        weights = face_weights(options.network)
        width = int(weights["project.weight"].shape[0]) if "project.weight" in weights else 0
        network = GridResNet(face_channels(options.network), width, 0.0).eval()
        load_weights(network, weights, options.network)
        results = probe(network, options.pack)
    except ClcrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for name in ("grid", "projected"):
        kinds = results[name]
        cold, every = kinds["cold"]["macro_f1"]["value"], kinds["all clips"]["macro_f1"]["value"]
        print(f"{name}: cold {cold:.3f}, earlier clips {kinds['earlier clips']['macro_f1']:.3f}, all clips {every:.3f}")
    if options.json is not None:
        store(results, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
