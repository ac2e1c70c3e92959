"""`clcr-stream view` as a child process, and pages that read what it serves, as a browser's do."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from bench.command import BenchError, UsageError
from bench.product import ended, environment

LEAVES_S = 10.0


@dataclass
class Page:
    """What an open page has been told so far."""

    updates: int = 0
    rows: int = 0  # predictions, those from before it was opened included


def need_websockets() -> None:
    """Raises UsageError where the extra `view` is missing."""
    if find_spec("websockets") is None:
        raise UsageError("this needs the packages of clcr-stream[view]: pip install -e '.[view]'")


@contextmanager
def dashboard(endpoint: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and the WebSocket's URL; killed at the end."""
    command = [sys.executable, "-m", "clcr_stream", "view", endpoint]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(), text=True)
    with ended(process):
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url.startswith("http://"):
            raise BenchError("clcr-stream view gave no address")
        host, _, token = url.removeprefix("http://").partition("/#token=")
        yield process, f"ws://{host}/socket?token={token}"


@contextmanager
def opened(url: str, stream: str) -> Iterator[Page]:
    """A page that watches a stream and reads all it is told."""
    from websockets.sync.client import connect

    page = Page()
    with connect(url, proxy=None, max_size=None) as socket:
        socket.send(json.dumps({"watch": stream}))
        reading = threading.Thread(target=_read, args=(socket, page), daemon=True)
        reading.start()
        yield page
    reading.join(LEAVES_S)


def _read(socket: Any, page: Page) -> None:
    for text in socket:
        page.updates += 1
        page.rows += len(json.loads(text).get("rows", ()))
