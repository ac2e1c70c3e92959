"""`clcr-stream replay`: the media of a recording through the loop again, and whether the predictions are the same."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from clcr_stream.cli.arguments import EXIT_CODES, Parser
from clcr_stream.cli.files import check_new_file, check_suffix, new_file
from clcr_stream.cli.play import Player
from clcr_stream.cli.standard_streams import put, put_json, say
from clcr_stream.errors import ClcrError, ConfigError
from clcr_stream.recording.compare import TOLERANCE, Comparison, compare
from clcr_stream.recording.page import comparison_page
from clcr_stream.recording.reader import Recording
from clcr_stream.recording.seen import clock_text
from clcr_stream.recording.source import open_media
from clcr_stream.recording.story import Story, read_story
from clcr_stream.streams.profile import decode_baselines

EXAMPLES = """examples:
  clcr-stream replay talk.mcap                       again with the same bundle: are the predictions the same?
  clcr-stream replay talk.mcap --bundle engines/new  what another bundle says of the same moments
  clcr-stream replay talk.mcap --gamma 0 --out diff.html
  clcr-stream replay talk.mcap --against there.mcap  against the predictions of another recording
"""
FOREIGN_BASELINES = (
    "recorded with the baselines of a person, which fit its own bundle alone; replayed without them, so not every "
    "difference is the bundle's"
)
SHOWN = 10  # changes that are printed one by one


def parser() -> Parser:
    """The flags of `replay`."""
    flags = Parser(
        prog="clcr-stream replay",
        description="Run the media of a recording (--record-media) through the loop again and compare the predictions.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}\n  1 also when the predictions differ, or cannot be compared",
    )
    flags.add_argument("recording", metavar="FILE.mcap", help="made with --record FILE.mcap --record-media")
    flags.add_argument("--against", metavar="FILE", help="compare with these predictions instead: .mcap or .jsonl")
    flags.add_argument("--bundle", metavar="DIR", help="engine bundle (default: the one that is shipped)")
    flags.add_argument("--backend", metavar="NAME", help="auto (default), onnxruntime, tensorrt")
    flags.add_argument("--gamma", type=float, help="scale of the exchange budget (default: that of the recording)")
    flags.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help=f"largest difference that is none (default: {TOLERANCE})"
    )
    flags.add_argument("--out", metavar="FILE.html", help="also a page with both runs, one over the other")
    flags.add_argument("--json", action="store_true", help="print the comparison as one JSON object")
    return flags


def command(arguments: Sequence[str]) -> int:
    """Replay and compare; 0 when all recorded predictions came again within the tolerance, else 1."""
    flags = parser().parse_args(arguments)
    if not (math.isfinite(flags.tolerance) and flags.tolerance >= 0):
        raise ConfigError(f"--tolerance {flags.tolerance:g}: must be a number of 0 or more")
    if flags.out is not None:
        check_suffix(flags.out, "--out", ".html")
        check_new_file(flags.out, "--out")
    recording = open_media(flags.recording, "input")
    recorded = read_story(Path(flags.against or flags.recording).expanduser())
    with Player(_engine_flags(flags)) as player:
        kept = recording.about.get("baselines")
        where = f"the baselines in {flags.recording}"
        baselines = {} if kept is None else decode_baselines(kept.encode(), player.bundle_id, where)
        replayed = player.play(flags.recording, _stream_flags(flags, recording), baselines)
    left_out = [FOREIGN_BASELINES] if kept is not None and not baselines else []
    _check_played(replayed, flags.recording)
    # The recording is played from its own beginning, wherever that lies in what was recorded.
    recorded = replace(recorded, session=msgspec.structs.replace(recorded.session, begins_s=0.0))
    result = compare(recorded.predictions, replayed.predictions, recorded.session.hop_ns, flags.tolerance)
    if flags.out is not None:
        with new_file(flags.out, "--out") as file:
            file.write(comparison_page(recorded, replayed, result, Path(flags.recording).name))
    for note in (*recorded.notes, *left_out, *_differences(recorded, replayed)):
        say(f"note: {note}")
    if flags.json:
        put_json(
            {"recording": flags.recording, "against": flags.against, **_identities(recorded, replayed)}
            | {"tolerance": flags.tolerance, **result.as_json()}
        )
    else:
        for line in _lines(result, flags):
            put(line)
    return 0 if result.same else ClcrError.exit_code


def _engine_flags(flags: argparse.Namespace) -> dict[str, Any]:
    return {"model.bundle": flags.bundle, "model.backend": flags.backend, "sources.transcript": "auto"}


def _stream_flags(flags: argparse.Namespace, recording: Recording) -> dict[str, Any]:
    """What the recorded session was run with, where the flags say nothing else."""
    return {
        "model.gamma": flags.gamma if flags.gamma is not None else recording.number("gamma"),
        "person.calibrate_s": recording.number("calibrate_s"),
    }


def _check_played(replayed: Story, name: str) -> None:
    if not replayed.predictions:
        raise ClcrError(f"replay {name}: nothing could be predicted ({'; '.join(replayed.notes) or 'no media'})")


def _identities(recorded: Story, replayed: Story) -> dict[str, object]:
    return {
        "recorded_bundle": recorded.session.bundle,
        "replayed_bundle": replayed.session.bundle,
        "recorded_gamma": _gamma(recorded),
        "replayed_gamma": _gamma(replayed),
    }


def _gamma(story: Story) -> float | None:
    return story.predictions[0].budget.gamma if story.predictions else None


def _differences(recorded: Story, replayed: Story) -> list[str]:
    """Why the predictions may differ: another bundle, gamma or backend, or a session that was overrun."""
    notes = list(replayed.notes)
    one, other = recorded.session, replayed.session
    if one.bundle != other.bundle:
        notes.append(
            f"recorded with bundle {one.bundle_name} ({one.bundle[:12]}), replayed with {other.bundle_name} "
            f"({other.bundle[:12]})"
        )
    if _gamma(recorded) != _gamma(replayed):
        notes.append(f"recorded with gamma {_gamma(recorded)}, replayed with {_gamma(replayed)}")
    if one.backend != other.backend:
        notes.append(f"recorded with {one.backend}, replayed with {other.backend}")
    overrun = 0 if recorded.status is None else recorded.status.ticks.skipped.get("overrun", 0)
    if overrun:
        notes.append(f"the session was overrun and left out {overrun} ticks; what followed differs for a window")
    record = None if recorded.status is None else recorded.status.record
    if record is not None and record.dropped:
        notes.append(f"{record.dropped} messages were lost while recording")
    return notes


def _lines(result: Comparison, flags: argparse.Namespace) -> list[str]:
    if result.incomparable is not None:
        return [result.told]
    lines = [
        f"{result.compared} predictions compared, {result.missing} did not come again, {result.added} came more",
        result.told,
    ]
    for change in sorted(result.changes, key=lambda one: one.difference, reverse=True)[:SHOWN]:
        lines.append(
            f"  tick {change.tick} at {clock_text(change.time_s)}: {change.before} -> {change.after} "
            f"({change.difference:.2g})"
        )
    if len(result.changes) > SHOWN:
        lines.append(f"  and {len(result.changes) - SHOWN} smaller ones; --json has all")
    lines.append("same" if result.same else f"different (tolerance {flags.tolerance:g})")
    return lines
