"""`clcr-stream sub`: a stream's messages as lines, for a person or a script."""

from __future__ import annotations

import argparse
import math
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from clcr_stream.cli import signals
from clcr_stream.cli.arguments import EXIT_CODES, Parser, add_curve, check_seconds, curve_of
from clcr_stream.cli.columns import Columns, fields_of
from clcr_stream.cli.standard_streams import put, say
from clcr_stream.cli.where import HELP, Condition, Plain, parse_where, plain
from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import ConfigError, PublishError
from clcr_stream.wire.client import Received, Subscriber
from clcr_stream.wire.messages import KINDS, Event, Kind, Prediction, Session, Tokens, Transcript, encode
from clcr_stream.wire.running import not_running, running_sessions, stream_at

EXAMPLES = """examples:
  clcr-stream sub                                    predictions of the user's own stream
  clcr-stream sub tcp://127.0.0.1:5556 --topics prediction,status --json
  clcr-stream sub --count 1 --timeout 5 --json       one prediction, for a script
  clcr-stream sub --where "label == anger and confidence > 0.6"
  clcr-stream sub --every --csv >talk.csv            a spreadsheet, not one prediction left out
  clcr-stream sub --table --fields label,confidence,modalities.vision.quality
"""
TURN_MS = 200  # how soon a signal or the time-out is noticed
SILENT_S = 2.0  # without a first message, before a line says what is waited for


def parser() -> Parser:
    """The flags of `sub`."""
    flags = Parser(
        prog="clcr-stream sub",
        description="Print a stream's messages as they arrive, the newest of each topic.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
    )
    flags.add_argument("endpoint", nargs="?", help="ipc:///PATH or tcp://ADDRESS:PORT (default: the user's own stream)")
    flags.add_argument("--stream", default="default", help="name of the stream (default: default)")
    flags.add_argument(
        "--topics",
        default="prediction",
        help="of session,prediction,transcript,status,tokens,event (default: prediction)",
    )
    flags.add_argument("--count", type=int, metavar="N", help="end after N messages, 1 or more")
    flags.add_argument("--timeout", type=float, metavar="SECONDS", help="exit 6 when nothing is printed for so long")
    flags.add_argument("--where", metavar="EXPR", help=f"only messages for which this holds; {HELP}")
    flags.add_argument("--every", action="store_true", help="each message in order, not the newest of those that wait")
    shape = flags.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print each payload as one line of JSON")
    shape.add_argument("--csv", action="store_true", help="print one topic as a table for a spreadsheet")
    shape.add_argument("--table", action="store_true", help="print one topic in columns")
    flags.add_argument("--fields", metavar="LIST", help="columns of --csv and --table: seq,label,probs.anger,age_ms")
    add_curve(flags)
    return flags


def command(arguments: Sequence[str]) -> int:
    """Print messages until `--count` are there, a signal comes or the reader of our output has gone."""
    flags = parser().parse_args(arguments)
    curve = curve_of(flags)
    if flags.count is not None and flags.count < 1:
        raise ConfigError(f"--count {flags.count}: must be 1 or more; leave it out to go on until Ctrl-C")
    check_seconds("--timeout", flags.timeout)
    topics = _topics(flags.topics)
    show = _shape(flags, topics)
    wanted = None if flags.where is None else parse_where(flags.where, topics)
    stop = threading.Event()
    with (
        signals.handled(signals.ENDING, stop.set, once=True),
        Subscriber(flags.endpoint, flags.stream, topics, curve=curve, every=flags.every) as subscriber,
    ):
        _print_messages(subscriber, flags, stop, partial(_lines, wanted=wanted, show=show))
    return 0


def _topics(text: str) -> list[Kind]:
    names = {name.strip() for name in text.split(",")}
    if not names <= set(KINDS):
        raise ConfigError(f"--topics {text!r}: allowed are {', '.join(KINDS)}, separated by commas")
    return [kind for kind in KINDS if kind in names]


def _shape(flags: argparse.Namespace, topics: Sequence[Kind]) -> Callable[[Received], list[str]]:
    """What prints a message as the flags say. ConfigError for columns of several topics."""
    if flags.json:
        return lambda received: [encode(received.message).decode()]
    if not (flags.csv or flags.table):
        if flags.fields is not None:
            raise ConfigError("--fields are columns; give --csv or --table too")
        return lambda received: [line(received)]
    if len(topics) > 1:
        raise ConfigError(f"--topics {flags.topics}: columns are those of one topic; give one, or --json for several")
    columns = Columns(fields_of(flags.fields, topics[0]), flags.csv)
    return lambda received: columns.lines(_plain(received))


