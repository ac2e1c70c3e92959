"""Sets of texts with finer labels than the six: what the language encoder is trained on for itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from clcr.network.config import EMOTIONS
from clcr_stream.errors import ConfigError


class Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a set: what was written or said, what raters saw in it, and its one emotion if it has one."""

    text: str
    split: str
    label: str | None = None
    fine: tuple[str, ...] | None = None  # None: nobody was asked


@dataclass(frozen=True)
class TextSet:
    """Texts of one split; `fine_names` are all names that any split of the set has."""

    name: str
    texts: tuple[Text, ...]
    fine_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)


def load_text_set(path: Path, split: str) -> TextSet:
    """One split of a set, JSON lines; raises ConfigError when the file is missing, no text set, or nothing is left."""
    if not path.is_file():
        raise ConfigError(f"{path}: no text set; run `python tools/data/text_sets.py --data DIR --out {path.parent}`")
    try:
        rows = msgspec.json.Decoder(Text).decode_lines(path.read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no text set: {error}; write the set again") from error
    unknown = sorted({row.label for row in rows if row.label is not None} - set(EMOTIONS))
    if unknown:
        raise ConfigError(f"{path}: label {unknown[0]!r} is not known; allowed: {', '.join(EMOTIONS)}")
    kept = tuple(row for row in rows if row.split == split)
    if not kept:
        raise ConfigError(f"{path}: no text in split {split!r}; allowed: {', '.join(sorted({r.split for r in rows}))}")
    return TextSet(path.stem, kept, tuple(sorted({name for row in rows for name in row.fine or ()})))


def save_text_set(path: Path, texts: Iterable[Text]) -> None:
    """Write a text set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.Encoder().encode_lines(list(texts)))


def fine_names(sets: Sequence[TextSet]) -> tuple[str, ...]:
    """The finer labels of several sets, in order."""
    return tuple(sorted({name for one in sets for name in one.fine_names}))
