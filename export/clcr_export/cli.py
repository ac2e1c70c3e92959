"""clcr-export: checkpoint -> bundle."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from clcr_stream.errors import ClcrError, ConfigError

if TYPE_CHECKING:
    from clcr_export.writer import Engines

HOPS_A_SECOND, MOST_WINDOW_S = 5, 20.0
EPILOG = """examples:
  clcr-export runs/mean -o engines/default
  clcr-export runs/mean -o /tmp/mine --name mine --json
  clcr-export checkpoints/default -o engines/quick --window 2
  clcr-export runs/mean -o engines/half --precision fp16 --evaluate cache/packs/javased_av
  clcr-export runs/mean -o engines/int8 --precision int8 --evaluate cache/packs/javased_av \
      --calibration cache/packs/javased_av cache/packs/goemotions

exit codes: 0 written and proved, 2 usage, 4 bundle, 7 checkpoint, 8 an operator no target engine runs, 9 parity"""


def main(argv: list[str] | None = None) -> int:
    """Entry point of `clcr-export`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="clcr-export",
        description="Turn a trained CLCR checkpoint into a proved bundle of ONNX engines, one per level.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="folder with model.safetensors, config.json, tokenizer.json")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the bundle's folder, replaced atomically")
    parser.add_argument("--name", help="the bundle's name (default: the folder's name)")
    parser.add_argument(
        "--window",
        type=float,
        default=6.0,
        metavar="SECONDS",
        help="what an answer looks back on (default 6, as trained)",
    )
    parser.add_argument(
        "--proof-hops", type=int, help="ticks of the chained proof (default: the window's hops and 10; at least 5 more)"
    )
    parser.add_argument("--licences", type=Path, help="text file that goes into the bundle as LICENSES.txt")
    parser.add_argument(
        "--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="of the engines' products (default fp32)"
    )
    parser.add_argument(
        "--evaluate", type=Path, nargs="+", default=[], metavar="PACK", help="fp16, int8: packs of the macro-F1 gate"
    )
    parser.add_argument("--split", default="dev", help="of the packs of --evaluate (default dev)")
    parser.add_argument(
        "--calibration",
        type=Path,
        nargs="+",
        default=[],
        metavar="MANIFEST.csv|PACK",
        help="int8: clips (split train) that set the scales; all three modalities must occur",
    )
    parser.add_argument(
        "--range", choices=("absmax", "percentile"), default="absmax", help="int8: how clips set a scale"
    )
    parser.add_argument("--force", action="store_true", help="replace a folder that is not a bundle")
    parser.add_argument("--json", action="store_true", help="print the proof as JSON on standard output")
    args = parser.parse_args(argv)
    try:
        return _export(args)
    except ClcrError as error:
        print(f"clcr-export: error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"clcr-export: error: {args.output}: {error}; give a folder that can be written", file=sys.stderr)
        return ConfigError.exit_code


def _export(args: argparse.Namespace) -> int:
    target: Path = args.output
    window_hops = round(args.window * HOPS_A_SECOND) if 0.0 < args.window <= MOST_WINDOW_S else 0
    if window_hops < 1 or abs(window_hops - args.window * HOPS_A_SECOND) > 1e-6:
        raise ConfigError(f"--window {args.window:g}: allowed are multiples of 0.2 s up to {MOST_WINDOW_S:g} s")
    if args.window != 6.0 and args.precision != "fp32":
        raise ConfigError(f"--window {args.window:g} goes with --precision fp32; leave one of them out")
    proof_hops = window_hops + 10 if args.proof_hops is None else args.proof_hops
    if proof_hops < window_hops + 5:
        raise ConfigError(
            f"--proof-hops {proof_hops}: at least {window_hops + 5}, so that the {window_hops}-hop window wraps"
        )
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target}: is a file; a bundle is a folder, give the name of one")
    if target.exists() and not (target / "manifest.json").is_file() and not args.force:
        raise ConfigError(f"{target}: exists and is not a bundle; give another folder or --force")
    if args.licences and not args.licences.is_file():
        raise ConfigError(f"--licences {args.licences}: not a file")
    from clcr_export.gates import PrecisionError  # here, because torch takes seconds that --help need not
    from clcr_export.precision import Precision
    from clcr_export.writer import ExportOptions, export_bundle

    quiet = not sys.stderr.isatty()

    def say(text: str) -> None:
        if not quiet:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    precision = Precision(args.precision, tuple(args.evaluate), args.split, tuple(args.calibration), args.range)
    options = ExportOptions(args.name or target.resolve().name, proof_hops, args.licences, precision, window_hops)
    try:
        engines = export_bundle(args.checkpoint, target, options, say)
    except PrecisionError as error:
        say("")
        print(json.dumps(error.report.plain(), indent=1) if args.json else "\n".join(error.report.lines()))
        raise
    say("")
    if args.json:
        found = {"precision": engines.precision.plain()} if engines.precision else {}
        print(json.dumps(asdict(engines.proof) | found, indent=1))
    else:
        _tell(target, engines)
    return 0


def _tell(target: Path, engines: Engines) -> None:
    from clcr_export.proof import COMPARISONS

    proof = engines.proof
    size = sum(path.stat().st_size for path in target.iterdir())
    print(
        f"{target}: {size / 1e6:.1f} MB, {proof.ticks} ticks proved against PyTorch on the whole prefix "
        f"(allowed {proof.tolerance:.0e})"
    )
    for kind in COMPARISONS:
        worst = max(getattr(proof, kind).items(), key=lambda item: item[1])
        print(f"  {kind:8} worst {worst[1]:.1e} at {worst[0]}")
    for name, found in proof.control.items():
        print(f"  control  {name}: {found:.1e}, noticed")
    if engines.precision:
        print(f"{engines.precision.mode} against these float32 engines:")
        print("\n".join(engines.precision.lines()))
