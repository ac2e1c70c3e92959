"""Every decoder of the runtime that reads what others made: its promise, and inputs to begin with."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from clcr_stream.bundle.loader import default_bundle_folder, load_bundle
from clcr_stream.bundle.manifest import parse_manifest
from clcr_stream.cli.where import parse_where, plain
from clcr_stream.config import load_config
from clcr_stream.errors import ClcrError, SourceError
from clcr_stream.inference.baselines import Baseline
from clcr_stream.recording.reader import open_recording
from clcr_stream.recording.story import read_story
from clcr_stream.sources.decoder import protocol
from clcr_stream.sources.decoder.process import DecodedStream, LivePicture
from clcr_stream.sources.speech.process import read_answer
from clcr_stream.sources.subtitles import parse_json_line, read_transcript
from clcr_stream.sources.transcripts import parse_zmq_url
from clcr_stream.streams.profile import check_profile, decode_baselines, encode_baselines
from clcr_stream.wire import messages
from clcr_stream.wire.client import TopicTrack
from clcr_stream.wire.endpoint import checked_endpoint
from clcr_stream.wire.keys import KeyFolder, allowed_keys, public_key, secret_key
from clcr_stream.wire.watcher import place_of
from fuzzing.judge import Target
from fuzzing.recorded import GOLDEN, recorded, recorded_lines, replay

ROOT = Path(__file__).resolve().parents[2]
Decoder = Callable[[bytes], object]


def targets(folder: Path) -> list[Target]:
    """All of them; `folder` is for the files that they read."""
    only = (ClcrError,)
    wire = [(GOLDEN / f"{kind}.json").read_bytes() for kind in messages.KINDS]
    packed = [(GOLDEN / f"{kind}.msgpack").read_bytes() for kind in messages.KINDS]
    lines = b"".join(data.strip() + b"\n" for data in wire)
    subtitle = b"1\n00:00:01,000 --> 00:00:02,500\n<i>Hello</i> &amp; there\n\n2\n00:00:03,000 --> 00:00:04,000\nyou\n"
    webvtt = b"WEBVTT\n\nNOTE x\n\n00:01.000 --> 00:02.500 align:start\nHello\n\n01:00:03.000 --> 01:00:04.000\nyou\n"
    spoken = (
        b'{"start_s": 1.0, "end_s": 2.5, "text": "hello", "id": 3, "revision": 1}\n'
        b'{"start_ns":1,"end_ns":2,"text":"a"}\n'
    )
    manifest = (default_bundle_folder() / "manifest.json").read_bytes()
    yaml = [path.read_bytes() for path in sorted((ROOT / "configs").glob("*.yaml")) if path.stat().st_size < 6000]
    baseline = {"vision": Baseline(np.ones((3, 4), np.float32), np.ones(3, np.float32))}
    profile = encode_baselines(baseline, "ab" * 32)
    return [
        Target("wire-json", _wire, only, wire),
        Target("wire-msgpack", _wire, only, packed),
        Target("frame", _frame, only, [b"clcr/default/prediction " + data for data in (*wire, *packed)]),
        Target("lines", _file(folder / "s.jsonl", read_story), only, [lines]),
        Target(
            "recording",
            _file(folder / "r.mcap", _recording),
            only,
            [recorded(folder / "seed.mcap", recorded_lines()).read_bytes()],
        ),
        Target("replay", functools.partial(replay, folder / "p.mcap"), only, [recorded_lines()]),
        Target("srt", _file(folder / "t.srt", read_transcript), only, [subtitle]),
        Target("vtt", _file(folder / "t.vtt", read_transcript), only, [webvtt]),
        Target("jsonl", _file(folder / "t.jsonl", read_transcript), only, [spoken]),
        Target("spoken-line", lambda data: parse_json_line(data, 0), (ValueError,), spoken.splitlines()),
        Target("config", _file(folder / "c.yaml", lambda path: load_config(path, {})), only, yaml),
        Target("manifest", parse_manifest, only, [manifest]),
        Target("bundle", _bundle(folder / "bundle"), only, [manifest]),
        Target("keys", _keys(folder / "keys"), only, _key_files(folder / "made")),
        Target("profile", _file(folder / "p.json", _profile), only, [profile]),
        Target(
            "where", _text(_where), only, [b"label == happy and confidence > .6", b"not (seq<3 or label contains 'a')"]
        ),
        Target(
            "endpoint", _text(_endpoints), only, [b"ipc:///tmp/a.sock", b"tcp://127.0.0.1:5556", b"a=tcp://[::1]:1"]
        ),
        Target("decoder", _decoder, only, [_decoder_talk()]),
        Target(
            "recogniser", _recogniser, only, [b'{"type":"ready","about":"x"}\n{"type":"heard","until":3,"samples":4}\n']
        ),
    ]


def _wire(data: bytes) -> None:
    messages.encode(messages.decode(data), "msgpack")


def _frame(data: bytes) -> None:
    _, payload = messages.split(data)
    TopicTrack("boot", 100.0).accept(messages.decode(payload), 10**9)


def _file(path: Path, read: Callable[[Path], object]) -> Decoder:
    def run(data: bytes) -> None:
        path.write_bytes(data)
        path.chmod(0o600)
        read(path)

    return run


def _text(read: Callable[[str], object]) -> Decoder:
    return lambda data: read(data.decode("utf-8", "surrogateescape"))


def _endpoints(text: str) -> None:
    for read in (place_of, parse_zmq_url, lambda given: checked_endpoint(given, None)):
        with contextlib.suppress(ClcrError):
            read(text)


def _recording(path: Path) -> None:
    for _ in open_recording(path).entries():
        pass
    read_story(path)


def _bundle(folder: Path) -> Decoder:
    """A folder whose manifest is the input; the files beside it are not there."""
    folder.mkdir()

    def run(data: bytes) -> None:
        (folder / "manifest.json").write_bytes(data)
        load_bundle(folder)

    return run


def _key_files(folder: Path) -> list[bytes]:
    made = KeyFolder(folder)
    made.new("server")
    return [(folder / name).read_bytes() for name in ("server.key", "server.key_secret")]


def _keys(folder: Path) -> Decoder:
    folder.mkdir()
    path = folder / "a.key"

    def run(data: bytes) -> None:
        path.write_bytes(data)
        path.chmod(0o600)
        allowed_keys(folder)
        KeyFolder(folder).own()
        for read in (public_key, secret_key):
            with contextlib.suppress(ClcrError):
                read(path)
        public_key(data.decode("utf-8", "surrogateescape"), folder)

    return run


def _profile(path: Path) -> None:
    check_profile(path)
    decode_baselines(path.read_bytes(), "ab" * 32, "profile")


def _where(text: str) -> None:
    condition = parse_where(text, messages.KINDS)
    for message in _golden():
        condition(message)


@functools.cache
def _golden() -> list[dict[str, Any]]:
    found = [messages.decode((GOLDEN / f"{kind}.json").read_bytes()) for kind in messages.KINDS]
    return [plain(message, age_ms=1.0, missed=0, new_session=False) for message in found]


class _Talk:
    """A decoder's process that says what it is given."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def message(self, _: float) -> tuple[protocol.Head, bytearray]:
        head = protocol.read_head(self._take(protocol.HEAD.size))
        return head, self._take(head.length)

    def want(self, number: int) -> None:
        """Nothing is asked for."""

    def close(self) -> None:
        """It has no process."""

    def _take(self, length: int) -> bytearray:
        part = bytearray(self._data[self._at : self._at + length])
        self._at += length
        if len(part) < length:
            raise SourceError("it has ended")
        return part


def _decoder_talk() -> bytes:
    picture = protocol.pack(protocol.PICTURE, 5, 7, 1) + protocol.pack(protocol.PIXELS, 5, 1, 2, 2, 12) + bytes(12)
    sound = protocol.pack(protocol.SOUND, 5, 0, length=16) + bytes(16)
    end = protocol.pack_with(protocol.ENDED, protocol.Ended("")) + protocol.pack(protocol.ERROR)
    return picture + sound + end


def _decoder(data: bytes) -> None:
    opened = protocol.Opened(("vision", "acoustic"), False)
    for item in DecodedStream(cast(Any, _Talk(data)), opened, lambda _: None).items():
        if isinstance(item, LivePicture):
            item.rgb()


def _recogniser(data: bytes) -> None:
    for line in data.split(b"\n"):
        read_answer(line)
