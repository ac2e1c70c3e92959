"""Several streams in one `clcr-stream` process, as a user runs them: topics, SIGHUP, SIGTERM, and equal predictions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import clcr_stream
from clcr_stream.sources.synthetic.person import PersonOptions
from clcr_stream.sources.synthetic.source import write_clip
from clcr_stream.wire import messages
from clcr_stream.wire.client import Subscriber
from media import eventually
from tiny_bundle import write_bundle

RUNTIME = str(Path(clcr_stream.__file__).parents[1])
REPOSITORY = Path(__file__).resolve().parents[2]
LIVE = {"camera": "none", "mic": "test://"}
TICKS = 10  # of the clip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    write_bundle(folder / "bundle")
    write_clip(folder / "clip.mp4", TICKS / 5, PersonOptions(fps=15))
    (folder / "words.jsonl").write_text('{"start_s": 0.2, "end_s": 1.0, "text": "hello there"}\n')
    (folder / "run").mkdir(mode=0o700)
    return folder


@pytest.fixture
def config(place: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the configuration of a process: stream name -> its sources; JSON is YAML."""

    def write(**streams: dict[str, Any]) -> Path:
        entries = [
            {"name": name, "sources": sources, "output": str(tmp_path / f"{name}.jsonl")}
            for name, sources in streams.items()
        ]
        (tmp_path / "new.yaml").write_text(json.dumps({"streams": entries, "run": {"settle_ms": 10}}))
        return (tmp_path / "new.yaml").replace(tmp_path / "streams.yaml")

    return write


def command(place: Path, *arguments: str | Path, bundle: Path | None = None) -> tuple[list[str], dict[str, str]]:
    line = [sys.executable, "-m", "clcr_stream", "--bundle", str(bundle or place / "bundle"), *map(str, arguments)]
    return line, os.environ | {"PYTHONPATH": RUNTIME, "XDG_RUNTIME_DIR": str(place / "run")}


class Running:
    """A process and what it says on stderr, line by line."""

    def __init__(self, line: list[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line.rstrip("\n"))

    def hears(self, wanted: str) -> bool:
        return eventually(lambda: any(wanted in line for line in self.said), 30.0)

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self._reader.join()


@contextmanager
def running(line: list[str], environment: dict[str, str]) -> Iterator[Running]:
    found = Running(line, environment)
    try:
        yield found
    finally:
        found.end()


def predictions(path: Path) -> list[messages.Prediction]:
    whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    decoded = [messages.decode(line) for line in whole]
    return [message for message in decoded if isinstance(message, messages.Prediction)]


def grows(path: Path, more: int = 3) -> bool:
    count = len(predictions(path)) if path.exists() else 0
    return eventually(lambda: path.exists() and len(predictions(path)) >= count + more, 30.0)


def states(subscriber: Subscriber) -> list[str]:
    """States of a stream until its goodbye."""
    found: list[str] = []
    while not found or found[-1] != "goodbye":
        got = subscriber.receive(timeout_ms=10_000)
        assert got is not None, f"no goodbye after {found}"
        assert isinstance(got.message, messages.Status)
        found.append(got.message.state)
    return found


def test_streams_come_and_go_by_sighup_and_end_by_sigterm_without_the_others_noticing(
    place: Path, tmp_path: Path, config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place / "run"))
    path = config(goes=LIVE, stays=LIVE)
    with running(*command(place, "--config", path)) as at:
        assert at.hears("publishing clcr/stays/... on ipc://")
        assert grows(tmp_path / "stays.jsonl") and grows(tmp_path / "goes.jsonl")
        with Subscriber(stream="goes", topics=("status",)) as watcher:
            first = watcher.receive(timeout_ms=10_000)
            assert first is not None
            config(stays=LIVE, comes=LIVE)
            at.reload()
            assert states(watcher)[-1] == "goodbye"
        assert at.hears("stream goes: ended") and at.hears("stream comes: started")
        assert grows(tmp_path / "comes.jsonl") and grows(tmp_path / "stays.jsonl")
        path.write_text("streams: [{name: stays, sources: {camara: none}}]\n")
        at.reload()
        assert at.hears("not reloaded, all goes on as it was: ")
        assert grows(tmp_path / "comes.jsonl") and grows(tmp_path / "stays.jsonl")
        watchers = [Subscriber(stream=name, topics=("status",)) for name in ("stays", "comes")]
        for watcher in watchers:
            assert watcher.receive(timeout_ms=10_000) is not None
        at.process.send_signal(signal.SIGTERM)
        asked_ns = time.monotonic_ns()
        assert at.process.wait(10) == 0
        assert (time.monotonic_ns() - asked_ns) / 1e9 < 2.0
        for watcher in watchers:
            assert states(watcher)[-1] == "goodbye"
            watcher.close()
    refusals = [line for line in at.said if "not reloaded" in line]
    assert len(refusals) == 1
    assert f"{path}: unknown key streams[0].sources.camara; allowed here: camera" in refusals[0]
    assert not [line for line in at.said if "Traceback" in line]
    found = predictions(tmp_path / "stays.jsonl")
    seqs = [prediction.seq for prediction in found]
    status = messages.decode((tmp_path / "stays.jsonl").read_bytes().splitlines()[-1])
    assert isinstance(status, messages.Status)
    # A hop that a starved machine skips is in the account; nothing else may be missing.
    assert status.ticks.published == len(seqs)
    assert set(status.ticks.skipped) <= {"late"}
    assert seqs[-1] - len(seqs) <= sum(status.ticks.skipped.values()) <= len(seqs) // 4
    assert {prediction.session for prediction in found} == {status.session}


