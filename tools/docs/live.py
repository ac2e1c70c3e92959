"""Measure how a live answer forms and whom it fails; write docs/results/live/, the tables of docs/live.md, its picture.

    python tools/docs/live.py --measure times joined people changed      # a quarter of an hour of one core
    python tools/docs/live.py                                            # tables and picture again, from the JSON
    python tools/docs/live.py --measure windows                          # bundles of other windows, exported first

Every part is one or a few commands of `clcr-eval --bundle` on speakers that the bundle was not trained on. --check
says whether docs/live.md is up to date.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by its path, it finds its siblings

from docs.live_tables import draw, tables
from docs.model_card import END, PEOPLE, ROOT, between

START = "<!-- tables: tools/docs/live.py -->"
RESULTS, PAGE, PICTURE = ROOT / "docs/results/live", ROOT / "docs/live.md", ROOT / "docs/pictures/live.png"
MEDIA = {  # under --data
    "javased_av": "javased",
    "ravdess": "audio",
    "emodb": "audio",
    "nemo": "nemo",
    "ased": "ased",
}
WINDOWS_S = (2.0, 4.0, 10.0)  # beside the bundle's own
PICTURES, SOUNDS = ("dark", "bright", "far", "mask", "side"), ("quiet", "loud", "room")
CHANGED = {
    "javased_av": (0, (*PICTURES, *SOUNDS)),
    "ferplus": (400, PICTURES),
    "ravdess": (0, SOUNDS),
    "nemo": (160, SOUNDS),
}
LEFT_OUT = ("manifest", "per_class", "per_speaker", "confusion", "intervals_by_speaker", "bootstrap", "failed")


@dataclass(frozen=True)
class Place:
    """Where things are: the bundle, manifests and changed copies in the cache, the development data."""

    bundle: Path
    cache: Path
    data: Path

    def score(self, names: Sequence[str], flags: Sequence[str], bundle: Path | None = None) -> dict[str, Any]:
        """`clcr-eval --bundle` on these sets, without what the tables do not need."""
        manifests = [str(self.cache / "manifests" / f"{name}.csv") for name in names]
        roots = [str(self.data / MEDIA[name] if name in MEDIA else self.cache / "manifests") for name in names]
        return self.run(["--manifest", *manifests, "--media-root", *roots, *flags], bundle)

    def score_changed(self, names: Sequence[str], flags: Sequence[str]) -> dict[str, Any]:
        """The same on changed copies."""
        manifests = [str(self.cache / "live" / f"{name}.csv") for name in names]
        return self.run(["--manifest", *manifests, "--media-root", str(self.cache / "live"), *flags], None)

    def run(self, flags: Sequence[str], bundle: Path | None) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "scores.json"
            command = ["clcr-eval", "--bundle", str(bundle or self.bundle), *flags]
            run_here([*command, "--json", str(out)])
            scores: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        sets = [{key: value for key, value in one.items() if key not in LEFT_OUT} for one in scores["sets"]]
        return {"bundle": scores["bundle"], "limit": scores["limit"], "labels": scores["labels"], "sets": sets}


def run_here(command: Sequence[str]) -> None:
    """A command of this environment on one thread; SystemExit when it fails."""
    name = Path(sys.executable).parent / command[0]
    if subprocess.run([str(name), *command[1:]], env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode:
        raise SystemExit(f"live: `{' '.join(command)}` failed")


def times(place: Place) -> list[dict[str, Any]]:
    return [place.score(("javased_av", "ravdess", "emodb"), ("--by-time", "--people", str(PEOPLE)))]


def joined(place: Place) -> list[dict[str, Any]]:
    flags = ("--joined", "6", "--limit", "30", "--subsets", "A,VA")
    found = place.score(("javased_av", "ravdess", "emodb"), flags)
    return [found | {"sets": [only_joined(one) for one in found["sets"]]}]


def people(place: Place) -> list[dict[str, Any]]:
    return [place.score(("nemo", "ased"), ("--people", str(PEOPLE), "--limit", "160"))]


def changed(place: Place) -> list[dict[str, Any]]:
    """Each set as recorded and every changed copy of it, of the same clips."""
    found = []
    for name, (limit, changes) in CHANGED.items():
        flags = ["--limit", str(limit)] if limit else []
        root = place.data / MEDIA[name] if name in MEDIA else place.cache / "manifests"
        given = ["--manifest", str(place.cache / "manifests" / f"{name}.csv"), "--media-root", str(root), *flags]
        tool = str(ROOT / "tools/data/changed.py")
        run_here(["python", tool, *given, "--changes", ",".join(changes), "--out", str(place.cache / "live")])
        more = ["--people", str(PEOPLE)] if name in MEDIA else []
        found.append(place.score((name,), (*flags, *more)))
        for kind, subsets in ((PICTURES, "V,VA" if name in MEDIA else "V"), (SOUNDS, "A")):
            names = [f"{name}_{change}" for change in changes if change in kind]
            found += [place.score_changed(names, ("--subsets", subsets, *more))] if names else []
    return found


def windows(place: Place) -> list[dict[str, Any]]:
    """The checkpoint as bundles of other windows, on clips joined to 10 s of each emotion."""
    found = []
    for window_s in (*WINDOWS_S, None):
        bundle = place.bundle
        if window_s is not None:
            bundle = place.cache / "live" / f"window_{window_s:g}_s"
            run_here(["clcr-export", str(ROOT / "checkpoints/default"), "-o", str(bundle), "--window", f"{window_s:g}"])
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        for name, subset, limit in (("javased_av", "VA", "12"), ("ravdess", "A", "30")):
            scores = place.score((name,), ("--joined", "10", "--limit", limit, "--subsets", subset), bundle)
            scores["sets"] = [only_joined(one) for one in scores["sets"]]
            found.append({"window_s": manifest["window_hops"] * manifest["hop_ns"] / 1e9} | scores)
        if window_s is not None:
            shutil.rmtree(bundle)
    return found


PARTS = {part.__name__: part for part in (times, joined, people, changed, windows)}


def only_joined(scored: dict[str, Any]) -> dict[str, Any]:
    """Of a set, what was found of its joined clips."""
    return {key: scored[key] for key in ("name", "subset", "joined") if key in scored}


def lines(value: Any, depth: int = 0) -> str:
    """JSON with a line for each set and each moment."""
    inner = " " * (depth + 1)
    if depth < 6 and isinstance(value, dict):
        body = f",\n{inner}".join(f"{json.dumps(key)}: {lines(one, depth + 1)}" for key, one in value.items())
        return f"{{\n{inner}{body}\n{inner[1:]}}}" if value and len(json.dumps(value)) > 200 else json.dumps(value)
    if depth < 6 and isinstance(value, list) and len(json.dumps(value)) > 200:
        return f"[\n{inner}" + f",\n{inner}".join(lines(one, depth + 1) for one in value) + f"\n{inner[1:]}]"
    return json.dumps(value)


def rounded(value: Any) -> Any:
    """Figures to four places: more say nothing of so few clips."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


def stored() -> dict[str, Any]:
    """What was measured, by part."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}


def page(text: str) -> str:
    """docs/live.md with the tables of what is stored."""
    return between(text, START, f"{START}\n\n{tables(stored())}\n{END}")


def main(arguments: Sequence[str]) -> int:
    """Measure what was asked for, write, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="+", choices=tuple(PARTS), default=[], help="parts to measure again")
    parser.add_argument("--bundle", type=Path, default=Path("engines/default"))
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="the folder of manifests/ (cache)")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the development data")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when docs/live.md is stale")
    options = parser.parse_args(arguments)
    place = Place(options.bundle, options.cache, options.data)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for part in options.measure:
        found = rounded(PARTS[part](place))
        (RESULTS / f"{part}.json").write_text(lines(found) + "\n", encoding="utf-8")
        print(RESULTS / f"{part}.json")
    text = PAGE.read_text(encoding="utf-8")
    if options.check:
        return 0 if page(text) == text else 1
    PAGE.write_text(page(text), encoding="utf-8")
    draw(stored(), PICTURE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
