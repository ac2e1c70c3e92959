"""Writes the tables of docs/model_card.md from docs/results/*.json; `--check` only says whether they are up to date."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clcr.scoring.people import read_people

ROOT = Path(__file__).resolve().parents[2]
CARD = ROOT / "docs" / "model_card.md"
START, END = "<!-- tables: tools/docs/model_card.py -->", "<!-- end of tables -->"
LEFT_OUT = {
    "javased_av": "Java-SED, films",
    "javased_audio": "Java-SED, further takes, sound only",
    "ravdess": "RAVDESS",
    "emodb": "EmoDB (4 labels)",
    "nemo": "nEMO",
    "ased": "ASED (5 labels)",
}
ABOUT = {
    "javased_av": "Java-SED dev, speakers 03 08: one camera, Javanese",
    "javased_audio": "Java-SED dev, further takes, sound only",
    "ravdess": "RAVDESS actors 19 20",
    "emodb": "EmoDB, last two speakers (German, 4 labels)",
    "nemo": "nEMO, one speaker (Polish)",
    "ased": "ASED, 6 speakers (Amharic, 5 labels)",
    "emogator": "EmoGator, 40 people: bursts without words",
    "emospeech": "EmoSpeech, 10 people: one-word commands on phones, never trained on",
    "ferplus": "FER+ clear faces, repeats kept together",
    "faces_people": "faces of people kept apart (4 labels)",
    "fer2013": "FER2013's own labels, never trained on",
    "ckplus": "CK+ subjects kept apart (no neutral)",
    "goemotions": "GoEmotions dev, single-category rows",
    "goemotions_spoken": "the same with the mistakes of a speech recogniser",
    "meld": "MELD dev (speakers overlap with training)",
    "meld_spoken": "the same with the mistakes of a speech recogniser",
}

TOGETHER = "put together by label"
NEVER_SURE = ("javased_audio", "emospeech", "fer2013")  # not in that table: seen above, or other labels
SOUNDS = {  # tools/data/changed.py
    "room": "in a room (0.5 s of echo)",
    "hall": "in a hall (1.2 s)",
    "telephone": "over a telephone",
    "call": "over a bad call (Opus, 8 kbit/s)",
    "noise": "noise 10 dB below the voice",
    "people": "three people talking 10 dB below the voice",
    "quiet": "a microphone set too low (-55 dBFS)",
    "faint": "a microphone set far too low (-65 dBFS)",
    "loud": "a microphone set too high (clipped)",
}
PEOPLE = ROOT / "docs/results/people.csv"


def line(*cells: object) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def interval(score: dict[str, float]) -> str:
    return f"{score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"


def evaluation_table(packs: dict[str, Any]) -> list[str]:
    """One line per pack and subset: scores with 95 % intervals and the share of tokens that take part, by level."""
    lines = [
        "| held-out data | input | n | accuracy | macro-F1 | ECE | ECE by chance | participation, levels 1 2 3 |",
        "|---|---|--:|---|---|---|---|---|",
    ]
    for name, score in packs.items():
        pack, subset = name.split("/")
        shares = [
            ", ".join(f"{m[0].upper()} {share:.2f}" for m, share in level.items())
            for level in score["exchange"]["participation"]
        ]
        cells = [
            ABOUT[pack.removesuffix("_whisper")],
            subset,
            str(score["n"]),
            *(interval(score[key]) for key in ("accuracy", "macro_f1", "ece")),
            f"{score['ece_by_chance']:.3f}",
        ]
        lines.append(line(*cells, "; ".join(shares)))
    return lines


def sure_table(packs: dict[str, Any]) -> list[str]:
    """What share of the answers is at least so probable, and how many of these are right."""
    steps = [f"{entry['least']:g} and more" for entry in next(iter(packs.values()))["sure"]]
    lines = [line("held-out data", "input", "all", *steps), "|---|---|---|" + "---|" * len(steps)]
    for name, score in packs.items():
        pack, _, subset = name.partition("/")
        pack = pack.removesuffix("_whisper")
        cells = [
            f"{entry['coverage']:.2f}, " + ("-" if entry["accuracy"] is None else f"{entry['accuracy']:.2f}")
            for entry in score["sure"]
        ]
        if pack not in NEVER_SURE:
            lines.append(line(ABOUT.get(pack, TOGETHER), subset, f"1, {score['accuracy']['value']:.2f}", *cells))
    return lines


def pasts_table(cold: dict[str, Any], pasts: Sequence[dict[str, Any]]) -> list[str]:
    """macro-F1 of the same clips without a past of their person, and after each kind of past."""
    lines = ["| held-out data | input | n | cold | after 20 s of any clips | after 20 s of neutral clips |"]
    lines.append("|---|---|--:|---|---|---|")
    for name in pasts[0]:
        pack, subset = name.split("/")
        scores = [interval(packs[name]["macro_f1"]) for packs in (cold, *pasts)]
        lines.append(line(ABOUT[pack.removesuffix("_whisper")], subset, str(cold[name]["n"]), *scores))
    return lines


def sounds_table(plain: dict[str, Any], changed: dict[str, Any]) -> list[str]:
    """macro-F1 of the same sounds as recorded and as they are heard elsewhere."""
    names = [name.partition("/")[0].removesuffix("_whisper").rpartition("_")[::2] for name in changed]
    sets = list(dict.fromkeys(pack for pack, _ in names))
    scores = {names[index]: score for index, score in enumerate(changed.values())}
    rows = [["as recorded", *(interval(plain[f"{pack}_whisper/A"]["macro_f1"]) for pack in sets)]]
    rows += [[text, *(interval(scores[pack, change]["macro_f1"]) for pack in sets)] for change, text in SOUNDS.items()]
    head = ["sound", *(f"{ABOUT[pack]}, n {scores[pack, 'room']['n']}" for pack in sets)]
    return [line(*cells) for cells in (head, ["---"] * len(head), *rows)]


def people_out_table(packs: dict[str, Any]) -> list[str]:
    """Cross-validation by people: of each set and input the scores with both kinds of interval, cold and after 20 s."""
    lines = ["| people left out | input | n | people | macro-F1 | resampling people | after 20 s of the person |"]
    lines.append("|---|---|--:|--:|---|---|---|")
    for pack, scores in packs.items():
        for subset, score in scores["pooled"].items():
            cells = [LEFT_OUT[pack.removesuffix("_whisper")], subset, str(score["n"]), str(len(scores["speakers"]))]
            cells += [interval(scores[key][subset]["macro_f1"]) for key in ("pooled", "pooled_by_speaker")]
            lines.append(line(*cells, interval(scores["pooled_after_20_s"][subset]["macro_f1"])))
    return lines


def speakers_table(scores: dict[str, Any]) -> list[str]:
    """Java-SED's films, speaker by speaker, each left out once."""
    speakers = scores["speakers"]
    lines = [
        line("left-out speaker", *sexed(speakers, read_people(PEOPLE, "javased_av")["sex"])),
        "|---" * (len(speakers) + 1) + "|",
    ]
    for subset in scores["pooled"]:
        lines.append(line(f"{subset}, macro-F1", *(f"{one[subset]['macro_f1']:.2f}" for one in speakers.values())))
    return lines