def test_what_cannot_change_while_running_is_refused_in_one_line(
    place: Path, tmp_path: Path, config: Callable[..., Path]
) -> None:
    path = config(only=LIVE)
    with running(*command(place, "--config", path, "--quiet")) as at:
        assert grows(tmp_path / "only.jsonl", 1)
        tree = json.loads(path.read_text())
        path.write_text(json.dumps(tree | {"run": {"settle_ms": 99}}))
        at.reload()
        assert at.hears("model, run and publish cannot change while running")
        path.write_text("{}")
        at.reload()
        assert at.hears("only a list of streams can change while running")
        assert grows(tmp_path / "only.jsonl", 1)
        at.process.send_signal(signal.SIGTERM)
        assert at.process.wait(10) == 0
    assert len(at.said) == 2


def test_json_and_a_stream_that_writes_to_stdout_contradict_each_other(
    place: Path, tmp_path: Path, config: Callable[..., Path]
) -> None:
    path = config(only=LIVE)
    path.write_text(json.dumps({"streams": [{"name": "only", "sources": LIVE, "output": "-"}]}))
    line, environment = command(place, "--config", path, "--json")
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--json and --output - both write to stdout" in done.stderr


def clip(place: Path, **more: str) -> dict[str, str]:
    return {"input": str(place / "clip.mp4"), "transcript": str(place / "words.jsonl"), "pace": "max", **more}


BUNDLES = ("tiny", "default")


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_stream_says_the_same_alone_and_in_a_batch_with_others(
    place: Path, tmp_path: Path, config: Callable[..., Path], bundle: str
) -> None:
    folder = place / "bundle" if bundle == "tiny" else REPOSITORY / "engines" / "default"
    if not (folder / "manifest.json").is_file():
        pytest.skip("no default bundle here")

    def run(path: Path) -> dict[str, Any]:
        line, environment = command(place, "--config", path, "--json", bundle=folder)
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)["streams"]
        return found

    # At their own pace all are due together; unpaced, each tick goes as soon as its data is there, alone as a rule.
    paced = clip(place) | {"pace": "real"}
    run(config(alone=clip(place)))
    done = run(config(first=paced, other=paced | {"transcript": "none"}, third=paced))
    assert {one["published"] + sum(one["skipped"].values()) for one in done.values()} == {TICKS}
    alone = {one.seq: one for one in predictions(tmp_path / "alone.jsonl")}
    assert len(alone) == TICKS
    batches, differences = set(), []
    for name in ("first", "third"):
        spoken = predictions(tmp_path / f"{name}.jsonl")
        assert len(spoken) == done[name]["published"] > 0  # a machine that is busy with something else skips ticks
        for together in spoken:
            single = alone[together.seq].probs
            assert together.probs is not None and single is not None
            for label, share in single.items():
                assert together.probs[label] == pytest.approx(share, abs=1e-6)
            batches.add(together.timing_ms["batch"] or 0.0)
    for other in predictions(tmp_path / "other.jsonl"):
        both = other.modalities.language.coverage, alone[other.seq].modalities.language.coverage
        assert both[0] is not None and both[1] is not None
        differences.append(abs(both[0] - both[1]))
    assert max(batches) > 1, "nothing went through the levels together"
    assert max(differences) > 0
