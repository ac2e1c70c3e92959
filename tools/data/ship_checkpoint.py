"""A trained checkpoint as it ships: the weights that clcr-export rounds to half precision are stored in it.

python tools/data/ship_checkpoint.py runs/words/final checkpoints/default

clcr-export makes the same bundle of both; clcr-train --init goes on with either.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch

from clcr.training import checkpoint
from clcr_export.graphs import HALF_STORAGE_ELEMENTS
from clcr_stream.errors import ClcrError

ROUNDED = ("language.", "project.language.", "acoustic.", "stages.acoustic.")


def ship(source: Path, target: Path) -> None:
    """Replace `target` by the checkpoint in half precision. Raises CheckpointError."""
    weights = {
        name: value.half()
        if name.startswith(ROUNDED) and value.dtype == torch.float32 and value.numel() >= HALF_STORAGE_ELEMENTS
        else value
        for name, value in checkpoint.read_tensors(source / "model.safetensors").items()
    }
    with checkpoint.replacing_folder(target) as folder:
        checkpoint.save_tensors(folder / "model.safetensors", weights)
        for name in ("config.json", "tokenizer.json"):
            shutil.copyfile(source / name, folder / name)
    checkpoint.load_checkpoint(target)  # what we wrote is what training and export accept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a checkpoint of clcr-train")
    parser.add_argument("target", type=Path, help="the folder to write")
    options = parser.parse_args()
    try:
        ship(options.source, options.target)
    except ClcrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{options.target}: {sum(path.stat().st_size for path in options.target.iterdir()) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
