"""The streams of a process: they begin together, come and go while others run, and end without holding anybody up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from clcr_stream.bundle.manifest import Manifest
from clcr_stream.clock import Clock, MonotonicClock, Wake
from clcr_stream.errors import ClcrError
from clcr_stream.inference.engines import LoadedEngines, Say
from clcr_stream.streams.loop import Loop
from clcr_stream.streams.reports import View
from clcr_stream.streams.session import Session
from clcr_stream.streams.stream import Shared, Stream, StreamOptions


class Host:
    """Opens, runs and closes streams around one loop; a context manager.

    The loop runs in the thread that calls `run`. Opening and closing wait for devices, so while the loop runs they are
    done by a thread of their own.
    """

    def __init__(self, engines: LoadedEngines, max_batch: int, started_ns: int, say: Say) -> None:
        self._say = say
        self._hop_ns = engines.manifest.hop_ns
        self._wake, self._work = Wake(), Wake()
        self._shared = Shared(engines, started_ns, self._wake.set)
        self._clock: Clock = MonotonicClock()
        self._loop = Loop(engines.levels, self._clock, self._wake, self._ended, max_batch)
        self._origin_ns: int | None = None
        self._guard = threading.Lock()
        self._streams: dict[str, Stream] = {}  # those that run, by name
        self._results: dict[str, dict[str, Any]] = {}  # those that have ended
        self._errors: dict[str, ClcrError] = {}  # what ended those that failed
        self._left: dict[Stream, threading.Event] = {}  # set once the loop has let the stream out
        self._jobs: deque[Callable[[], None]] = deque()
        self._finished = threading.Event()

    def streams(self) -> tuple[Stream, ...]:
        """Those that run now. Any thread."""
        with self._guard:
            return tuple(self._streams.values())

    @property
    def failure(self) -> ClcrError | None:
        """What ended the first stream that failed, when none ended well; of what has been closed."""
        return next(iter(self._errors.values()), None) if self._errors.keys() >= self._results.keys() else None

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self._shared.engines.manifest

    def views(self) -> tuple[View, ...]:
        """What a status line shows of those that run now. Any thread."""
        return tuple(View(stream.options.name, stream.session.account, stream.sources()) for stream in self.streams())

    def begin(self, configs: Sequence[StreamOptions]) -> None:
        """Open these streams; when one cannot be opened, its ClcrError is raised and none of them stays."""
        opened: list[Stream] = []
        try:
            for config in configs:
                opened.append(Stream(config, self._shared))
            for stream in opened:
                stream.begin(self._next_origin_ns())
        except BaseException:
            close_all(opened)
            raise
        for stream in opened:
            with self._guard:
                self._streams[stream.options.name] = stream
                self._errors.pop(stream.options.name, None)
                self._left[stream] = threading.Event()
            self._loop.add(stream.session)

    def run(self, stop: threading.Event) -> None:
        """Until every stream has ended, or `stop` is set and `wake` called; raises BackendError."""
        porter = threading.Thread(target=self._carry, name="clcr-porter", daemon=True)
        porter.start()
        try:
            self._loop.run(stop)
        finally:
            self._finished.set()
            self._work.set()
            porter.join()

    def wake(self) -> None:
        """Let the loop notice that `stop` was set; safe in a signal handler."""
        self._wake.set()

    def ask(self, job: Callable[[], None]) -> None:
        """Have the host's own thread do something slow, as `replace`; safe in a signal handler."""
        self._jobs.append(job)
        self._work.set()

    def replace(self, configs: Sequence[StreamOptions]) -> None:
        """Run these streams from now on: those that are not among them leave, new and changed ones begin.

        A stream that cannot be opened is said so and left out; no other stream notices.
        """
        wanted = {config.name: config for config in configs}
        with self._loop.held():
            for stream in self.streams():
                if wanted.get(stream.options.name) == stream.options:
                    del wanted[stream.options.name]
                else:
                    self._remove(stream)
            for config in wanted.values():
                try:
                    self.begin([config])
                except ClcrError as error:
                    self._say(f"stream {config.name}: not started: {error}")
                else:
                    self._say(f"stream {config.name}: started")

    def summaries(self) -> dict[str, dict[str, Any]]:
        """What each stream did, by name, once it has ended."""
        return dict(self._results)

    def close(self) -> None:
        """End every stream. Idempotent."""
        remaining = self.streams()
        for stream, error in close_all(remaining).items():
            self._errors.setdefault(stream.options.name, error)
        for stream in remaining:
            self._settle(stream)
        self._wake.close()
        self._work.close()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next_origin_ns(self) -> int:
        """Now for the first stream; for others the next line of its grid, so that all ticks fall together."""
        now_ns = self._clock.now_ns()
        if self._origin_ns is None:
            self._origin_ns = now_ns
        return self._origin_ns + -(-(now_ns - self._origin_ns) // self._hop_ns) * self._hop_ns

    def _ended(self, session: Session, error: ClcrError | None) -> None:
        """A session has left the loop, whose thread this is: close its stream elsewhere."""
        stream = next(one for one in self.streams() if one.session is session)
        if error is not None:
            self._errors[stream.options.name] = error
            if len(self.streams()) + len(self._results) > 1:
                self._say(f"stream {stream.options.name}: ended: {error}")
        self._left[stream].set()
        self.ask(partial(self._bury, stream))

    def _remove(self, stream: Stream) -> None:
        """Take a stream out: first out of the loop, which may be in the middle of its tick."""
        left = self._left[stream]
        self._loop.remove(stream.session)
        while not left.wait(0.1) and not self._finished.is_set():
            pass
        self._bury(stream)
        self._say(f"stream {stream.options.name}: ended")

    def _bury(self, stream: Stream) -> None:
        stream.close()
        self._settle(stream)

    def _settle(self, stream: Stream) -> None:
        """Keep what an ended stream did; nothing the second time, when another one may have its name."""
        name = stream.options.name
        with self._guard:
            if self._streams.get(name) is stream:
                del self._streams[name], self._left[stream]
                self._results[name] = stream.summary()

    def _carry(self) -> None:
        """The porter's thread: one job after the other, the remaining ones too when the loop has ended."""
        while True:
            try:
                self._jobs.popleft()()
            except IndexError:
                if self._finished.is_set():
                    return
                self._work.wait(1.0)
            except ClcrError as error:
                self._say(str(error))


def close_all(streams: Sequence[Stream]) -> dict[Stream, ClcrError]:
    """Close them side by side, so that one that waits for a stuck device costs the others nothing; what failed."""
    failed: dict[Stream, ClcrError] = {}

    def close(stream: Stream) -> None:
        try:
            stream.close()
        except ClcrError as error:
            failed[stream] = error

    threads = [threading.Thread(target=close, args=(stream,), name="clcr-close", daemon=True) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed
