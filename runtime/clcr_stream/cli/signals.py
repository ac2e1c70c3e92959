"""Signals and the terminal: what ends a command, from the first line of the program to its last.

Imports nothing slow, so that the handlers stand before anything else is imported. The exit code after SIGINT or SIGTERM
is 0 for a session and for `sub`; the other commands die of the signal, as a script that asked them something expects.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial

ENDING = (signal.SIGINT, signal.SIGTERM)
LOOK_S = 1.0  # how often a session looks whether its terminal is still there
HANGUP_S = 0.3  # a shell that ends sends SIGHUP a moment before its terminal goes


def end_at_once() -> None:
    """For the process: a signal ends it with exit code 0 and no traceback, as long as nothing is open.

    A SIGHUP that was ignored at the start (by nohup) stays so.
    """
    for number in (*ENDING, signal.SIGHUP):
        if number != signal.SIGHUP or not hangup_ignored():
            signal.signal(number, _leave)


def _leave(_number: int, _frame: object) -> None:
    os._exit(0)


def die_of() -> None:
    """For the process: SIGINT kills it as SIGTERM does, without a traceback, also while native code runs."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def hangup_ignored() -> bool:
    """True when SIGHUP does nothing here, as below nohup."""
    return signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def has_terminal() -> bool:
    """True while the process has a controlling terminal; false for a service, and once the terminal was closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def handled(numbers: Sequence[signal.Signals], act: Callable[[], object], once: bool = False) -> Iterator[None]:
    """Call `act`, which must take no lock, when a signal comes; with `once` the second one ends the process at once.

    Outside the main thread, where Python allows no handlers, nothing is handled.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: object) -> None:
        if once:
            signal.signal(number, signal.SIG_DFL)
        act()

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def dying(last_words: Callable[[], str | None]) -> Iterator[None]:
    """SIGINT and SIGTERM still kill the process, after a line on standard error; `last_words` must take no lock."""

    def die(number: signal.Signals) -> None:
        from clcr_stream.cli.standard_streams import say_at_once

        text = last_words()
        if text is not None:
            say_at_once(text)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    with contextlib.ExitStack() as stack:
        for number in ENDING:
            stack.enter_context(handled((number,), partial(die, number)))
        yield


@contextlib.contextmanager
def hangup_handled(end: Callable[[], object], reload: Callable[[], object] | None) -> Iterator[None]:
    """A session that loses its terminal ends; another SIGHUP is for `reload`, or ends it too when there is none.

    A terminal that goes without a signal, as for a job in the background, counts as well. Below nohup the session
    outlives its terminal.
    """
    ignored = hangup_ignored()
    if ignored and reload is None:
        yield
        return
    watch = _HangupWatch(end, reload, watches=not ignored and has_terminal())
    with handled((signal.SIGHUP,), watch.signalled), watch:
        yield


class _HangupWatch:
    """The thread that decides what a SIGHUP means; a context manager."""

    def __init__(self, end: Callable[[], object], reload: Callable[[], object] | None, watches: bool) -> None:
        self._end = end
        self._reload = reload
        self._watches = watches
        from clcr_stream.clock import Wake  # here: handlers stand before anything slow is imported

        self._wake = Wake()
        self._hangups = 0  # written by the signal handler alone, which must take no lock
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clcr-hangup", daemon=True)

    def signalled(self) -> None:
        """A SIGHUP came; called in the signal handler."""
        self._hangups += 1
        self._wake.set()

    def __enter__(self) -> _HangupWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._wake.set()
        self._thread.join()
        self._wake.close()

    def _run(self) -> None:
        handled = 0
        while not self._over.is_set():
            self._wake.wait(LOOK_S)
            hangup = self._hangups != handled
            if hangup and self._watches and not self._gone():
                self._wake.wait(HANGUP_S)
            handled = self._hangups
            if self._over.is_set():
                return
            if self._gone() or (hangup and self._reload is None):
                self._end()
                return
            if hangup and self._reload is not None:
                self._reload()

    def _gone(self) -> bool:
        return self._watches and not has_terminal()
