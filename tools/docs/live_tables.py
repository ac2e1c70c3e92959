"""The tables of docs/live.md and its picture, from what tools/docs/live.py measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from docs.model_card import line

SETS = {
    "javased_av": "Java-SED films",
    "ravdess": "RAVDESS",
    "emodb": "EmoDB",
    "nemo": "nEMO",
    "ased": "ASED",
    "ferplus": "FER+ faces",
}
LANGUAGES = {"javased_av": "Javanese", "ravdess": "English", "emodb": "German", "nemo": "Polish", "ased": "Amharic"}
CHANGES = {
    "dark": "in the dark (a sixteenth of the light)",
    "bright": "in glaring light (four times as much)",
    "far": "three times as far",
    "mask": "lower half of the face covered",
    "side": "one side of the face covered",
    "quiet": "a microphone set too low (-55 dBFS)",
    "loud": "a microphone set too high (clipped)",
    "room": "voice from afar in a room",
}
SECONDS = (0.2, 0.4, 0.6, 1.0, 1.4, 2.0, 2.4, 3.0)
AFTER_S = (0.4, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
LONG_S = (1.0, 2.0, 4.0, 6.0, 8.0, 10.0)
TRAINED_S = 6.0  # the window
FEWEST = 20  # clips or sessions that a point of the picture stands for


def tables(stored: dict[str, Any]) -> str:
    """All tables as Markdown; a part that was not measured is left out."""
    bundles = sorted({part["bundle"]["sha256"][:12] for name in stored if name != "windows" for part in stored[name]})
    lines = [f"Measured with the bundle {' and '.join(bundles)} (the beginning of its sha256).", ""] if bundles else []
    for title, (write, part) in TABLES.items():
        if part in stored:
            lines += [f"{title}:", "", *write(stored), ""]
    return "\n".join(lines).rstrip()


def pace_table(stored: dict[str, Any]) -> list[str]:
    lines = head(
        "clips",
        "input",
        "n",
        "first right after",
        "stable after",
        "stable and right after",
        "never right",
        "flips a minute",
    )
    for one in sets_of(stored["times"]):
        seconds = [brief(one[f"time_to_{name}_s"], " s") for name in ("first_correct", "stable", "stable_correct")]
        lines.append(
            line(SETS[one["name"]], one["subset"], one["n"], *seconds, f"{one['never_correct']:.2f}", flips(one))
        )
    return lines


def seconds_table(stored: dict[str, Any]) -> list[str]:
    lines = head("clips", "input", "n", *(f"{moment:g} s" for moment in SECONDS))
    for one in sets_of(stored["times"]):
        lines.append(line(*titles(one), one["by_time_same"][0]["n"], *at(one["by_time_same"], SECONDS)))
    return lines


def before_table(stored: dict[str, Any]) -> list[str]:
    moments = (*SECONDS[:-2], *AFTER_S[3:])
    lines = head("clips", "input", "sessions", *(f"{moment:g} s" for moment in moments), "flips a minute")
    for one in with_sessions(stored["joined"]):
        before = one["joined"]["before"]
        lines.append(line(*titles(one), one["joined"]["n"], *at(before["by_time"], moments), flips(before)))
    return lines


def after_table(stored: dict[str, Any]) -> list[str]:
    lines = head(
        "clips", "input", "sessions", *(f"{moment:g} s" for moment in AFTER_S), "end with the new one", "settled after"
    )
    for one in with_sessions(stored["joined"]):
        after = one["joined"]["after"]
        told = [
            f"{new} / {old}"
            for new, old in zip(
                at(after["by_time"], AFTER_S), at(after["by_time"], AFTER_S, "still_before"), strict=True
            )
        ]
        settled = brief(after["time_to_stable_correct_s"], " s")
        lines.append(line(*titles(one), one["joined"]["n"], *told, f"{after['recovered']:.2f}", settled))
    return lines


def held_table(stored: dict[str, Any]) -> list[str]:
    """One emotion for 10 s and the one after it, for a reader who waits for equal labels; the trained window."""
    lines = head(
        "clips", "input", "sessions", "labels in a row", "flips a minute", "first right after", "never right",
        "after a change: settled after", "end with the new one",
    )  # fmt: skip
    for one in with_sessions([part for part in stored["windows"] if part["window_s"] == TRAINED_S]):
        before, after = (one["joined"][part]["by_held"] for part in ("before", "after"))
        for first, second in zip(before, after, strict=True):
            times = [brief(first["time_to_first_correct_s"], " s"), f"{first['never_correct']:.2f}"]
            settled = brief(second["time_to_stable_correct_s"], " s")
            figures = [first["hops"], flips(first), *times, settled, f"{second['right_at_end']:.2f}"]
            lines.append(line(*titles(one), one["joined"]["n"], *figures))
    return lines


def windows_table(stored: dict[str, Any]) -> list[str]:
    lines = head(
        "clips", "input", "sessions", "window", "right at 2, 6, 10 s of the first emotion",
        *(f"new at {moment:g} s" for moment in LONG_S), "end with the new one", "settled after", "flips a minute",
    )  # fmt: skip
    measured = [(part["window_s"], one) for part in stored["windows"] for one in with_sessions([part])]
    for window_s, one in sorted(measured, key=lambda pair: (pair[1]["name"], pair[0])):
        before, after = one["joined"]["before"], one["joined"]["after"]
        lines.append(
            line(
                *titles(one),
                one["joined"]["n"],
                f"{window_s:g} s",
                ", ".join(at(before["by_time"], (2.0, 6.0, 10.0))),
                *at(after["by_time"], LONG_S),
                f"{after['recovered']:.2f}",
                brief(after["time_to_stable_correct_s"], " s"),
                f"{flips(before)}, {flips(after)}",
            )
        )
    return lines


def people_table(stored: dict[str, Any]) -> list[str]:
    lines = head("clips", "language", "input", "women", "men", "all")
    for one in sets_of([*stored.get("times", []), *stored.get("people", [])]):
        sexes = one.get("groups", {}).get("sex", {})
        cells = [
            f"{score(sexes[sex])}; {sexes[sex]['n']} of {sexes[sex]['speakers']}" if sex in sexes else "-"
            for sex in "fm"
        ]
        lines.append(
            line(SETS[one["name"]], LANGUAGES[one["name"]], one["subset"], *cells, f"{score(one)}; {one['n']}")
        )
    return lines


def changed_table(stored: dict[str, Any]) -> list[str]:
    """A row for each change, a column for each set and input that it was made of."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for one in sets_of(stored["changed"]):
        name = next(known for known in SETS if one["name"] == known or one["name"].startswith(f"{known}_"))
        found[name, one["subset"], one["name"][len(name) + 1 :]] = one
    columns = [(name, subset) for name, subset, change in found if not change]
    columns = [column for column in columns if any((*column, change) in found for change in CHANGES)]
    lines = head("", *(f"{SETS[name]}, {subset}, n {found[name, subset, '']['n']}" for name, subset in columns))
    for change, text in {"": "as recorded", **CHANGES}.items():
        cells = []
        for name, subset in columns:
            copy = found.get((name, subset, change))
            faces = "" if copy is None or "V" not in subset else f"; {copy['unseen'] / copy['n']:.2f}"
            cells.append("" if copy is None else f"{score(copy)}{faces}")
        lines.append(line(text, *cells))
    return lines


