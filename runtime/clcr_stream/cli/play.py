"""Files played through one set of engines, one after the other, for the commands that sum up or compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from clcr_stream.config import engine_options, load_config, only_stream, source_spec
from clcr_stream.embedding.streams import PredictionStream
from clcr_stream.inference.baselines import Baselines
from clcr_stream.recording.story import Story, make_story
from clcr_stream.run import check
from clcr_stream.sources.choose import check_settings
from clcr_stream.streams.mailbox import RECORDING_PREDICTIONS
from clcr_stream.streams.running import Running
from clcr_stream.streams.stream import Hooks
from clcr_stream.wire import messages


class _Kept:
    """A sink that keeps every message."""

    def __init__(self) -> None:
        self.messages: list[messages.Message] = []

    def write(self, message: messages.Message) -> None:
        self.messages.append(message)


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

    def play(self, location: str, flags: Mapping[str, Any] | None = None, baselines: Baselines | None = None) -> Story:
        """A file from its beginning to its end; `flags` are of this file alone. Raises the ClcrError of a bad one."""
        config = load_config(None, {**self._flags, "sources.input": location, **(flags or {})})
        options = replace(only_stream(config, None), origin_ns=0)
        check([options])
        kept = _Kept()
        limit = RECORDING_PREDICTIONS
        with PredictionStream(
            self._running, options, Hooks(sinks=(kept,), baselines=baselines or {}), limit, None
        ) as stream:
            for _ in stream:
                pass
            notes = [f"{one.kind} {one.name}: {one.reason}" for one in stream.sources() if one.state == "failed"]
        return make_story(kept.messages, location, notes)

    def close(self) -> None:
        """Let go of the engines. Idempotent."""
        self._running.close()

    def __enter__(self) -> Player:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
