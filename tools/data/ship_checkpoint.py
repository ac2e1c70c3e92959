"""A trained checkpoint as it ships: the weights that clcr-export rounds to half precision are stored in it.

python tools/data/ship_checkpoint.py runs/mean checkpoints/default

clcr-export makes the same bundle of both; clcr-train --init goes on with either.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from clcr_stream.errors import ClcrError

if TYPE_CHECKING:
    from torch import Tensor


def _shortened(value: Tensor) -> Tensor:
    """In half precision where that changes nothing and saves space."""
    import torch

    from clcr_export.graphs import HALF_STORAGE_ELEMENTS

    if value.dtype != torch.float32 or value.numel() < HALF_STORAGE_ELEMENTS:
        return value
    half = value.half()
    return half if torch.equal(half.float(), value) else value


def ship(source: Path, target: Path) -> None:
    """Replace `target` by the checkpoint in half precision. Raises CheckpointError."""
    from clcr.training import checkpoint
    from clcr_export.graphs import round_pretrained

    model = checkpoint.load_checkpoint(source)
    round_pretrained(model)
    weights = {name: _shortened(value) for name, value in model.state_dict().items()}
    with checkpoint.replacing_folder(target) as folder:
        checkpoint.save_tensors(folder / "model.safetensors", weights)
        shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
        config = checkpoint.read_json(source / "config.json")  # may say in which folder the language encoder lay
        checkpoint.write_json(folder / "config.json", {**config, "language": model.language.backbone_config})
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
