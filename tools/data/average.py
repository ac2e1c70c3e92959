"""The mean of two checkpoints' weights, for trainings that began alike and lie in one valley (Wortsman et al. 2022).

python tools/data/average.py runs/films/final runs/base/final runs/mean
python tools/data/average.py checkpoints/faces runs/faces_films/final runs/faces_mean

What both were trained on stays known. Two face networks have a mean too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from clcr_stream.errors import ClcrError

if TYPE_CHECKING:  # torch takes 2 s to import, which --help need not wait for
    from clcr.training.checkpoint import State


def average(first: Path, second: Path, out: Path) -> None:
    """Write the mean as a checkpoint `out`, with the second one's settings. Raises CheckpointError."""
    if (second / "info.json").is_file():
        _average_faces(first, second, out)
        return
    from clcr.training import checkpoint

    model, other = checkpoint.load_checkpoint(second), checkpoint.load_checkpoint(first)
    weights = _mean(other.state_dict(), model.state_dict(), f"{first} and {second}")
    labels = checkpoint.load_info(second).labels
    provenance = {
        "averaged": [str(first), str(second)],
        "earlier": [*checkpoint.trainings_of(first), *checkpoint.trainings_of(second)],
    }
    checkpoint.save_checkpoint(
        out, model, second / "tokenizer.json", checkpoint.CheckpointInfo(labels, provenance), weights
    )


def _average_faces(first: Path, second: Path, out: Path) -> None:
    """The same of two face networks; info.json names both recipes, and whose faces either was trained on."""
    from clcr.training import checkpoint

    one, other = (checkpoint.read_tensors(folder / "model.safetensors") for folder in (first, second))
    weights = _mean(one, other, f"{first} and {second}")
    infos = [checkpoint.read_json(folder / "info.json") for folder in (first, second)]
    people = sorted({name for info in infos for name in info.get("people", ())})
    with checkpoint.replacing_folder(out) as fresh:
        checkpoint.save_tensors(fresh / "model.safetensors", weights)
        info = {"recipe": infos[1]["recipe"], "averaged": [str(first), str(second)], "people": people}
        checkpoint.write_json(fresh / "info.json", info | {"other_recipe": infos[0]["recipe"]})


def _mean(first: State, second: State, what: str) -> State:
    """The mean of what is floating point; whole numbers, which only count batches, are the second one's."""
    from clcr.training.checkpoint import CheckpointError

    if {name: value.shape for name, value in first.items()} != {name: value.shape for name, value in second.items()}:
        raise CheckpointError(f"{what}: their weights differ in shape; give two of one model")
    return {name: (value + first[name]) / 2 if value.is_floating_point() else value for name, value in second.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, metavar="CHECKPOINT")
    parser.add_argument("second", type=Path, metavar="CHECKPOINT")
    parser.add_argument("out", type=Path, metavar="OUT")
    options = parser.parse_args()
    try:
        average(options.first, options.second, options.out)
    except ClcrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
