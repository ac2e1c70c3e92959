"""The CSV manifest that describes a data set; docs/data.md has an example of every kind of row."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from clcr_stream.errors import ConfigError

LABELS = ("neutral", "sad", "happy", "surprise", "fear", "anger")
T = TypeVar("T")
KINDS = ("video", "audio", "image", "face", "text")
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Row:
    """One sample. `media` is relative to the media root, or `pack.npz#index`; empty for text alone.

    kind: video (with or without sound), audio, image (a photograph: the face is looked for), face (already a face
    crop), text. end_s 0 means: to the end. label: a name, a number for regression, or empty.
    """

    id: str
    media: str
    label: str
    split: str
    speaker: str
    text: str
    start_s: float
    end_s: float
    kind: str


COLUMNS = tuple(field.name for field in fields(Row))


def read_manifest(path: Path) -> list[Row]:
    """The rows of a manifest, checked. Raises ConfigError that names the file, the line and what is allowed there."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such manifest; write one as docs/data.md shows, or run tools/data/manifests.py")
    csv.field_size_limit(1 << 20)
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ConfigError(f"{path}: column {missing[0]!r} is missing; a manifest has {','.join(COLUMNS)}")
        rows = [_row(path, reader.line_num, record) for record in reader]
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            raise ConfigError(f"{path}: id {row.id!r} occurs twice; ids must be unique within a manifest")
        seen.add(row.id)
    return rows


def write_manifest(path: Path, rows: Iterable[Row]) -> int:
    """Write the rows as CSV, in one step; returns their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".csv.part")
    count = 0
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow(_plain(getattr(row, name)) for name in COLUMNS)
            count += 1
    part.replace(path)
    return count


def evenly(items: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` of them, from the first to the last at even distances; None: all."""
    if limit is None or limit >= len(items):
        return list(items)
    step = (len(items) - 1) / max(1, limit - 1)
    return [items[round(place * step)] for place in range(limit)]


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _row(path: Path, line: int, record: dict[str, str | None]) -> Row:
    values = {name: (record[name] or "").strip() for name in COLUMNS}
    where = f"{path}:{line}"
    for name, allowed in (("kind", KINDS), ("split", SPLITS)):
        if values[name] not in allowed:
            raise ConfigError(f"{where}: {name} {values[name]!r} is not known; allowed is {', '.join(allowed)}")
    if not values["id"]:
        raise ConfigError(f"{where}: the id is empty; every row needs a unique one")
    if bool(values["media"]) == (values["kind"] == "text"):
        rule = "a text row has no media" if values["media"] else f"a row of kind {values['kind']} needs its media"
        raise ConfigError(f"{where}: media {values['media']!r} does not fit; {rule}")
    media = values["media"].partition("#")[0]
    if Path(media).is_absolute() or ".." in Path(media).parts:
        raise ConfigError(f"{where}: media {media!r} leaves the media root; give a path relative to --media-root")
    start_s, end_s = (_seconds(where, name, values[name]) for name in ("start_s", "end_s"))
    if end_s and end_s <= start_s:
        raise ConfigError(f"{where}: end_s {end_s:g} is not after start_s {start_s:g}; leave end_s empty for the whole")
    texts = {name: values[name] for name in COLUMNS if name not in ("start_s", "end_s")}
    return Row(**texts, start_s=start_s, end_s=end_s)


def _seconds(where: str, name: str, text: str) -> float:
    try:
        value = float(text or 0.0)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 1e7:
        raise ConfigError(f"{where}: {name} {text!r} is not a time; allowed is seconds from 0 on, or empty")
    return value
