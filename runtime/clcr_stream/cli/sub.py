"""`clcr-stream sub`: a stream's messages as lines, for a person or a script."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Sequence

from clcr_stream.cli import signals
from clcr_stream.cli.arguments import EXIT_CODES, Parser, add_curve, check_seconds, curve_of
from clcr_stream.cli.standard_streams import put
from clcr_stream.errors import ConfigError, PublishError
from clcr_stream.wire.client import Received, Subscriber
from clcr_stream.wire.messages import KINDS, Kind, Prediction, Session, Tokens, Transcript, encode

EXAMPLES = """examples:
  clcr-stream sub                                    predictions of the user's own stream
  clcr-stream sub tcp://127.0.0.1:5556 --topics prediction,status --json
  clcr-stream sub --count 1 --timeout 5 --json       one prediction, for a script
"""
TURN_MS = 200  # how soon a signal or the time-out is noticed


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
        "--topics", default="prediction", help="of session,prediction,transcript,status,tokens (default: prediction)"
    )
    flags.add_argument("--count", type=int, metavar="N", help="end after N messages, 1 or more")
    flags.add_argument("--timeout", type=float, metavar="SECONDS", help="exit 6 when nothing comes for so long")
    flags.add_argument("--json", action="store_true", help="print each payload as one line of JSON")
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
    stop = threading.Event()
    with (
        signals.handled(signals.ENDING, stop.set, once=True),
        Subscriber(flags.endpoint, flags.stream, topics, curve=curve) as subscriber,
    ):
        _print_messages(subscriber, flags, stop)
    return 0


def _topics(text: str) -> list[Kind]:
    names = {name.strip() for name in text.split(",")}
    if not names <= set(KINDS):
        raise ConfigError(f"--topics {text!r}: allowed are {', '.join(KINDS)}, separated by commas")
    return [kind for kind in KINDS if kind in names]


def _print_messages(subscriber: Subscriber, flags: argparse.Namespace, stop: threading.Event) -> None:
    """PublishError when nothing came for `--timeout` seconds."""
    printed = 0
    while not stop.is_set() and printed != flags.count:
        received = subscriber.receive(timeout_ms=TURN_MS)
        if received is not None:
            printed += 1
            put(encode(received.message).decode() if flags.json else line(received))
        elif flags.timeout is not None and subscriber.silence_ms > 1000 * flags.timeout:
            where = " and ".join(subscriber.endpoints)
            raise PublishError(f"nothing on {where} for {flags.timeout:g} s; is `clcr-stream` running there?")


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
        case Session():
            text = f"session {message.session}, bundle {message.bundle_name}, {message.backend}"
        case _:
            text = f"{message.state}, published {message.ticks.published} of {message.ticks.due} ticks"
    return f"{message.seq:>8}  {text}{age}{missed}"


def _answer(prediction: Prediction) -> str:
    if prediction.label is not None and prediction.confidence is not None:
        return f"{prediction.label} {prediction.confidence:.2f}"
    return "no answer" if prediction.value is None else f"{prediction.value}"
