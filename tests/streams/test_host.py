"""The host: streams begin together or not at all, come and go while others run, and leave nothing open."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from clcr_stream.bundle.loader import Bundle, load_bundle
from clcr_stream.errors import ClcrError, ConfigError, PublishError
from clcr_stream.inference.choose import open_backend
from clcr_stream.inference.engines import load_engines
from clcr_stream.sources.base import SourceReport, SourceSpec
from clcr_stream.streams.account import Account
from clcr_stream.streams.host import Host
from clcr_stream.streams.reports import Header, make_status
from clcr_stream.streams.session import NextHop
from clcr_stream.streams.stream import Hooks, StreamOptions
from clcr_stream.wire import messages
from clcr_stream.wire.client import Subscriber
from clcr_stream.wire.jsonl import Output
from clcr_stream.wire.publisher import Publisher, PublishOptions
from driving import empty_bundle
from media import eventually
from tiny_bundle import tiny_manifest, write_bundle

pytestmark = pytest.mark.usefixtures("own_endpoints")

HOP_NS = tiny_manifest().hop_ns
SOUND = SourceSpec(microphone="test://")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("host") / "bundle"
    write_bundle(folder)
    return load_bundle(folder)


def options(name: str, output: Path | None = None, sources: SourceSpec = SOUND) -> StreamOptions:
    return StreamOptions(
        name=name,
        sources=sources,
        publish=PublishOptions(stream=name),
        settle_ms=0.0,
        output=None if output is None else Output(str(output)),
    )


class Hosted:
    """A host whose loop runs in a thread of its own, as `run` in the main thread does."""

    def __init__(self, bundle: Bundle, seats: int = 4) -> None:
        loaded = load_engines(bundle, open_backend("onnxruntime"), seats)
        self.said: list[str] = []
        self.stop = threading.Event()
        self.host = Host(loaded, 8, time.monotonic_ns(), self.said.append)
        self._thread: threading.Thread | None = None
        self.failure: ClcrError | None = None  # what `run` raised

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.host.run(self.stop)
        except ClcrError as error:
            self.failure = error

    def replace(self, *streams: StreamOptions) -> None:
        """In the host's own thread, as a signal does; returns when it is done."""
        done = threading.Event()
        self.host.ask(lambda: self.host.replace(streams))
        self.host.ask(done.set)
        assert done.wait(30)

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join(30)
            assert not self._thread.is_alive()

    def names(self) -> set[str]:
        return {stream.options.name for stream in self.host.streams()}


@contextmanager
def hosted(bundle: Bundle, seats: int = 4) -> Iterator[Hosted]:
    found = Hosted(bundle, seats)
    try:
        yield found
    finally:
        found.stop.set()
        found.host.wake()
        found.join()
        found.host.close()


def lines(path: Path) -> list[messages.Message]:
    whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    return [messages.decode(line) for line in whole]


def seqs(path: Path) -> list[int]:
    return [message.seq for message in lines(path) if isinstance(message, messages.Prediction)]


def published(path: Path, count: int) -> Callable[[], bool]:
    return lambda: path.exists() and len(seqs(path)) >= count


def open_things() -> tuple[int, set[str]]:
    """File descriptors, and threads that are ours."""
    ours = {thread.name for thread in threading.enumerate() if thread.name.startswith(("clcr-", "source "))}
    return psutil.Process().num_fds(), ours


BAD: dict[str, tuple[StreamOptions, type[ClcrError]]] = {
    "no source": (options("bad", sources=SourceSpec()), ConfigError),
    "no folder": (options("bad", Path("/nowhere/x.jsonl")), ConfigError),
    "no such input": (options("bad", sources=SourceSpec(input="/nowhere.mp4")), ClcrError),
    "name in use": (options("taken"), PublishError),
}


@pytest.mark.parametrize("kind", BAD)
def test_when_one_stream_cannot_begin_none_stays_and_nothing_is_left_open(bundle: Bundle, kind: str) -> None:
    bad, error = BAD[kind]
    status = make_status(Account(), (), Header("taken", "0" * 16, "boot", 1), 0.0)
    with Publisher(PublishOptions(stream="taken"), lambda: status), hosted(bundle) as at:
        before = open_things()
        with pytest.raises(error):
            at.host.begin([options("good"), options("better"), bad])
        assert at.host.streams() == ()
        assert eventually(lambda: open_things() == before), (before, open_things())
        at.host.begin([options("good")])  # its endpoint is free again
        assert at.names() == {"good"}


