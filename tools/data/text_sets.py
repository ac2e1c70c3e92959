"""Write the sets of texts that the language encoder is trained on: GoEmotions with its 28 labels, MELD, both as a
speech recogniser would give them, and words at random with a label of their own.

python tools/data/text_sets.py --data ../shared/data --out cache/texts
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from clcr.training.data.manifest import Row
from clcr.training.data.pairs import NOTHING
from clcr.training.data.text_sets import Text, save_text_set

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run by its path, it finds its siblings

from data.manifests import goemotions, meld, spoken
from data.nothing import words
from data.rows import records

SPLITS = ("train", "dev")
AT_RANDOM = {"train": 20_000, "dev": 500}


def whole_goemotions(folder: Path, single: Mapping[str, str]) -> dict[str, Text]:
    """A manifest's id -> the comment with every label that it has, of both splits; `single`: id -> its one emotion."""
    return {
        (identity := f"{split}{number:05d}-{record['id']}"): Text(
            record["text"], split, single.get(identity), tuple(record["labels"].split("|"))
        )
        for split in SPLITS
        for number, record in enumerate(records(folder / f"goemotions_{split}.csv"))
    }


def text_sets(folder: Path) -> dict[str, list[Text]]:
    """name -> its texts. Of GoEmotions as written all rows, also those of several emotions or none of the six."""
    comments, scenes = list(goemotions(folder)), list(meld(folder))
    whole = whole_goemotions(folder, {row.id: row.label for row in comments})
    written = [text for text in whole.values() if text.text.strip()]
    return {
        "goemotions": written,
        "nothing": at_random(written),
        "goemotions_spoken": [text_of(row, whole[row.id].fine) for row in spoken(comments) if row.split in SPLITS],
        "meld": [text_of(row) for row in scenes if row.split in SPLITS],
        "meld_spoken": [text_of(row) for row in spoken(scenes) if row.split in SPLITS],
    }


def at_random(texts: Sequence[Text]) -> list[Text]:
    """Words of different texts of a split, out of order, with the one finer label "nothing"."""
    found = []
    for place, (split, count) in enumerate(AT_RANDOM.items()):
        said = [text.text for text in texts if text.split == split]
        for index in range(count):
            rng = np.random.default_rng((place, index, 3))
            found.append(Text(words(said, rng), split, None, (NOTHING,)))
    return found


def text_of(row: Row, fine: tuple[str, ...] | None = None) -> Text:
    """A manifest's row."""
    return Text(row.text, row.split, row.label, fine)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the sets, and say what is in them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with text/")
    parser.add_argument("--out", type=Path, required=True, help="where to write NAME.jsonl")
    given = parser.parse_args(arguments)
    for name, texts in text_sets(given.data / "text").items():
        save_text_set(given.out / f"{name}.jsonl", texts)
        for split in SPLITS:
            counts = Counter(text.label or "none of the six alone" for text in texts if text.split == split)
            print(f"{name} {split}: {', '.join(f'{label} {count}' for label, count in counts.most_common())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
