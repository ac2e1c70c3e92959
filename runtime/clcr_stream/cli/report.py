"""`clcr-stream report`: a session or a clip as one page."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from clcr_stream.cli.arguments import CLIP_FLAGS, EXIT_CODES, Parser, add_clips, clip_flags
from clcr_stream.cli.files import check_new_file, check_suffix, new_file
from clcr_stream.cli.sessions import read_session
from clcr_stream.cli.standard_streams import say
from clcr_stream.errors import ClcrError, ConfigError
from clcr_stream.recording.page import page
from clcr_stream.recording.poster import check_png, poster, to_png
from clcr_stream.recording.story import Story

EXAMPLES = """examples:
  clcr-stream report --input talk.mp4 --out talk.html      watch a clip and report on it
  clcr-stream report talk.mcap --out talk.html             of a recording
  clcr-stream report talk.jsonl --out talk.html            of the lines of --output
  clcr-stream report talk.mcap --png talk.png              as one picture
"""


def parser() -> Parser:
    """The flags of `report`."""
    flags = Parser(
        prog="clcr-stream report",
        description="Write one page about a session: emotions over time with the words, shares, strongest moments, "
        "what was missing. It needs no network and holds the words, but no picture and no sound.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
    )
    flags.add_argument("file", metavar="FILE", nargs="?", help="a recording (.mcap) or the JSON lines of --output")
    flags.add_argument("--input", metavar="CLIP", help="a video or sound file to be watched now, in place of FILE")
    flags.add_argument("--out", metavar="FILE.html", help="the page, a new file")
    flags.add_argument("--png", metavar="FILE.png", help="the page as one picture, a new file; needs the extra png")
    flags.add_argument("--session", metavar="ID", help="of a FILE with several sessions (default: the last)")
    add_clips(flags, "how the CLIP of --input is watched")
    return flags


def command(arguments: Sequence[str]) -> int:
    """Write the page."""
    flags = parser().parse_args(arguments)
    if flags.out is None and flags.png is None:
        raise ConfigError("report: give --out FILE.html, --png FILE.png, or both")
    if (flags.file is None) == (flags.input is None):
        raise ConfigError("report: give a FILE, or --input CLIP, and not both; see `clcr-stream report --help`")
    of_clips = [name for name in CLIP_FLAGS if getattr(flags, name) is not None]
    if flags.input is None and of_clips:
        raise ConfigError(
            f"report: --{of_clips[0].replace('_', '-')} goes with --input CLIP; {flags.file} is reported as it is"
        )
    _check_files(flags)
    story = _story(flags)
    given = flags.input if flags.input is not None else flags.file
    name = Path(given).name if "://" not in given else given
    if flags.png is not None:
        picture = to_png(poster(story, name))
        with new_file(flags.png, "--png") as file:
            file.buffer.write(picture)
    if flags.out is not None:
        with new_file(flags.out, "--out") as file:
            file.write(page(story, name))
    made = " and ".join(target for target in (flags.out, flags.png) if target is not None)
    say(f"{made}: {len(story.predictions)} predictions, {len(story.words)} segments of words")
    return 0


def _check_files(flags: argparse.Namespace) -> None:
    """Before a clip is watched for nothing."""
    if flags.out is not None:
        check_suffix(flags.out, "--out", ".html", "; a picture is --png FILE.png")
        check_new_file(flags.out, "--out")
    if flags.png is not None:
        check_suffix(flags.png, "--png", ".png", "; a page is --out FILE.html")
        check_new_file(flags.png, "--png")
        check_png(f"--png {flags.png!r}")


def _story(flags: argparse.Namespace) -> Story:
    if flags.input is None:
        results = [("--out", flags.out), ("--png", flags.png)]
        given = [part for result in results if result[1] is not None for part in result]
        watch = shlex.join(["clcr-stream", "report", "--input", flags.file, *given])
        story = read_session(flags.file, flags.session, f"run {watch}")
    else:
        from clcr_stream.cli.play import Player

        with Player(clip_flags(flags)) as player:
            story = player.play(flags.input)
    for note in story.notes:
        say(f"note: {note}")
    if not story.predictions:
        raise ClcrError(f"{flags.file or flags.input}: holds no prediction, so there is nothing to report")
    return story
