"""A scored bundle for a person: a table on the terminal, pictures in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clcr.scoring.scores import Answered
from clcr.training import metrics, plots


def table(sets: Sequence[dict[str, Any]], by_speaker: bool = False) -> str:
    """One line per set; the intervals are those of clips, or of whole speakers where a set has several."""
    values = any("mae" in scored for scored in sets)
    names = metrics.REGRESSION if values else {"accuracy": "accuracy", "macro-F1": "macro_f1"}
    more = "" if values else f"{'ECE':<8}{'right after':<13}flips/s"
    head = f"{'set / subset':<26}{'n':>6}  {''.join(f'{name:<22}' for name in names)}{more}"
    lines = [head.rstrip()]
    for scored in sets:
        name = f"{scored['name']}/{scored['subset']}"
        if not scored["n"]:
            lines.append(f"{name:<26}{0:>6}  no clip could be scored")
            continue
        intervals = (scored["intervals_by_speaker"] if by_speaker else None) or scored["intervals"]
        cells = "".join(
            f"{f'{scored[key]:.3f} [{intervals[key][0]:.3f}, {intervals[key][1]:.3f}]':<22}" for key in names.values()
        )
        more = "" if values else _calibration_and_pace(scored)
        lines.append(f"{name:<26}{scored['n']:>6}  {cells}{more}".rstrip())
    return "\n".join(lines)


def _calibration_and_pace(scored: dict[str, Any]) -> str:
    first_s, flips = scored["time_to_first_correct_s"], scored["flips_per_s"]
    right = "" if first_s is None else f"{first_s:.1f} s"
    return f"{scored['ece']:<8.3f}{right:<13}{'' if flips is None else f'{flips:.2f}'}"


def times_table(sets: Sequence[dict[str, Any]]) -> str:
    """Accuracy by the seconds since an emotion began: of the clips, and of joined ones before and after the change."""
    lines: list[str] = []
    for scored in sets:
        joined = scored.get("joined", {})
        parts = [("", scored), *((f", joined, {part}", joined.get(part, {})) for part in ("before", "after"))]
        for title, part in parts:
            if part.get("by_time"):
                told = "".join(f"{one['after_s']:>6g}: {one['accuracy']:.2f}" for one in part["by_time"])
                lines.append(f"{scored['name']}/{scored['subset']}{title}: accuracy after seconds\n {told}")
        if joined.get("n"):
            after = joined["after"]
            stable_s = after["time_to_stable_correct_s"]
            settled = "" if stable_s is None else f", after {stable_s:.1f} s (median)"
            lines.append(f"  {after['recovered']:.2f} of {joined['n']} sessions end with the second emotion{settled}")
    return "".join(f"{line}\n" for line in lines)


def groups_table(sets: Sequence[dict[str, Any]]) -> str:
    """macro-F1 of each group of people with its 95 % interval."""
    lines: list[str] = []
    for scored in sets:
        for kind, groups in scored.get("groups", {}).items():
            for name, one in groups.items():
                low, high = one["intervals"]["macro_f1"]
                who = f"{scored['name']}/{scored['subset']}, {kind} {name}"
                lines.append(f"{who:<44}{one['n']:>6}  macro-F1 {one['macro_f1']:.3f} [{low:.3f}, {high:.3f}]")
    return "".join(f"{line}\n" for line in lines)


def draw(folder: Path, answered: dict[str, Answered], labels: tuple[str, ...]) -> None:
    """confusion.png and reliability.png of one manifest, a panel or curve for each subset."""
    if not answered:
        return
    scored = {subset: metrics.classification_scores(one.probs, one.targets) for subset, one in answered.items()}
    plots.plot_confusions(scored, labels, folder / "confusion.png")
    curves = {subset: metrics.reliability(one.probs, one.targets) for subset, one in answered.items()}
    plots.plot_reliability(curves, folder / "reliability.png")