def _lines(received: Received, wanted: Condition | None, show: Callable[[Received], list[str]]) -> list[str]:
    return show(received) if wanted is None or wanted(_plain(received)) else []


def _plain(received: Received) -> dict[str, Plain]:
    return plain(received.message, age_ms=received.age_ms, missed=received.missed, new_session=received.new_session)


def _print_messages(
    subscriber: Subscriber,
    flags: argparse.Namespace,
    stop: threading.Event,
    lines_of: Callable[[Received], list[str]],
) -> None:
    """PublishError when nothing was printed for `--timeout` seconds; without it a line says once that nothing comes."""
    printed = 0
    refusal = ""
    last_ns = time.monotonic_ns()
    say_ns = last_ns + SILENT_S * NS_PER_S if flags.timeout is None else math.inf
    while not stop.is_set() and printed != flags.count:
        received = subscriber.receive(timeout_ms=TURN_MS)
        if subscriber.refusal != refusal:
            refusal = subscriber.refusal
            if refusal and flags.timeout is None:
                say(f"waiting: {refusal}")
        if received is not None or refusal:
            say_ns = math.inf
        elif time.monotonic_ns() > say_ns:
            say_ns = math.inf
            say(f"waiting: {_nothing(subscriber, flags, SILENT_S)}")
        if received is not None:
            lines = lines_of(received)
            printed += bool(lines)
            for text in lines:
                put(text)
                last_ns = time.monotonic_ns()
        if flags.timeout is not None and time.monotonic_ns() - last_ns > flags.timeout * NS_PER_S:
            raise PublishError(refusal or _nothing(subscriber, flags, flags.timeout))


def _nothing(subscriber: Subscriber, flags: argparse.Namespace, waited_s: float) -> str:
    """Why nothing was printed: nothing came, or nothing that was wanted."""
    where = " and ".join(subscriber.endpoints)
    if flags.where is not None and subscriber.silence_ms < 1000 * waited_s:
        return f"no message on {where} for which --where {flags.where!r} holds, for {waited_s:g} s"
    return f"nothing on {where} for {waited_s:g} s; {_there(flags)}"


def _there(flags: argparse.Namespace) -> str:
    """What runs where nothing comes from, and what to say to read it."""
    if flags.endpoint is None:
        sessions = running_sessions()
        names, told = [one.stream for one in sessions], not_running(flags.stream, sessions)
    else:
        found = stream_at(flags.endpoint, curve_of(flags))
        if found is None:
            return "is `clcr-stream` running there?"
        names, told = [found], f"the stream there is {found!r}"
    if flags.stream in names:
        return f"{flags.stream!r} runs there, and no {flags.topics} has come yet"
    return f"{told}; give --stream {' or '.join(names)}" if names else told


def line(received: Received) -> str:
    """A message for a person."""
    message = received.message
    age = "" if received.age_ms is None else f"  {received.age_ms:.0f} ms old"
    missed = f"  {received.missed} missed" if received.missed else ""
    match message:
        case Prediction():
            text = _answer(message)
            text += f"  {','.join(message.degraded)}" if message.degraded else ""
        case Transcript():
            text = repr(message.text)
        case Tokens():
            counts = (sum(map(bool, level[2])) for level in (message.vision, message.acoustic, message.language))
            text = "take part at level 3: vision {}, acoustic {}, language {}".format(*counts)
        case Event():
            text = f"changed to {message.label or message.reason}"
            if message.previous_s is not None:
                text += f" ({message.previous or 'none clear'} for {message.previous_s:g} s)"
        case Session():
            text = f"session {message.session}, bundle {message.bundle_name}, {message.backend}"
        case _:
            text = f"{message.state}, published {message.ticks.published} of {message.ticks.due} ticks"
    return f"{message.seq:>8}  {text}{age}{missed}"


def _answer(prediction: Prediction) -> str:
    if prediction.label is not None and prediction.confidence is not None:
        return f"{prediction.label} {prediction.confidence:.2f}"
    return "no answer" if prediction.value is None else f"{prediction.value}"
