"""The streams of a process: they begin together, come and go while others run, and end without holding anybody up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from clcr_stream.bundle.manifest import Manifest
from clcr_stream.clock import Clock, MonotonicClock, Wake
from clcr_stream.errors import WARNING, ClcrError, ConfigError, as_clcr_error
from clcr_stream.inference.engines import LoadedEngines, Say
from clcr_stream.streams.loop import Loop
from clcr_stream.streams.reports import StreamSummary, View
from clcr_stream.streams.session import Session
from clcr_stream.streams.stream import Hooks, Shared, Stream, StreamOptions, load_finder
from clcr_stream.wire.outbox import Sink


class Host:
    """Opens, runs and closes streams around one loop; a context manager.

    The loop runs in the thread that calls `run` or `serve`. Opening and closing wait for devices, so while the loop
    runs they are done elsewhere: by the host's worker thread, or by the thread that calls `begin` and `end`.
    """

    def __init__(
        self,
        engines: LoadedEngines,
        max_batch: int,
        started_ns: int,
        say: Say,
        tell: Say = lambda _: None,
        sinks: tuple[Sink, ...] = (),
    ) -> None:
        """`say` gets a line about what failed, began or ended, `tell` one for a person who did not ask for quiet.

        `sinks` get the messages of every stream.
        """
        self._say = say
        self._hop_ns = engines.manifest.hop_ns
        self._wake, self._work = Wake(), Wake()
        self._shared = Shared(engines, started_ns, self._wake.set, say, self.ask, tell, sinks)
        self._clock: Clock = MonotonicClock()
        self._loop = Loop(engines.levels, self._clock, self._wake, self._ended, max_batch)
        self._origin_ns: int | None = None
        self._guard = threading.Lock()
        self._streams: dict[str, Stream] = {}  # those that run, by name
        self._results: dict[str, StreamSummary] = {}  # those that have ended
        self._errors: dict[str, ClcrError] = {}  # what ended those that failed
        self._released: dict[Stream, threading.Event] = {}  # set once the loop has let the stream out
        self._jobs: deque[Callable[[], None]] = deque()
        self._finished = threading.Event()
        self._closed = False
        self._fault: ClcrError | None = None  # of the worker

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
        return tuple(stream.view() for stream in self.streams())

    def begin(self, streams: Sequence[StreamOptions], hooks: Hooks = Hooks()) -> tuple[Stream, ...]:  # noqa: B008
        """Open these streams; when one cannot be opened, its ClcrError is raised and none of them stays. Any thread."""
        finders = [load_finder(options, self.manifest.vision.size_px) for options in streams]
        opened: list[Stream] = []
        try:
            for options, finder in zip(streams, finders, strict=True):
                opened.append(Stream(options, self._shared, self._next_origin_ns(), finder, hooks))
        except BaseException:
            close_all(opened)
            raise
        try:
            self._register(opened)
        except ClcrError:
            close_all(opened)
            raise
        for stream in opened:
            self._loop.add(stream.session)
        return tuple(opened)

    def _register(self, opened: Sequence[Stream]) -> None:
        """From now on these streams run. ConfigError when a name is taken or the host was closed meanwhile."""
        with self._guard:
            for stream in opened:
                if self._closed or stream.options.name in self._streams:
                    why = "the engines are closed" if self._closed else "it runs already"
                    raise ConfigError(f"stream {stream.options.name}: cannot begin, {why}")
            for stream in opened:
                self._streams[stream.options.name] = stream
                self._errors.pop(stream.options.name, None)
                self._released[stream] = threading.Event()

    def end(self, stream: Stream, error: ClcrError | None = None) -> None:
        """Take a stream out and close it, `error` being the reason; nothing when it has ended already.

        Any thread but the loop's. The loop may be in the middle of the stream's tick, so it lets the stream out first.
        """
        with self._guard:
            released = self._released.get(stream)
        if released is not None:
            stream.error = stream.error or error
            self._loop.remove(stream.session)
            while not released.wait(0.1) and not self._finished.is_set():
                pass
        self._close(stream)

    def run(self, stop: threading.Event) -> None:
        """Until every stream has ended, or `stop` is set and `wake` called; raises BackendError.

        Also raises the ClcrError of a failure in the worker, which leaves no stream open without a word.
        """
        worker = threading.Thread(target=self._serve_jobs, name="clcr-worker", daemon=True)
        worker.start()
        try:
            self._loop.run(stop)
        finally:
            self._finished.set()
            self._work.set()
            worker.join()
        if self._fault is not None:  # of the jobs that were left when the loop ended
            raise self._fault

    def serve(self, stop: threading.Event) -> None:
        """Like `run`, but goes on without a single stream until `stop` is set and `wake` called."""
        with self._loop.held():
            self.run(stop)

    def wake(self) -> None:
        """Let the loop notice that something has changed, as that `stop` was set; safe in a signal handler."""
        self._wake.set()

    def ask(self, job: Callable[[], None]) -> None:
        """Have the worker do something slow, as `replace`; safe in a signal handler."""
        self._jobs.append(job)
        self._work.set()

    def replace(self, streams: Sequence[StreamOptions]) -> None:
        """Run these streams from now on: those that are not among them leave, new and changed ones begin.

        A stream that cannot be opened is said so and left out; no other stream notices.
        """
        missing = {options.name: options for options in streams}
        with self._loop.held():
            for stream in self.streams():
                if missing.get(stream.options.name) == stream.options:
                    del missing[stream.options.name]
                else:
                    self.end(stream)
                    self._say(f"stream {stream.options.name}: ended")
            for options in missing.values():
                try:
                    self.begin([options])
                except ClcrError as error:
                    self._say(f"{WARNING}stream {options.name}: not started: {error}")
                else:
                    self._say(f"stream {options.name}: started")

    def summaries(self) -> dict[str, StreamSummary]:
        """What each stream did, by name, once it has ended."""
        return dict(self._results)

    def forget(self, name: str) -> None:
        """Drop what is known of an ended stream: a process whose streams come and go must not grow."""
        with self._guard:
            self._results.pop(name, None)
            self._errors.pop(name, None)

    def close(self) -> None:
        """End every stream; no other can begin. Idempotent."""
        with self._guard:
            self._closed = True
        remaining = self.streams()
        for stream, error in close_all(remaining).items():
            self._errors.setdefault(stream.options.name, error)
        for stream in remaining:
            self._keep_result(stream)
        self._wake.close()
        self._work.close()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next_origin_ns(self) -> int:
        """Now for the first stream; for others the next line of its grid, so that all ticks fall together."""
        with self._guard:
            now_ns = self._clock.now_ns()
            if self._origin_ns is None:
                self._origin_ns = now_ns
            return self._origin_ns + -(-(now_ns - self._origin_ns) // self._hop_ns) * self._hop_ns

    def _ended(self, session: Session, error: ClcrError | None) -> None:
        """A session has left the loop, whose thread this is: the worker closes its stream."""
        stream = next(one for one in self.streams() if one.session is session)
        if error is not None:
            stream.error = stream.error or error
            if len(self.streams()) + len(self._results) > 1:
                self._say(f"{WARNING}stream {stream.options.name}: ended: {error}")
        self._released[stream].set()
        self.ask(partial(self._close, stream))

    def _close(self, stream: Stream) -> None:
        """Close a stream that has left the loop, and keep what it did, whatever closing raises."""
        try:
            stream.close()
        except ClcrError as error:
            self._say(f"{WARNING}stream {stream.options.name}: {error}")
        finally:
            self._keep_result(stream)

    def _keep_result(self, stream: Stream) -> None:
        """Keep what an ended stream did; nothing the second time, when another one may have its name."""
        name = stream.options.name
        with self._guard:
            if self._streams.get(name) is stream:
                del self._streams[name], self._released[stream]
                self._results[name] = stream.summary()
                if stream.error is not None:
                    self._errors[name] = stream.error

    def _serve_jobs(self) -> None:
        """The worker's thread: one job after the other, the remaining ones too when the loop has ended."""
        while True:
            try:
                job = self._jobs.popleft()
            except IndexError:
                if self._finished.is_set():
                    return
                self._work.wait(1.0)
                continue
            try:
                job()
            except ClcrError as error:
                self._say(f"{WARNING}{error}")
            except BaseException as error:  # the thread's edge: the loop ends with it, and the other jobs are done
                self._fault = as_clcr_error(error, "opening or closing a stream failed")
                self._loop.fail(self._fault)


def close_all(streams: Sequence[Stream]) -> dict[Stream, ClcrError]:
    """Close them side by side, so that one that waits for a stuck device costs the others nothing; what failed."""
    failed: dict[Stream, ClcrError] = {}

    def close(stream: Stream) -> None:
        try:
            stream.close()
        except BaseException as error:  # the thread's edge
            failed[stream] = as_clcr_error(error, "closing failed")

    threads = [threading.Thread(target=close, args=(stream,), name="clcr-close", daemon=True) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed
