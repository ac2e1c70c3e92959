"""Files played through one set of engines, one after the other, for the commands that sum up or compare."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from clcr_stream.cli.terminal import StatusLine
from clcr_stream.clock import NS_PER_S
from clcr_stream.config import engine_options, load_config, only_stream, source_spec
from clcr_stream.embedding.streams import PredictionStream
from clcr_stream.inference.baselines import Baselines
from clcr_stream.recording.seen import clock_text
from clcr_stream.recording.source import KINDS
from clcr_stream.recording.story import Story, make_story
from clcr_stream.run import check, not_taken_over
from clcr_stream.sources.base import BOTH, Span
from clcr_stream.sources.choose import check_settings
from clcr_stream.sources.media import open_file
from clcr_stream.streams.mailbox import RECORDING_PREDICTIONS
from clcr_stream.streams.running import Running
from clcr_stream.streams.stream import Hooks
from clcr_stream.wire import messages


class _Kept:
    """A sink that keeps every message."""

    def __init__(self) -> None:
        self.messages: list[messages.Message] = []
        self.last: messages.Prediction | None = None

    def write(self, message: messages.Message) -> None:
        self.messages.append(message)
        if isinstance(message, messages.Prediction):
            self.last = message


def progress(name: str, last: messages.Prediction | None, length_s: float | None) -> str:
    """How far a file is, whose times begin at 0, and what was said last."""
    if last is None:
        return f"{name}: being opened"
    answer = last.label or ("" if last.value is None else f"{last.value:+.2f}")
    whole = "" if length_s is None else f" of {clock_text(length_s)}"
    parts = (f"{clock_text(last.window.end_ns / NS_PER_S)}{whole}", name, answer)
    return "  ".join(part for part in parts if part)


class Player:
    """Engines that play one file after the other, as fast as they go; no socket and no file is opened for writing.

    `flags` are those of a configuration, by dotted key. A context manager. Raises the ClcrError of flags that are wrong
    whatever is played, of a bundle or backend.
    """

    def __init__(self, flags: Mapping[str, Any]) -> None:
        self._flags = {"sources.pace": "max", **flags}
        config = load_config(None, self._flags)
        check_settings(source_spec(config.sources))
        self._running = Running(engine_options(config))

    @property
    def bundle_id(self) -> str:
        """The sha256 of the manifest of what plays."""
        return self._running.engines.bundle_id

    @property
    def labels(self) -> tuple[str, ...]:
        """What it tells apart; () when it gives a value."""
        return tuple(self._running.engines.manifest.labels)

    def play(
        self,
        location: str,
        flags: Mapping[str, Any] | None = None,
        baselines: Baselines | None = None,
        which: str = "",
    ) -> Story:
        """A file from its beginning to its end; `flags` are of this file alone. Raises the ClcrError of a bad one.

        Meanwhile a line on standard error says how far it is, with `which` behind its name. Without `baselines` the
        story's notes say what a recording was recorded with and is played without.
        """
        config = load_config(None, {**self._flags, "sources.input": location, **(flags or {})})
        options = replace(only_stream(config, None), origin_ns=0)
        check([options])
        kept = _Kept()
        length_s = _length_s(location, options.sources.span)
        manifest = self._running.engines.manifest
        notes = not_taken_over(options, manifest) if baselines is None else []
        hooks = Hooks(sinks=(kept,), baselines=baselines or {})
        with (
            StatusLine(lambda _: progress(f"{location}{which}", kept.last, length_s), sys.stderr),
            PredictionStream(self._running, options, hooks, RECORDING_PREDICTIONS, None) as stream,
        ):
            for _ in stream:
                pass
            notes += [f"{one.kind} {one.name}: {one.reason}" for one in stream.sources() if one.state == "failed"]
        return make_story(kept.messages, location, notes)

    def close(self) -> None:
        """Let go of the engines. Idempotent."""
        self._running.close()

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _length_s(location: str, span: Span) -> float | None:
    """How long a media file is, or its part, by its index; None where that is not known beforehand."""
    path = Path(location.removeprefix("file://")).expanduser()
    if path.suffix in KINDS or not path.is_file():
        return None if span.end_s is None else span.end_s - span.start_s
    with open_file(location, BOTH, 16_000, lambda _: None) as reader:
        ends_s = [end_s for end_s in (reader.length_s, span.end_s) if end_s is not None]
    return max(0.0, min(ends_s) - span.start_s) if ends_s else None
