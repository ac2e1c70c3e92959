"""The outbox without a socket: its heartbeat comes each second, and at once when somebody asks."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgspec
import pytest

from clcr_stream.wire.messages import Message, Status, decode
from clcr_stream.wire.outbox import Outbox

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "wire"


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.came = threading.Semaphore(0)

    def write(self, message: Message) -> None:
        self.messages.append(message)
        self.came.release()


def status() -> Status:
    message = decode((GOLDEN / "status.json").read_bytes())
    assert isinstance(message, Status)
    return msgspec.structs.replace(message, seq=0)


@pytest.mark.parametrize("asked", [1, 3])
def test_a_heartbeat_that_is_asked_for_comes_at_once_and_the_goodbye_last(asked: int) -> None:
    kept = Kept()
    with Outbox("default", None, status) as outbox:
        outbox.add(kept)
        begun = time.monotonic()
        for _ in range(asked):
            outbox.beat()
            assert kept.came.acquire(timeout=30)
        assert time.monotonic() - begun < 0.9 * asked, "it was not waited for the next second"
    sent = [message for message in kept.messages if isinstance(message, Status)]
    assert [message.state for message in sent] == ["degraded"] * (len(sent) - 1) + ["goodbye"]
    assert [message.seq for message in sent] == list(range(1, len(sent) + 1))
