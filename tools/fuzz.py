"""Changed inputs for every decoder of the runtime: anything but an answer or its documented error is a fault.

    nice .venv/bin/python tools/fuzz.py --seconds 600 --seed 1

Inputs that are valid are changed at random (bytes, numbers, texts, brackets, lines), and those that reach a new error
are changed further. A fault is any other exception, a case of over 10 s, and one that takes over 300 MB. Each is told
once, with its input in --keep. Exit code 1 when there is one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fuzzing.judge import Fault, Target, Watch, fuzz, judge, keep_cases
from fuzzing.targets import targets


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, and say what was found."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--seconds", type=float, default=60.0, help="how long (default: 60)")
    flags.add_argument("--seed", type=int, default=0, help="of the changes (default: 0)")
    flags.add_argument("--only", metavar="NAME,NAME", help="these decoders")
    flags.add_argument("--keep", type=Path, metavar="DIR", help="a folder for the inputs that made faults")
    flags.add_argument("--case", type=Path, metavar="FILE", help="judge this one input, with --only NAME")
    given = flags.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="clcr-fuzz-") as folder:
        chosen = _chosen(targets(Path(folder)), given.only)
        if isinstance(chosen, str):
            flags.error(chosen)
        if given.case is not None:
            data = given.case.read_bytes()
            with Watch() as watch:
                faults = [found for target in chosen if (found := judge(target, data, watch))]
            for fault in faults:
                _say(fault)
        else:
            faults = fuzz(chosen, given.seconds, given.seed, _say)
    for target in chosen:
        share = target.accepted / max(1, target.cases)
        print(
            f"{target.name:13} {target.cases:9} cases, {share:6.1%} accepted, {len(target.signatures):4} answers, "
            f"slowest {target.slowest_s * 1000:6.1f} ms"
        )
    print(f"{sum(target.cases for target in chosen)} cases, {len(faults)} faults")
    if given.keep is not None:
        keep_cases(faults, given.keep)
    return 1 if faults else 0


def _chosen(every: Sequence[Target], only: str | None) -> list[Target] | str:
    """The targets by name, or why not."""
    names = [target.name for target in every] if only is None else only.split(",")
    unknown = sorted(set(names) - {target.name for target in every})
    if unknown:
        return f"--only {unknown[0]}: allowed are {', '.join(target.name for target in every)}"
    return [target for target in every if target.name in names]


def _say(fault: Fault) -> None:
    print(f"FAULT {fault.target}: {fault.what} at {fault.where}, input of {len(fault.data)} bytes", flush=True)
    print(f"  {fault.data[:160]!r}\n{fault.trace}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
