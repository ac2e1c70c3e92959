"""`clcr-stream predict`: an answer for each of a handful of files."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from clcr_stream.cli.arguments import EXIT_CODES, Parser, add_clips, clip_flags
from clcr_stream.cli.cells import printable
from clcr_stream.cli.play import Player
from clcr_stream.cli.standard_streams import put, put_json, say
from clcr_stream.cli.tables import check_csv, growing_csv
from clcr_stream.errors import BackendError, BundleError, ClcrError, ConfigError
from clcr_stream.recording.seen import Seen
from clcr_stream.recording.story import Story
from clcr_stream.recording.table import Cell

EXAMPLES = """examples:
  clcr-stream predict talk.mp4 other.wav             a line for each file
  clcr-stream predict interviews/*.mp4 --csv answers.csv
  clcr-stream predict talk.mp4 --transcript talk.srt --json
"""


def parser() -> Parser:
    """The flags of `predict`."""
    flags = Parser(
        prog="clcr-stream predict",
        description="Watch files from beginning to end, as fast as it goes, and say of each what was expressed. "
        "The label is the one with the largest mean probability over its full windows; of a clip shorter than a "
        "window, that of its last answer.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}\n  3 also when only some of the files could not be read",
    )
    flags.add_argument("files", metavar="FILE", nargs="+", help="video or sound, or a recording with media")
    add_clips(flags, "how the files are watched")
    output = flags.add_mutually_exclusive_group()
    output.add_argument("--csv", metavar="FILE|-", help="a row a file, in a new file or on standard output")
    output.add_argument("--json", action="store_true", help="an object a file, one line each")
    return flags


def command(arguments: Sequence[str]) -> int:
    """Answer for each file; the exit code of the first that could not be read, after all others."""
    flags = parser().parse_args(arguments)
    _check(flags)
    code = 0
    with Player(clip_flags(flags)) as player, _told(flags, player.labels) as tell:
        for number, name in enumerate(flags.files, 1):
            which = f" ({number} of {len(flags.files)})" if len(flags.files) > 1 else ""
            try:
                story = player.play(name, which=which)
                if not story.predictions:
                    raise ClcrError(f"{name}: nothing could be predicted; it is shorter than a hop of 0.2 s")
            except (BundleError, BackendError):
                raise
            except ClcrError as error:
                code = code or error.exit_code
                reason = " ".join(str(error).split())
                say(f"clcr-stream: error: {reason}")
                tell(name, reason)
            else:
                for note in story.notes:
                    say(f"note: {note}")
                tell(name, story)
    return code


@contextlib.contextmanager
def _told(flags: argparse.Namespace, labels: Sequence[str]) -> Iterator[Callable[[str, Story | str], None]]:
    """What tells of a file as soon as there is something to tell: its story, or why there is none."""
    if flags.csv:
        with growing_csv(flags.csv, _columns(labels)) as write:
            yield lambda name, story: write(_row(name, story, labels))
    elif flags.json:
        yield lambda name, story: put_json(_object(name, story))
    else:
        yield lambda name, story: None if isinstance(story, str) else put(line(name, story.seen()))


def _check(flags: argparse.Namespace) -> None:
    check_csv(flags.csv)
    if flags.transcript not in (None, "auto", "none") and not flags.transcript.startswith("asr:"):
        if len(flags.files) > 1:
            raise ConfigError(f"--transcript {flags.transcript}: is of one file, {len(flags.files)} are given")


def line(name: str, seen: Seen) -> str:
    """A file for a person."""
    text = f"{printable(name)}  {answer_text(seen)}  {seen.length}  {there_text(seen)}"
    return f"{text}  ({seen.note})" if seen.note else text


def answer_text(seen: Seen) -> str:
    """The answer with the shares behind it, or with its range."""
    if not seen.answers:
        return "no answer: nobody was seen or heard"
    short = "" if seen.full else " of its last answer"
    if seen.values is not None:
        return f"{seen.value:+.2f}{short} ({seen.values.low:+.2f} to {seen.values.high:+.2f})"
    shares = sorted(seen.shares.items(), key=lambda item: item[1], reverse=True)
    spoken = ", ".join(f"{other} {share:.0%}" for other, share in shares if share >= 0.005)
    return f"{seen.label} {seen.confidence:.2f}{short}  ({spoken})"


def there_text(seen: Seen) -> str:
    """How much of the time each modality was there."""
    names = {"vision": "face", "acoustic": "sound", "language": "words"}
    return ", ".join(f"{names[name]} {share:.0%}" for name, share in seen.present.items())


def _object(name: str, story: Story | str) -> dict[str, Any]:
    if isinstance(story, str):
        return {"file": name, "error": story}
    return {"file": name, "error": None, **story.seen().as_json()}


def _columns(labels: Sequence[str]) -> list[str]:
    names = ["file", "label", "confidence", "value", "value_low", "value_high", *(f"p_{one}" for one in labels)]
    return [
        *names,
        *(f"share_{one}" for one in labels),
        "duration_s",
        "face",
        "sound",
        "words",
        "note",
        "error",
        "start_s",
    ]


def _row(name: str, story: Story | str, labels: Sequence[str]) -> list[Cell]:
    if isinstance(story, str):
        return [name, *[None] * (5 + 2 * len(labels) + 5), story, None]
    seen = story.seen()
    values = seen.values
    numbers: list[Cell] = [None] * 3 if values is None else [seen.value, values.low, values.high]
    return [
        *(name, seen.label, seen.confidence, *numbers),
        *(seen.answer.get(one) for one in labels),
        *(seen.shares.get(one) for one in labels),
        *(round(seen.end_s - seen.start_s, 3), *seen.present.values(), seen.note or None, None, seen.start_s),
    ]
