"""Rows of a manifest, and the records of the tables that they are made of."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from clcr.training.data.manifest import Row
from clcr_stream.errors import ConfigError


def row(identity: str, label: str, kind: str, split: str = "train", **more: str) -> Row:
    values = {"media": "", "speaker": "", "text": ""} | more
    return Row(id=identity, label=label, kind=kind, split=split, start_s=0.0, end_s=0.0, **values)


def records(path: Path) -> Iterator[dict[str, str]]:
    if not path.is_file():
        raise ConfigError(
            f"{path}: missing; --data must be the folder that holds faces/, audio/, text/, javased/, nemo/, ..."
        )
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)
