"""The runtime inside a program: ten lines without a socket, pushed data, callbacks, asyncio, errors that arrive."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

import clcr_stream
from clcr_stream import ClcrError, ConfigError, Engines, Prediction, PushedStream, SourceError
from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.errors import BackendError
from clcr_stream.inference.null import NullRunner
from clcr_stream.sources.media import VideoItem, open_file
from clcr_stream.sources.synthetic.person import PersonOptions
from clcr_stream.sources.synthetic.source import write_clip
from media import eventually
from tiny_bundle import write_bundle

pytestmark = pytest.mark.usefixtures("own_endpoints")

RUNTIME = Path(clcr_stream.__file__).parents[1]
ROOT = Path(__file__).resolve().parents[1]
RATE_HZ = 16_000
CLIP_S = 9.0  # longer than the window and than the rings


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedding") / "bundle"
    write_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(path, CLIP_S, PersonOptions(fps=8))
    return path


@pytest.fixture
def engines(bundle: Path) -> Iterator[Engines]:
    with Engines.load(bundle, backend="null", streams=3) as loaded:
        yield loaded


def child(code: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"PYTHONPATH": str(RUNTIME)} | environment
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=120)


def test_importing_the_library_loads_neither_numpy_nor_zmq_and_opens_nothing() -> None:
    code = """
        import os, sys, time
        before, started_s = set(os.listdir("/proc/self/fd")), time.process_time()
        import clcr_stream
        took_s = time.process_time() - started_s
        heavy = {"numpy", "zmq", "cv2", "av", "onnxruntime", "yaml", "msgspec", "threading"} & set(sys.modules)
        print(took_s, sorted(heavy - {"threading"}), set(os.listdir("/proc/self/fd")) == before)
    """
    lines = [child(code).stdout.split(maxsplit=1) for _ in range(5)]
    assert {rest.strip() for _, rest in lines} == {"[] True"}
    assert min(float(took_s) for took_s, _ in lines) < 0.15


def test_every_name_of_the_library_can_be_had_and_another_is_an_attribute_error() -> None:
    for name in clcr_stream.__all__:
        assert getattr(clcr_stream, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        clcr_stream.nothing_of_that_name  # noqa: B018


def test_ten_lines_embed_the_runtime_without_a_socket(bundle: Path) -> None:
    done = child(
        """
        import os, sys
        import clcr_stream

        def sockets():
            links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
            return [link for link in links if os.path.islink(link) and os.readlink(link).startswith("socket:")]

        recording = {"input": "test://?seconds=2", "pace": "max", "bundle": sys.argv[1], "backend": "onnxruntime"}
        with clcr_stream.open(**recording) as stream:
            for prediction in stream:
                if not prediction.degraded or prediction.label:
                    print(prediction.seq, prediction.label, prediction.confidence, len(sockets()))
        """,
        bundle,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[0] for row in rows] == [str(number) for number in range(1, 11)]
    assert {row[3] for row in rows} == {"0"}


def test_a_program_that_forgets_to_close_ends_all_the_same(bundle: Path) -> None:
    code = """
        import sys
        import clcr_stream
        stream = clcr_stream.open(microphone="test://", bundle=sys.argv[1], backend="null", publish="default")
        print(next(stream).seq >= 1, stream.endpoint)
    """
    done = child(code, bundle)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    endpoint = done.stdout.split()[1].removeprefix("ipc://")
    assert done.stdout.startswith("True ") and not Path(endpoint).exists(), "the socket goes with its stream"


def test_a_fork_is_told_that_the_engines_are_elsewhere_and_ends_at_once(bundle: Path) -> None:
    code = """
        import os, sys, time
        import clcr_stream
        with clcr_stream.Engines.load(sys.argv[1], backend="null", streams=2) as engines:
            with engines.stream("a") as stream:
                child = os.fork()
                if child == 0:
                    for act in (lambda: engines.stream("b"), stream.read, stream.wait, stream.end):
                        try:
                            act()
                        except clcr_stream.ConfigError as error:
                            print(error, flush=True)
                    sys.exit(5)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                now_ns = time.monotonic_ns()
                stream.push_text("still here", now_ns, now_ns)
                print(code, os.getpid(), stream.ended)
    """
    done = child(code, bundle)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    *refused, last = done.stdout.splitlines()
    code_text, parent, ended = last.split()
    assert (code_text, ended) == ("5", "False")
    assert len(refused) == 4 and all(f"the engines run in process {parent}, and this is a fork" in it for it in refused)


def pushed(stream: PushedStream, clip: Path) -> None:
    with open_file(str(clip), ("vision", "acoustic"), RATE_HZ, lambda reason: None) as reader:
        for item in reader.items():
            if isinstance(item, VideoItem):
                frame = item.rgb()
                assert frame is not None
                stream.push_frame(item.time_ns, frame)
                frame[:] = 0  # the buffer is the caller's again
            else:
                samples = item.samples.copy()
                stream.push_audio(item.first_sample * NS_PER_S // RATE_HZ, samples)
                samples[:] = 0
    stream.end()


def test_pushed_frames_and_samples_give_what_the_same_file_gives(bundle: Path, clip: Path) -> None:
    with clcr_stream.open(input=clip, transcript="none", pace="max", bundle=bundle, backend="onnxruntime") as stream:
        file = list(stream)
    with Engines.load(bundle, backend="onnxruntime") as engines:
        with engines.stream("robot", pace="max", modalities=("vision", "acoustic")) as robot:
            pushed(robot, clip)
            own = list(robot)
    assert len(file) == len(own) == CLIP_S * 5
    for one, other in zip(file, own, strict=True):
        assert one.probs is not None and other.probs is not None and one.seq == other.seq
        assert other.probs == pytest.approx(one.probs, abs=1e-6)
        assert (other.degraded, other.label) == (one.degraded, one.label)
        assert other.modalities.vision.coverage == one.modalities.vision.coverage
        assert other.modalities.acoustic.coverage == one.modalities.acoustic.coverage


def test_words_are_seen_by_the_windows_after_their_end(bundle: Path) -> None:
    with Engines.load(bundle, backend="onnxruntime") as engines:
        with engines.stream(pace="max", modalities=("acoustic", "language")) as stream:
            stream.push_text("hello there", 100 * NS_PER_MS, 500 * NS_PER_MS)
            stream.push_audio(0, np.zeros(RATE_HZ, np.float32))
            stream.end()
            covered = [one.modalities.language.coverage for one in stream]
    assert [coverage is not None and coverage > 0 for coverage in covered] == [False, False, True, True, True]


def test_a_last_hop_that_is_not_full_is_predicted_only_when_it_is_rounded_up(bundle: Path) -> None:
    sound = np.zeros(RATE_HZ // 2, np.float32)  # two hops and a half
    with Engines.load(bundle, backend="onnxruntime") as engines:
        covered = []
        for round_up in (False, True):
            with engines.stream(pace="max", modalities=("acoustic",)) as stream:
                stream.push_audio(0, sound)
                stream.end(round_up)
                covered.append([one.modalities.acoustic.coverage for one in stream])
        for seconds, hops in ((1.0, 5), (0.0, 0)):  # a full hop and an empty recording stay what they are
            with engines.stream(pace="max", modalities=("acoustic", "language")) as stream:
                for number in range(round(seconds * 10)):
                    stream.push_audio(number * 100 * NS_PER_MS, sound[: RATE_HZ // 10])
                stream.end(round_up=True)
                assert len(list(stream)) == hops
        with engines.stream(pace="max", modalities=("language",)) as stream:
            stream.push_text("hello", 0, 250 * NS_PER_MS)
            stream.end(round_up=True)
            assert [one.modalities.language.present for one in stream] == [False, True]
    tokens = 1 / 150
    assert covered[0] == pytest.approx([5 * tokens, 10 * tokens])
    assert covered[1] == pytest.approx([5 * tokens, 10 * tokens, 12 * tokens])  # the 13th token is not full


def test_a_frame_is_wanted_until_its_slot_is_taken(bundle: Path) -> None:
    frame = np.zeros((48, 64, 3), np.uint8)
    with Engines.load(bundle, backend="onnxruntime") as engines:
        with engines.stream(pace="max", modalities=("vision",)) as stream:
            wanted = []
            for time_ms in (0, 10, 67, 77, 133, 143):  # two in each slot
                wanted.append(stream.wants_frame(time_ms * NS_PER_MS))
                if wanted[-1]:
                    stream.push_frame(time_ms * NS_PER_MS, frame)
            with pytest.raises(SourceError, match=r"captured_ns is 0\.5, allowed is a whole number"):
                stream.wants_frame(0.5)
            (source,) = stream.sources()
    assert wanted == [True, False] * 3
    assert (source.counts["frames"], source.counts["frames_in"], source.counts["frames_dropped_same_slot"]) == (3, 6, 3)


def test_faces_of_another_detector_are_taken_as_they_are(bundle: Path) -> None:
    with Engines.load(bundle, backend="onnxruntime") as engines:
        face = np.full((engines.face_px, engines.face_px, 3), 90, np.uint8)
        with engines.stream(pace="max", modalities=("vision",)) as stream:
            for number in range(6):
                stream.push_face(number * NS_PER_S // engines.frame_rate_hz, face, quality=0.5)
                stream.push_face(number * NS_PER_S // engines.frame_rate_hz, face)  # its slot is taken
            with pytest.raises(SourceError, match=r"push_face: rgb is uint8\(8, 8, 3\), allowed is a uint8 array \("):
                stream.push_face(NS_PER_S, face[:8, :8])
            with pytest.raises(SourceError, match=r"push_face: quality is 1\.5, allowed is 0\.\.1"):
                stream.push_face(NS_PER_S, face, quality=1.5)
            stream.end()
            seen = [one.modalities.vision for one in stream]
    assert [one.coverage for one in seen] == pytest.approx([3 / 90, 6 / 90])
    assert [one.quality for one in seen] == [0.5, 0.5]


def test_a_recording_does_not_wait_for_a_modality_in_its_gap(bundle: Path) -> None:
    sound = np.zeros(RATE_HZ // 5, np.float32)
    with Engines.load(bundle, backend="onnxruntime") as engines:
        with engines.stream(pace="max", modalities=("vision", "acoustic")) as stream:
            for number in range(60):  # longer than the rings: without the gap the push would be refused
                stream.push_gap("vision", number * 200 * NS_PER_MS)
                stream.push_audio(number * 200 * NS_PER_MS, sound)
            with pytest.raises(SourceError, match="before the last one of vision"):
                stream.push_frame(0, np.zeros((48, 64, 3), np.uint8))
            assert next(stream).seq == 1
            stream.end()
            assert len(list(stream)) == 59


def test_a_recording_waits_for_its_reader_and_loses_nothing(bundle: Path) -> None:
    recording = "test://?seconds=16&fps=5"  # few pictures: they are drawn, and not the subject
    with clcr_stream.open(input=recording, pace="max", bundle=bundle, backend="null") as stream:
        first = next(stream)
        assert eventually(lambda: stream.ticks().published >= 60, 60)
        held = stream.ticks().published
        rest = [one.seq for one in stream]
    assert first.seq == 1 and rest == list(range(2, 81)) and stream.missed == 0
    assert held <= 67, "the stream ran ahead of its reader"


def test_a_slow_reader_of_a_live_stream_gets_the_newest_and_the_rest_is_counted(bundle: Path) -> None:
    with clcr_stream.open(microphone="test://", bundle=bundle, backend="null", settle_ms=0) as stream:
        first = next(stream)
        assert eventually(lambda: stream.ticks().published >= first.seq + 4, 30)
        second = next(stream)
        assert second.seq >= first.seq + 4
        assert stream.missed >= second.seq - first.seq - 1 - sum(stream.ticks().skipped.values())
        assert stream.missed >= 1


def live(stream: PushedStream, until: Callable[[], bool]) -> None:
    """Push sound as it would be captured until something has happened."""
    block = np.zeros(RATE_HZ // 50, np.float32)
    next_ns, ends_s = time.monotonic_ns(), time.monotonic() + 30
    while not until():
        assert time.monotonic() < ends_s, "nothing happened"
        if time.monotonic_ns() >= next_ns + 20 * NS_PER_MS:
            stream.push_audio(next_ns, block)
            next_ns += 20 * NS_PER_MS


def test_a_slow_callback_holds_up_neither_the_loop_nor_another_stream(engines: Engines) -> None:
    entered, go_on, seen = threading.Event(), threading.Event(), []

    def slow(prediction: Prediction) -> None:
        seen.append(prediction.seq)
        entered.set()
        assert go_on.wait(30)

    other: list[Prediction] = []
    with (
        engines.stream("slow", slow, settle_ms=0) as stuck,
        engines.stream("quick", other.append, settle_ms=0) as quick,
    ):
        live(quick, entered.is_set)
        count = len(other)
        live(quick, lambda: len(other) >= count + 4 and stuck.ticks().published >= 4)
        assert seen == seen[:1]
        go_on.set()
        assert eventually(lambda: len(seen) >= 2, 30)
        assert stuck.missed >= 2 and seen[1] > seen[0] + 1
    assert any(one.timing_ms["batch"] == 2 for one in other), "two streams, one call of the engines"


def test_a_raising_callback_ends_its_own_stream_and_its_error_reaches_the_caller(engines: Engines) -> None:
    def act(prediction: Prediction) -> None:
        raise KeyError("no such\nlabel")

    told = r"stream bad: on_prediction raised KeyError: .no such\\nlabel."
    good: list[Prediction] = []
    with engines.stream("good", good.append) as other:
        bad = engines.stream("bad", act)
        with pytest.raises(ClcrError, match=told) as raised:
            bad.wait(30)
        assert isinstance(raised.value.__cause__, KeyError)
        with pytest.raises(ClcrError, match="on_prediction raised"):
            bad.push_audio(time.monotonic_ns(), np.zeros(320, np.float32))
        bad.close()  # told already
        count = len(good)
        assert eventually(lambda: len(good) > count, 30), "the other stream goes on"
        assert not other.ended


def test_what_a_callback_raised_leaves_the_with_block(engines: Engines) -> None:
    called = threading.Event()

    def act(prediction: Prediction) -> None:
        called.set()
        raise ValueError("x")

    with pytest.raises(ClcrError, match="stream bad: on_prediction raised ValueError: x"):
        with engines.stream("bad", act) as bad:
            assert called.wait(30)
            assert eventually(lambda: bad.ended, 30)


def test_sys_exit_in_a_callback_ends_its_stream_too(engines: Engines) -> None:
    stream = engines.stream("bad", lambda prediction: sys.exit(3))
    with pytest.raises(ClcrError, match="on_prediction raised SystemExit: 3"):
        stream.wait(30)


def test_a_callback_may_close_its_own_stream(engines: Engines) -> None:
    closed, ready = threading.Event(), threading.Event()

    def act(prediction: Prediction) -> None:
        if ready.wait(30):
            stream.close()
            closed.set()

    stream = engines.stream("short", act)
    ready.set()
    assert closed.wait(30)
    assert stream.wait(30) and stream.ended


def test_iteration_raises_what_ended_the_loop_and_so_do_later_streams(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = engines.stream("a")
    next(stream)

    def fail(*_: object) -> None:
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(NullRunner, "run", fail)
    with pytest.raises(BackendError, match="the engines failed: RuntimeError"):
        list(stream)
    with pytest.raises(BackendError, match="the engines failed"):
        engines.stream("b")
    stream.close()


def test_asyncio_programs_iterate_it_without_blocking_their_loop(bundle: Path) -> None:
    async def watch() -> tuple[list[int], int]:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.01)
                beats += 1

        task = asyncio.create_task(beat())
        with clcr_stream.open(microphone="test://", bundle=bundle, backend="null", duration_s=1.0) as stream:
            seqs = [prediction.seq async for prediction in stream]
        task.cancel()
        return seqs, beats

    seqs, beats = asyncio.run(watch())
    assert seqs and seqs == sorted(seqs) and seqs[-1] <= 5
    assert beats > 5


def test_a_stream_can_be_published_and_written_as_well(bundle: Path, tmp_path: Path) -> None:
    with clcr_stream.open(
        microphone="test://", bundle=bundle, backend="null", stream="here", publish="default", output=tmp_path / "o"
    ) as stream:
        assert stream.endpoint is not None and stream.session.stream == "here"
        with clcr_stream.Subscriber(stream="here") as subscriber:
            arrival = subscriber.receive(timeout_ms=30_000)
            assert arrival is not None and isinstance(arrival.message, Prediction)
    assert b'"type":"prediction"' in (tmp_path / "o").read_bytes()


def test_mistakes_are_one_line_and_open_nothing(bundle: Path, engines: Engines) -> None:
    before = threading.active_count()
    wrong: list[tuple[Callable[[], object], type[ClcrError], str]] = [
        (lambda: clcr_stream.open(), ConfigError, "no source; give camera"),
        (lambda: clcr_stream.open(input="/nowhere.mp4", bundle=bundle), SourceError, "no such file"),
        (lambda: clcr_stream.open(microphone="test://", bundle=bundle, gamma=9.0), ConfigError, "gamma is 9"),
        (lambda: clcr_stream.open(microphone="test://", bundle=bundle, backend="gpu"), BackendError, "unknown"),
        (lambda: clcr_stream.open(microphone="test://", bundle=bundle, stream="a b"), ConfigError, "allowed"),
        (lambda: Engines.load(bundle, streams=0), ConfigError, "allowed are 1"),
        (lambda: Engines.load("/nowhere"), clcr_stream.BundleError, "cannot be opened"),
        (lambda: engines.stream("x", modalities=()), ConfigError, "modalities"),
        (lambda: engines.stream("x", pace="slow"), ConfigError, "pace is"),  # type: ignore[arg-type]
    ]
    for act, error, text in wrong:
        with pytest.raises(error, match=text) as raised:
            act()
        assert "\n" not in str(raised.value)
    assert eventually(lambda: threading.active_count() == before)


def test_a_stream_too_many_a_name_in_use_and_closed_engines_are_told(bundle: Path) -> None:
    with Engines.load(bundle, backend="null", streams=2) as engines:
        first = engines.stream("a")
        with pytest.raises(ConfigError, match="stream a runs already"):
            engines.stream("a")
        second = engines.stream("b")
        with pytest.raises(BackendError, match="all 2 streams are taken; load the engines with streams=3"):
            engines.stream("c")
        second.close()
        engines.stream("c").close()
    assert first.ended and len(list(first)) <= 1  # what was predicted before can still be read
    with pytest.raises(ConfigError, match="these engines are closed"):
        engines.stream("d")


def test_reading_a_stream_with_a_callback_is_refused(engines: Engines) -> None:
    with engines.stream("a", lambda prediction: None) as stream:
        with pytest.raises(ConfigError, match="has on_prediction"):
            next(stream)


def test_nothing_is_left_open_when_streams_and_engines_are_closed(bundle: Path) -> None:
    def ours() -> set[str]:
        return {thread.name for thread in threading.enumerate() if thread.name.startswith(("clcr-", "source "))}

    before, descriptors = ours(), psutil.Process().num_fds()
    for _ in range(2):
        with Engines.load(bundle, backend="null", streams=2) as engines:
            engines.stream("a")
            engines.stream("b", lambda prediction: None)
    assert eventually(lambda: ours() == before), ours() - before
    assert psutil.Process().num_fds() <= descriptors


def code_blocks() -> list[str]:
    text = (ROOT / "docs/embedding.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(code_blocks())))
def test_the_document_s_code_runs_with_a_recording_for_the_camera(bundle: Path, number: int) -> None:
    """With small engines for the default ones, which the examples load."""
    code = code_blocks()[number].replace('camera="0", microphone="default"', 'input="test://?seconds=1"')
    code = code.replace("duration_s=3", "duration_s=1")
    small = "from pathlib import Path\nfrom clcr_stream.inference import choose\n"
    done = child(f"{small}choose.default_bundle_folder = lambda: Path({str(bundle)!r})\n{code}")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("name", ["embed_opencv", "embed_notebook"])
def test_an_example_runs(name: str) -> None:
    path = ROOT / f"examples/{name}.py"
    variables = os.environ | {"PYTHONPATH": str(RUNTIME)}
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env=variables, timeout=120)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert re.search(r"^\d+ (None|[a-z]+) ", done.stdout, re.MULTILINE), done.stdout


def test_an_output_that_has_stopped_is_a_warning_in_the_log_of_the_library(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with clcr_stream.open(
        input="test://?seconds=1", pace="max", bundle=bundle, backend="null", output="/dev/full"
    ) as stream:
        list(stream)
    (warned,) = (entry for entry in caplog.records if entry.levelno >= logging.WARNING)
    assert warned.getMessage().startswith("--output /dev/full has stopped: ")
