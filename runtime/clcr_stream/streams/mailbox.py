"""Predictions on their way from the loop to one reader in the same process.

The loop never waits for a reader. A live stream keeps the newest prediction alone and counts those that a slow reader
did not get; a recording keeps them all, and holds its next hop back while the box is full.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from clcr_stream.errors import ClcrError, one_line
from clcr_stream.wire import messages

RECORDING_PREDICTIONS = 64  # kept for the reader of a recording before its stream waits


def nobody() -> None:
    """Nobody waits for room."""


class Mailbox:
    """A sink that one reader empties; `limit` None keeps every prediction, `newest_only` drops the older ones.

    `on_room` is called, in the reader's thread, when a full box has room again.
    """

    def __init__(
        self, newest_only: bool, limit: int | None = RECORDING_PREDICTIONS, on_room: Callable[[], object] = nobody
    ) -> None:
        self._newest_only = newest_only
        self._limit = limit
        self._on_room = on_room
        self._changed = threading.Condition()
        self._waiting: deque[messages.Prediction] = deque()
        self._ended = False
        self._discards = False
        self._error: ClcrError | None = None
        self.missed = 0  # predictions that were replaced by newer ones before they were read
        self.session: messages.Session | None = None  # what the stream's predictions mean, once it has begun

    @property
    def has_room(self) -> bool:
        """Whether the next prediction of a recording may come. Any thread."""
        return self._newest_only or self._limit is None or len(self._waiting) < self._limit

    @property
    def ended(self) -> bool:
        """Whether no further prediction will come; some may still wait."""
        return self._ended

    def write(self, message: messages.Message) -> None:
        """Keep a prediction for the reader; never waits."""
        if isinstance(message, messages.Session):
            self.session = message
        if not isinstance(message, messages.Prediction):
            return
        with self._changed:
            if self._discards:
                return
            if self._newest_only and self._waiting:
                self._waiting.clear()
                self.missed += 1
            self._waiting.append(message)
            self._changed.notify_all()

    def end(self, error: ClcrError | None = None) -> None:
        """Nothing more will come; `error` is what ended the stream. Only the first call counts."""
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
            self._changed.notify_all()

    def discard(self) -> None:
        """Nobody reads any more: drop what waits and what still comes."""
        with self._changed:
            self._discards = True
            self._waiting.clear()
            self._changed.notify_all()
        self._on_room()

    def take(self, timeout_s: float | None = None) -> messages.Prediction | None:
        """The oldest prediction that waits; None at the end of the stream, or when `timeout_s` has passed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended or self._discards, timeout_s)
            if not self._waiting:
                return None
            was_full = not self.has_room
            prediction = self._waiting.popleft()
        if was_full:
            self._on_room()
        return prediction

    def wait(self, timeout_s: float | None = None) -> bool:
        """Block until the stream has ended; False when `timeout_s` passed first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ended, timeout_s)

    def raise_error(self) -> None:
        """Raise what ended the stream, the first time; later calls do nothing."""
        error, self._error = self._error, None
        if error is not None:
            raise error


class Caller:
    """Calls a function with each prediction of a mailbox, on a thread of its own; `failed` hears what it raises."""

    def __init__(
        self,
        name: str,
        mailbox: Mailbox,
        function: Callable[[messages.Prediction], object],
        failed: Callable[[ClcrError], object],
    ) -> None:
        self._name = name
        self._mailbox = mailbox
        self._function = function
        self._failed = failed
        self._thread = threading.Thread(target=self._run, name=f"clcr-call {name}", daemon=True)
        self._thread.start()

    def join(self, timeout_s: float | None = None) -> None:
        """Until the last call has returned; from inside a call, at once."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            prediction = self._mailbox.take()
            if prediction is None:
                return
            try:
                self._function(prediction)
            except BaseException as error:  # the thread's edge: what a callback raises ends its stream
                what = one_line(f"{type(error).__name__}: {error}")
                failure = ClcrError(f"stream {self._name}: on_prediction raised {what}")
                failure.__cause__ = error
                self._mailbox.discard()
                self._failed(failure)
                return
