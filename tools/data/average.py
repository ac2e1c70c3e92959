"""The mean of two checkpoints' weights, for trainings that began alike and lie in one valley (Wortsman et al. 2022).

python tools/data/average.py checkpoints/default runs/films/final runs/mean --keep language.

Parameters whose names begin with one of --keep are the first one's. What both were trained on stays known.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from clcr_stream.errors import ClcrError


def average(first: Path, second: Path, out: Path, keep: tuple[str, ...] = ()) -> None:
    """Write the mean as a checkpoint `out`, with the second one's settings. Raises CheckpointError."""
    from clcr.training import checkpoint

    model, other = checkpoint.load_checkpoint(second), checkpoint.load_checkpoint(first).state_dict()
    weights = model.state_dict()
    if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in other.items()}:
        raise checkpoint.CheckpointError(f"{first} and {second}: their weights differ in shape; give two of one model")
    for name, value in weights.items():
        if name.startswith(keep):
            value.copy_(other[name])
        elif value.is_floating_point():
            value.copy_((value + other[name]) / 2)
    labels = checkpoint.load_info(second).labels
    provenance = {
        "averaged": [str(first), str(second)],
        "earlier": [*checkpoint.trainings_of(first), *checkpoint.trainings_of(second)],
    }
    checkpoint.save_checkpoint(
        out, model, second / "tokenizer.json", checkpoint.CheckpointInfo(labels, provenance), weights
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, metavar="CHECKPOINT")
    parser.add_argument("second", type=Path, metavar="CHECKPOINT")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--keep", nargs="+", default=[], metavar="NAME", help="parameters that are the first one's")
    options = parser.parse_args()
    try:
        average(options.first, options.second, options.out, tuple(options.keep))
    except ClcrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