def test_streams_begin_on_one_grid_and_a_later_one_joins_its_phase(bundle: Bundle, tmp_path: Path) -> None:
    with hosted(bundle) as at:
        at.host.begin([options("a", tmp_path / "a"), options("b", tmp_path / "b")])
        at.start()
        assert eventually(published(tmp_path / "a", 2))
        at.replace(options("a", tmp_path / "a"), options("b", tmp_path / "b"), options("c", tmp_path / "c"))
        assert eventually(published(tmp_path / "c", 2))
    origins = []
    for name in "abc":
        (session, *_) = lines(tmp_path / name)
        assert isinstance(session, messages.Session)
        origins.append(session.origin_ns)
    assert origins[0] < origins[1] < origins[2]
    assert {(origin - origins[0]) % HOP_NS for origin in origins} == {0}


REPLACED = ("goes: ended", "changes: ended", "changes: started", "new: started")


def test_replacing_takes_out_adds_restarts_what_changed_and_leaves_the_rest_alone(
    bundle: Bundle, tmp_path: Path
) -> None:
    stays, goes, changes = (options(name, tmp_path / name) for name in ("stays", "goes", "changes"))
    with hosted(bundle) as at:
        at.host.begin([stays, goes, changes])
        at.start()
        assert all(eventually(published(tmp_path / name, 3)) for name in ("stays", "goes", "changes"))
        kept = next(stream for stream in at.host.streams() if stream.options.name == "stays")
        at.replace(stays, options("changes", tmp_path / "changed"), options("new", tmp_path / "new"))
        assert at.names() == {"stays", "changes", "new"}
        assert kept in at.host.streams()
        assert "goes" in at.host.summaries()
        assert at.said == [f"stream {what}" for what in REPLACED]
        assert eventually(published(tmp_path / "new", 3)) and eventually(published(tmp_path / "changed", 3))
    for name in ("goes", "changes", "changed", "new", "stays"):
        last = lines(tmp_path / name)[-1]
        assert isinstance(last, messages.Status) and last.state == "goodbye", name
    assert seqs(tmp_path / "new")[0] == seqs(tmp_path / "changed")[0] == 1
    skipped = sum(at.host.summaries()["stays"].skipped.values())
    seen = seqs(tmp_path / "stays")
    assert seen[-1] - len(seen) <= skipped  # no gap but what a starved machine made it skip, and says
    assert at.host.failure is None


def test_replacing_every_stream_does_not_end_the_run(bundle: Bundle, tmp_path: Path) -> None:
    with hosted(bundle) as at:
        at.host.begin([options("a", tmp_path / "a")])
        at.start()
        assert eventually(published(tmp_path / "a", 1))
        at.replace(options("b", tmp_path / "b"))
        assert eventually(published(tmp_path / "b", 2))
        assert at.names() == {"b"}


def test_a_new_stream_that_cannot_be_opened_is_said_and_the_others_go_on(bundle: Bundle, tmp_path: Path) -> None:
    with hosted(bundle) as at:
        at.host.begin([options("a", tmp_path / "a")])
        at.start()
        at.replace(options("a", tmp_path / "a"), BAD["no such input"][0], options("c", tmp_path / "c"))
        assert at.names() == {"a", "c"}
        assert at.said[0].startswith("warning: stream bad: not started: ") and "\n" not in at.said[0]
        assert eventually(published(tmp_path / "c", 2))


def test_a_stream_that_has_just_ended_by_itself_does_not_block_its_replacement(bundle: Bundle, tmp_path: Path) -> None:
    """The loop lets it out before the host's thread, busy replacing, has heard of it."""
    short = SourceSpec(input="test://?seconds=1", pace="max")
    with hosted(bundle) as at:
        at.host.begin([options("a", tmp_path / "a"), options("b", tmp_path / "b", short)])
        entered, go_on = threading.Event(), threading.Event()

        def hold_the_worker() -> None:
            entered.set()
            assert go_on.wait(30)

        at.host.ask(hold_the_worker)
        at.start()
        assert entered.wait(30)
        assert eventually(lambda: len(seqs(tmp_path / "b")) == 5)
        ended = next(stream for stream in at.host.streams() if stream.options.name == "b")
        assert eventually(lambda: ended.session.next_due() is NextHop.NONE)
        done = threading.Event()
        at.host.ask(lambda: at.host.replace([options("a", tmp_path / "a"), options("b", tmp_path / "b2")]))
        at.host.ask(done.set)
        go_on.set()
        assert done.wait(30), "the host's thread waits for a stream that left long ago"
        assert eventually(published(tmp_path / "b2", 2))
        assert at.names() == {"a", "b"}