def draw(stored: dict[str, Any], image: Path) -> None:
    """Accuracy over the seconds of a clip, and of the new and the old emotion after a change, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for place, one in enumerate(sets_of(stored.get("times", []))):
        points = [point for point in one["by_time"] if point["n"] >= FEWEST]
        x = [point["after_s"] for point in points]
        left.plot(
            x, [point["accuracy"] for point in points], marker=".", color=f"C{place}", label=", ".join(titles(one))
        )
        low, high = zip(*(point["intervals"]["accuracy"] for point in points), strict=True)
        left.fill_between(x, low, high, color=f"C{place}", alpha=0.08, lw=0)
    colours = {titles(one): f"C{place}" for place, one in enumerate(sets_of(stored.get("times", [])))}
    for one in with_sessions(stored.get("joined", [])):
        points = [point for point in one["joined"]["after"]["by_time"] if point["n"] >= FEWEST]
        x, colour = [point["after_s"] for point in points], colours.get(titles(one))
        right.plot(x, [point["accuracy"] for point in points], marker=".", color=colour, label=", ".join(titles(one)))
        right.plot(x, [point["still_before"] for point in points], color=colour, ls=":")
    left.set(
        title="the label at each moment of a clip", xlabel="seconds heard and seen", ylabel="share of right labels"
    )
    right.set(title="after the emotion changes: new (solid), old (dotted)", xlabel="seconds since the change")
    for axes in (left, right):
        axes.set(xlim=(0, None), ylim=(0, 1))
        axes.grid(alpha=0.3)
    if left.get_legend_handles_labels()[0]:
        left.legend(fontsize=8, loc="lower right")  # the colours of both
    image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(image, dpi=110, metadata={"Software": None})


def sets_of(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for part in parts for one in part["sets"] if one.get("n", 1)]


def with_sessions(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in sets_of(parts) if one.get("joined", {}).get("n")]


def titles(one: dict[str, Any]) -> tuple[str, str]:
    return SETS[one["name"]], one["subset"]


def at(points: Sequence[dict[str, Any]], moments: Iterable[float], key: str = "accuracy") -> list[str]:
    """The score at each moment; empty where no clip lasts so long."""
    by_moment = {point["after_s"]: point[key] for point in points}
    return [f"{by_moment[moment]:.2f}" if moment in by_moment else "" for moment in moments]


def score(one: dict[str, Any]) -> str:
    low, high = one["intervals"]["macro_f1"]
    return f"{one['macro_f1']:.2f} [{low:.2f}, {high:.2f}]"


def flips(one: dict[str, Any]) -> str:
    return brief(None if one["flips_per_s"] is None else 60.0 * one["flips_per_s"], digits=0)


def brief(value: float | None, unit: str = "", digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def head(*cells: str) -> list[str]:
    return [line(*cells), "|" + "---|" * len(cells)]


TABLES = {  # title -> what writes it, and the part that it is of
    "How soon the label comes, and how steady it is": (pace_table, "times"),
    "Accuracy by the seconds heard and seen, of the same clips throughout": (seconds_table, "times"),
    "The same of clips joined until one emotion lasts 6 s": (before_table, "joined"),
    "After the emotion changes, the share of answers that are the new one / still the old one": (after_table, "joined"),
    "Windows, on clips joined to 10 s of each emotion": (windows_table, "windows"),
    "For a reader who shows a label once it has come so often in a row, on the same joined clips": (
        held_table,
        "windows",
    ),
    "By sex, macro-F1 with its 95 % interval over clips; clips of so many people": (people_table, "people"),
    "Changed copies of the same clips, macro-F1; with pictures, the share of clips in whose end no face was found": (
        changed_table,
        "changed",
    ),
}