def held_table(once: dict[str, Any], held: Sequence[dict[str, Any]]) -> list[str]:
    """macro-F1 of photographs that are shown for one video slot and for seconds."""
    titles = [f"for {report['hold_s']:g} s" for report in held]
    lines = [line("faces", "n", "shown once", *titles), "|---|--:|" + "---|" * (1 + len(held))]
    for name in held[0]["packs"]:
        scores = [interval(packs[name]["macro_f1"]) for packs in (once, *(report["packs"] for report in held))]
        lines.append(line(ABOUT[name.partition("/")[0]], str(once[name]["n"]), *scores))
    return lines


def fusion_table(rows: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    """The score of each fusion beside what its branches give without one, with the paired difference."""
    titles = {
        "best_branch": "best branch",
        "average": "mean of the branches",
        "product": "product of the branches",
    }
    compared = next(iter(rows[0][1].values()))["gain"]
    lines = [line("samples", "input", "n", "CLCR", *(titles[name] for name in compared))]
    lines.append("|---|---|--:|---|" + "---|" * len(compared))
    for title, gains in rows:
        for subset, score in gains.items():
            beside = [
                f"{score[name]:.3f}, {gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
                for name, gain in score["gain"].items()
            ]
            beside[0] = f"{score['branch']} {beside[0]}"
            lines.append(line(title, subset, str(score["n"]), f"{score['fusion']:.3f}", *beside))
    return lines


def corrupted_table(corrupted: dict[str, Any]) -> list[str]:
    """What a modality that shows nothing costs, against its absence, and what becomes of its weight and gate."""
    lines = [
        "| input | shows nothing | macro-F1 | without that modality | its beta | its eta |",
        "|---|---|---|---|---|---|",
    ]
    for name, score in corrupted.items():
        subset, _, letter = name.partition(" without ")
        beta, eta = (f"{score[key][0]:.2f} to {score[key][1]:.2f}" for key in ("beta", "eta"))
        lines.append(line(subset, letter, f"{score['corrupted']:.3f}", f"{score['absent']:.3f}", beta, eta))
    return lines


def sexed(speakers: Iterable[str], known: Mapping[str, str]) -> list[str]:
    """Speakers with their sex, as the sets say."""
    return [f"{speaker} ({known[speaker]})" for speaker in speakers]


def people_table(sets: list[dict[str, Any]]) -> list[str]:
    """macro-F1 of each person kept apart, by set and input."""
    lines = ["| set | input | macro-F1 of each speaker (f woman, m man) |", "|---|---|---|"]
    for score in sets:
        if known := read_people(PEOPLE, score["name"])["sex"]:
            values = [found["macro_f1"] for found in score["per_speaker"].values()]
            names = sexed(score["per_speaker"], known)
            people = ", ".join(f"{name} {value:.2f}" for name, value in zip(names, values, strict=True))
            lines.append(line(ABOUT[score["name"]], score["subset"], people))
    return lines


def read(name: str | Path) -> Any:
    """A report of docs/results."""
    return json.loads((ROOT / "docs" / "results" / name).read_text(encoding="utf-8"))


def tables() -> str:
    evaluation, pairs, people = (read(name) for name in ("default.json", "default_pairs.json", "people_out.json"))
    films = people["packs"]["javased_av_whisper"]
    after = [read(f"default_after_20_s{kind}.json")["packs"] for kind in ("", "_neutral")]
    held = [read(f"default_held_{seconds}_s.json") for seconds in (2, 6)]
    changed = read("default_changed.json")["packs"]
    scored = [one for path in sorted((ROOT / "docs/results/bundle").glob("*.json")) for one in read(path)["sets"]]
    fusions = [
        (TOGETHER, pairs["fusion"]["pairs"]),
        ("Java-SED's films, every speaker left out once", films["fusion"]),
        ("the same after 20 s of the person", films["fusion_after_20_s"]),
    ]
    parts = {
        "": evaluation_table(evaluation["packs"]),
        "Answers that are at least so probable: their share of all, and how many of them are right:": sure_table(
            {**evaluation["packs"], **pairs["packs"]}
        ),
        "The same faces shown for seconds, as a camera shows them, macro-F1:": held_table(evaluation["packs"], held),
        "The fusion beside its branches, macro-F1 and the paired difference of CLCR to it (95 % interval):": (
            fusion_table(fusions)
        ),
        "Put together by label, one modality shows nothing (noise, an unreadable face, words at random):": (
            corrupted_table(pairs["fusion"]["corrupted"])
        ),
        "macro-F1 after a past of the same person, from which the runtime knows what is usual for them:": (
            pasts_table(evaluation["packs"], after)
        ),
        "Every person of six sets left out once, in four folds of 450 steps of the base:": people_out_table(
            people["packs"]
        ),
        "Java-SED's films among them, speaker by speaker:": speakers_table(films),
        "Sound elsewhere than in a studio, macro-F1 (changed copies of the clips):": (
            sounds_table(evaluation["packs"], changed)
        ),
        "Person by person, the bundle on clips as they are:": people_table(scored),
    }
    blocks = ["\n".join([title, "", *lines] if title else lines) for title, lines in parts.items()]
    return "\n\n".join([START, *blocks, END])


def between(text: str, start: str, written: str) -> str:
    """A document's text with `written`, which begins with `start` and ends with END, in place of what stood there."""
    before, rest = text.split(start, 1)
    return before + written + rest.split(END, 1)[1]


def update(document: Path, start: str, written: str) -> int:
    """Put the tables into a document between `start` and END; with --check only say whether they are there: 0 or 1."""
    parser = argparse.ArgumentParser(description=f"Writes the tables of {document.relative_to(ROOT)}.")
    parser.add_argument("--check", action="store_true", help="only compare: exit code 1 when they are not up to date")
    check = parser.parse_args().check
    text = document.read_text(encoding="utf-8")
    updated = between(text, start, written)
    if check:
        return 0 if updated == text else 1
    document.write_text(updated, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(update(CARD, START, tables()))