def test_the_run_ends_when_every_stream_has(bundle: Bundle, tmp_path: Path) -> None:
    short = SourceSpec(input="test://?seconds=1", pace="max")
    with hosted(bundle) as at:
        at.host.begin([options("a", sources=short), options("b", sources=short)])
        at.start()
        at.join()
    assert {name: done.ticks.published for name, done in at.host.summaries().items()} == {"a": 5, "b": 5}


class Refusing:
    """A sink that fails from the third prediction on."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def write(self, message: messages.Message) -> None:
        if isinstance(message, messages.Prediction) and message.seq >= 3:
            raise self._error


def refusing(error: Exception | None = None) -> Hooks:
    return Hooks(sinks=(Refusing(error or PublishError("the endpoint is gone")),))


def test_a_stream_that_fails_is_said_and_the_others_decide_how_the_run_ends(bundle: Bundle) -> None:
    short = SourceSpec(input="test://?seconds=2", pace="max")
    with hosted(bundle) as at:
        at.host.begin([options("a", sources=short)], refusing())
        at.host.begin([options("b", sources=short)])
        at.start()
        at.join()
    assert at.said == ["warning: stream a: ended: the endpoint is gone"]
    assert at.host.failure is None
    assert at.host.summaries()["a"].ticks.published == 2
    assert at.host.summaries()["b"].ticks.published == 10


def test_what_ended_the_only_stream_is_the_failure_of_the_run(bundle: Bundle) -> None:
    with hosted(bundle) as at:
        at.host.begin([options("a", sources=SourceSpec(input="test://?seconds=2", pace="max"))], refusing())
        at.start()
        at.join()
    assert str(at.host.failure) == "the endpoint is gone"
    assert at.said == []


def test_an_unexpected_error_in_a_tick_ends_its_own_stream_in_one_line(bundle: Bundle) -> None:
    short = SourceSpec(input="test://?seconds=2", pace="max")
    with hosted(bundle) as at:
        at.host.begin([options("a", sources=short)], refusing(ValueError("two\nlines")))
        at.host.begin([options("b", sources=short)])
        at.start()
        at.join()
    assert at.said == ["warning: stream a: ended: a tick failed: ValueError: two lines"]
    assert at.failure is None
    assert at.host.summaries()["b"].ticks.published == 10


def test_a_prediction_waits_for_what_comes_late_as_long_as_the_options_say(bundle: Bundle, tmp_path: Path) -> None:
    output, settle_ms = tmp_path / "a.jsonl", 300.0
    with hosted(bundle) as at:
        at.host.begin([replace(options("a", output), settle_ms=settle_ms)])
        at.start()
        assert eventually(published(output, 1))
    first = next(message for message in lines(output) if isinstance(message, messages.Prediction))
    assert first.published_ns - first.window.end_ns >= settle_ms * 1e6


class BadSource:
    """A source whose answers raise, as a program's own may."""

    name, modalities, lossless, finished, watermark_ns = "bad", ("vision",), True, False, 0

    def start(self) -> None: ...
    def close(self) -> None: ...
    def consumed(self, end_ns: int) -> None: ...

    def filled(self, end_ns: int) -> bool:
        raise KeyError("nothing of that name")

    def report(self) -> SourceReport:
        return SourceReport("bad", "test", "live", "", {})


def test_a_source_that_raises_when_it_is_asked_ends_its_own_stream(bundle: Bundle) -> None:
    bad: Any = BadSource()
    with hosted(bundle) as at:
        at.host.begin([options("a")], Hooks(open_sources=lambda sinks: [bad]))
        at.start()
        at.join()
    assert str(at.host.failure) == "a tick failed: KeyError: 'nothing of that name'"


@pytest.mark.parametrize("error", [IndexError("pop from an empty deque"), SystemExit(3), ValueError("x")])
def test_a_failing_job_of_the_worker_ends_the_run_with_its_error_and_the_jobs_after_it_are_done(
    bundle: Bundle, error: BaseException
) -> None:
    def fail() -> None:
        raise error

    after = threading.Event()
    with hosted(bundle) as at:
        at.host.begin([options("a")])
        at.start()
        at.host.ask(fail)
        at.host.ask(after.set)
        at.join()
        assert after.is_set()
    assert str(at.failure) == f"opening or closing a stream failed: {type(error).__name__}: {error}"
    assert at.names() == set()


def test_a_stream_whose_closing_fails_is_told_and_does_not_stay_open(bundle: Bundle) -> None:
    def fail(_: ClcrError | None) -> None:
        raise PublishError("the goodbye was not sent")

    short = SourceSpec(input="test://?seconds=1", pace="max")
    with hosted(bundle) as at:
        at.host.begin([options("a", sources=short)], Hooks(ended=fail))
        at.start()
        at.join()
        assert at.names() == set()
    assert at.said == ["warning: stream a: the goodbye was not sent"]


