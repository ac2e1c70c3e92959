"""Drives sessions through the product's loop under a clock of the test, and a bundle whose engines are named only."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from clcr_stream.bundle.loader import Bundle
from clcr_stream.bundle.manifest import FileSpec, Manifest
from clcr_stream.clock import Clock, Wake
from clcr_stream.errors import ClcrError
from clcr_stream.inference.levels import Levels
from clcr_stream.streams.loop import Loop
from clcr_stream.streams.session import Session


@contextmanager
def socket_folder() -> Iterator[str]:
    """A folder with a short path: a socket's may have 107 bytes, and a test's own folder has most of them."""
    with tempfile.TemporaryDirectory(prefix="clcr-") as folder:
        yield folder


@dataclass(frozen=True)
class Ended:
    """A session that left the loop, and what ended it."""

    session: Session
    error: ClcrError | None


def drive(
    levels: Levels, clock: Clock, sessions: Sequence[Session], stop: threading.Event | None = None, max_batch: int = 8
) -> list[Ended]:
    """Run these sessions to their end or until `stop`, as the host does; who left, in order."""
    ended: list[Ended] = []
    with Wake() as wake:
        loop = Loop(levels, clock, wake, lambda session, error: ended.append(Ended(session, error)), max_batch)
        for session in sessions:
            loop.add(session)
        loop.run(stop if stop is not None else threading.Event())
    return ended


def empty_bundle(manifest: Manifest) -> Bundle:
    """A bundle for backends that read no graphs."""
    files = {engine.file: b"" for engine in manifest.engines.values()}
    specs = {name: FileSpec(sha256="0" * 64, bytes=0) for name in files}
    return Bundle(msgspec.structs.replace(manifest, files=specs), files, "0" * 64)


def no_words(manifest: Manifest) -> dict[int, dict[str, NDArray[np.float32]]]:
    """The language rows of a window in which nobody speaks, per level."""
    rows: dict[int, dict[str, NDArray[np.float32]]] = {}
    for level in (1, 2, 3):
        inputs = {tensor.name: tensor.shape[1:] for tensor in manifest.engines[f"level{level}"].inputs}
        names = [name for name in inputs if name.startswith("language_")]
        rows[level] = {name: np.zeros([int(size) for size in inputs[name]], np.float32) for name in names}
    return rows
