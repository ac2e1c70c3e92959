"""A scored bundle for a person: a table on the terminal, pictures in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clcr.scoring.scores import Answered
from clcr.training import metrics, plots


def table(sets: Sequence[dict[str, Any]], by_speaker: bool = False) -> str:
    """One line per set; the intervals are those of clips, or of whole speakers where a set has several."""
    lines = [f"{'set / subset':<26}{'n':>6}  {'accuracy':<22}{'macro-F1':<22}{'ECE':<8}{'right after':<13}flips/s"]
    for scored in sets:
        name = f"{scored['name']}/{scored['subset']}"
        if not scored["n"]:
            lines.append(f"{name:<26}{0:>6}  no clip could be scored")
            continue
        intervals = (scored["intervals_by_speaker"] if by_speaker else None) or scored["intervals"]
        cells = "".join(
            f"{f'{scored[key]:.3f} [{intervals[key][0]:.3f}, {intervals[key][1]:.3f}]':<22}"
            for key in ("accuracy", "macro_f1")
        )
        first_s, flips = scored["time_to_first_correct_s"], scored["flips_per_s"]
        right = "" if first_s is None else f"{first_s:.1f} s"
        steady = "" if flips is None else f"{flips:.2f}"
        lines.append(f"{name:<26}{scored['n']:>6}  {cells}{scored['ece']:<8.3f}{right:<13}{steady}".rstrip())
    return "\n".join(lines)


def draw(folder: Path, answered: dict[str, Answered], labels: tuple[str, ...]) -> None:
    """confusion.png and reliability.png of one manifest, a panel or curve for each subset."""
    if not answered:
        return
    scored = {subset: metrics.classification_scores(one.probs, one.targets) for subset, one in answered.items()}
    plots.plot_confusions(scored, labels, folder / "confusion.png")
    curves = {subset: metrics.reliability(one.probs, one.targets) for subset, one in answered.items()}
    plots.plot_reliability(curves, folder / "reliability.png")