def test_the_output_is_what_was_sent_over_the_wire_heartbeats_and_goodbye_included(
    bundle: Bundle, tmp_path: Path
) -> None:
    with hosted(bundle) as at:
        at.host.begin([options("a", tmp_path / "a")])
        with Subscriber(stream="a", topics=[kind for kind in messages.KINDS if kind != "tokens"]) as subscriber:
            at.start()
            received: list[messages.Message] = []
            while not any(isinstance(one, messages.Status) and one.subscribers for one in received):
                arrival = subscriber.receive(timeout_ms=30_000)
                assert arrival is not None
                received.append(arrival.message)
            at.stop.set()
            at.host.wake()
            at.join()
            at.host.close()
            while not (isinstance(received[-1], messages.Status) and received[-1].state == "goodbye"):
                arrival = subscriber.receive(timeout_ms=30_000)
                assert arrival is not None
                received.append(arrival.message)
    written = {(type(one), one.seq): one for one in lines(tmp_path / "a")}
    assert [written[type(one), one.seq] for one in received] == received
    statuses = [one.seq for one in lines(tmp_path / "a") if isinstance(one, messages.Status)]
    assert statuses == list(range(1, len(statuses) + 1))


def test_tokens_go_to_who_asks_for_them_alone_with_a_byte_for_each_of_the_window(
    bundle: Bundle, tmp_path: Path
) -> None:
    with hosted(bundle) as at:
        at.host.begin([options("a", tmp_path / "a")])
        with Subscriber(stream="a", topics=("prediction",)) as subscriber:
            at.start()
            assert subscriber.receive(timeout_ms=30_000) is not None
            with Subscriber(stream="a", topics=("prediction", "tokens")) as asking:
                found: dict[tuple[type, int], messages.Message] = {}
                pairs: set[int] = set()
                while not pairs:
                    arrival = asking.receive(timeout_ms=30_000)
                    assert arrival is not None
                    found[type(arrival.message), arrival.message.seq] = arrival.message
                    pairs = {seq for kind, seq in found if (messages.Prediction, seq) in found} & {
                        seq for kind, seq in found if kind is messages.Tokens
                    }
            at.stop.set()
            at.host.wake()
            at.join()
    seq = pairs.pop()
    prediction, tokens = found[messages.Prediction, seq], found[messages.Tokens, seq]
    assert isinstance(prediction, messages.Prediction) and isinstance(tokens, messages.Tokens)
    assert tokens.window == prediction.window
    manifest = bundle.manifest
    counts = (manifest.vision.tokens, manifest.acoustic.tokens, manifest.language.tokens)
    for index, levels in enumerate((tokens.vision, tokens.acoustic, tokens.language)):
        assert [len(level) for level in levels] == [counts[index]] * 3
    assert not [one for one in lines(tmp_path / "a") if isinstance(one, messages.Tokens)], "no file holds them"


def test_without_publishing_the_output_has_the_same_topics_numbered_from_one(bundle: Bundle, tmp_path: Path) -> None:
    short = SourceSpec(input="test://?seconds=1", pace="max")
    with hosted(bundle) as at:
        at.host.begin([replace(options("a", tmp_path / "a", short), publish=None)])
        at.start()
        at.join()
    found = lines(tmp_path / "a")
    assert isinstance(found[0], messages.Session) and found[0].seq == 1
    assert seqs(tmp_path / "a") == [1, 2, 3, 4, 5]
    statuses = [one for one in found if isinstance(one, messages.Status)]  # one a second: the machine may be busy
    assert [one.seq for one in statuses] == list(range(1, len(statuses) + 1))
    assert found[-1] is statuses[-1] and statuses[-1].state == "goodbye"


def test_closing_twice_is_nothing_and_leaves_nothing_open(tmp_path: Path) -> None:
    before = open_things()
    loaded = load_engines(with_tokenizer(tmp_path), open_backend("null"), 2)
    host = Host(loaded, 8, time.monotonic_ns(), print)
    host.begin([options("a"), options("b")])
    host.close()
    host.close()
    host.wake()
    assert eventually(lambda: open_things() == before), (before, open_things())


def with_tokenizer(folder: Path) -> Bundle:
    write_bundle(folder / "bundle")
    bundle = load_bundle(folder / "bundle")
    empty = empty_bundle(bundle.manifest)
    return Bundle(empty.manifest, empty.files | {"tokenizer.json": bundle.files["tokenizer.json"]}, bundle.id)
