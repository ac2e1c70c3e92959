"""Whether a bundle's engines can run in PyTorch: those of gpu_check.py's PyTorch part (onnx_modules.py).

    python tools/gpu/torch_engines.py [--bundle DIR]    converts every engine and names the operators it cannot convert

Needs torch and onnx.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by its path, it finds its siblings


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert a bundle's engines; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("--bundle", type=Path, default=root / "engines" / "default")
    folder = parser.parse_args(arguments).bundle
    from gpu.onnx_modules import unsupported  # here, because torch takes seconds that --help need not
    from gpu.program import load_bundle, tick_program

    bundle = load_bundle(folder)
    lines = unsupported(bundle)
    for line in lines:
        print(line)
    if not lines:
        print(f"{len(tick_program({n: g.spec for n, g in bundle.graphs.items()}).calls)} engines of a tick convert")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
