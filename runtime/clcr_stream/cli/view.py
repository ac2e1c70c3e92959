"""`clcr-stream view`: a page in the browser of this machine that shows what running sessions see, hear and answer."""

from __future__ import annotations

import importlib.util
import signal
import threading
from collections.abc import Sequence

from clcr_stream.cli import signals
from clcr_stream.cli.arguments import EXIT_CODES, Parser, add_reading, curve_of
from clcr_stream.cli.standard_streams import put, say
from clcr_stream.errors import ConfigError, PublishError, one_line

EXAMPLES = """examples:
  clcr-stream view                                   your running sessions; open the URL that it prints
  clcr-stream view left right --port 8420
  ssh -L 8420:127.0.0.1:8420 ROBOT                   then, on the robot: clcr-stream view --port 8420
"""
_PACKAGES = ("starlette", "uvicorn", "websockets")
_LOOK_S = 0.2


def parser() -> Parser:
    """The flags of `view`."""
    flags = Parser(
        prog="clcr-stream view",
        description="Serve a page on 127.0.0.1 that shows running sessions; nobody reads it without the URL's token.",
        epilog=f"{EXAMPLES}\n{EXIT_CODES}",
    )
    add_reading(flags)
    flags.add_argument("--port", type=int, default=0, metavar="N", help="port on 127.0.0.1 (default: any free one)")
    return flags


def command(arguments: Sequence[str]) -> int:
    """Serve until a signal comes."""
    flags = parser().parse_args(arguments)
    if not 0 <= flags.port <= 65535:
        raise ConfigError(f"--port {flags.port}: allowed are 0 (any free one) to 65535")
    if any(importlib.util.find_spec(name) is None for name in _PACKAGES):
        raise ConfigError('view needs packages that are not installed: pip install "clcr-stream[view]"')
    from clcr_stream.dashboard.hub import KEPT_S
    from clcr_stream.dashboard.server import Dashboard
    from clcr_stream.wire.watcher import Watcher, place_of

    places = [place_of(text) for text in flags.endpoints]
    stop = threading.Event()
    with (
        signals.handled((*signals.ENDING, signal.SIGHUP), stop.set, once=True),
        Watcher(places, curve_of(flags), KEPT_S) as watcher,
        Dashboard(watcher, flags.port) as dashboard,
    ):
        put(dashboard.url)
        say("open this address in a browser of this machine; Ctrl-C ends")
        while not stop.is_set() and not dashboard.ended.wait(_LOOK_S):
            pass
        if dashboard.failure is not None:
            raise PublishError(f"the dashboard has failed: {one_line(str(dashboard.failure))}")
    return 0
