"""A long run in a short time: streams tick under a clock that jumps, on a backend that computes nothing.

    nice .venv/bin/python tools/soak.py --ticks 1000000 --json soak.json

Everything of a tick but the engines and the sockets is the product's own: rings, cutter, words, seats, loop, session,
prediction and its JSON. Memory, descriptors, threads and the garbage collector's objects are measured at intervals; a
line is laid through the second half, and what grows by more than the limits ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil

from clcr_stream.bundle.loader import Bundle, default_bundle_folder, load_bundle
from clcr_stream.bundle.manifest import TOKENIZER_NAME, Manifest, TensorSpec
from clcr_stream.clock import FOREVER_NS, NS_PER_S, VirtualClock, Wake
from clcr_stream.errors import ClcrError
from clcr_stream.frontends.text import Tokenizer
from clcr_stream.inference.levels import Levels, open_encoder
from clcr_stream.inference.null import NullBackend
from clcr_stream.inference.program import Runner
from clcr_stream.sources.base import Modality, SourceReport
from clcr_stream.streams.loop import Loop
from clcr_stream.streams.prediction import Identity
from clcr_stream.streams.session import Schedule, Session, open_pipeline
from clcr_stream.window.grid import TimeGrid
from clcr_stream.window.ring import Rings
from clcr_stream.window.transcript import Segment
from clcr_stream.wire import messages
from clcr_stream.wire.names import new_session_id

SETTLE_NS = 60_000_000
WORDS_EVERY_HOPS = 10
LIFE_TICKS = 5000  # of a stream before another one takes its seat; one stream stays to the end
SAMPLES = 64
SIZE_PX = 32  # of a face
FIELDS = ("rss_mb", "fds", "threads", "objects")
# Measure -> growth allowed over 10^6 ticks, and what is noise of the allocator or of streams of different ages.
LIMITS = {"rss_mb": (8.0, 2.0), "objects": (500.0, 100.0)}


@dataclass(frozen=True)
class Sample:
    """The process after so many ticks."""

    ticks: int
    rss_mb: float
    fds: int
    threads: int
    objects: int


@dataclass(frozen=True)
class Script:
    """One hop of input, the same again and again."""

    crop: Any  # (size, size, 3) uint8
    sound: Any  # (samples,) float32


class ScriptedSource:
    """A live source without a thread: the clock has it push what was captured until now."""

    modalities: tuple[Modality, ...] = ("vision", "acoustic", "language")
    lossless = False
    finished = False
    watermark_ns = FOREVER_NS
    name = "script"

    def __init__(self, rings: Rings, manifest: Manifest, script: Script) -> None:
        self._rings, self._manifest, self._script = rings, manifest, script
        self._hop = 0

    def push_until(self, now_ns: int) -> None:
        """Whole hops, as a camera and a sound card would have given them."""
        vision, acoustic = self._manifest.vision, self._manifest.acoustic
        origin_ns, hop_ns = self._rings.grid.origin_ns, self._manifest.hop_ns
        while origin_ns + (self._hop + 1) * hop_ns <= now_ns:
            for slot in range(self._hop * vision.slots_per_hop, (self._hop + 1) * vision.slots_per_hop):
                captured_ns = origin_ns + slot * NS_PER_S // vision.rate_hz
                if self._rings.vision.wants(captured_ns):
                    self._rings.vision.put(captured_ns, self._script.crop, 0.9, 1)
            self._rings.acoustic.put(self._hop * acoustic.samples_per_hop, self._script.sound)
            if self._hop % WORDS_EVERY_HOPS == 0:
                start_ns = origin_ns + self._hop * hop_ns
                text = f"hello there good morning number {self._hop}"
                self._rings.transcript.put(Segment(f"{self._hop}", start_ns, start_ns + hop_ns, text), now_ns)
            self._hop += 1

    def start(self) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close."""

    def filled(self, end_ns: int) -> bool:
        return True

    def consumed(self, end_ns: int) -> None:
        """A live source waits for nobody."""

    def report(self) -> SourceReport:
        return SourceReport(self.name, "script", "live", "", {})


class FeedingClock(VirtualClock):
    """Jumps to the next deadline, and has the sources push what was captured in between."""

    def __init__(self) -> None:
        super().__init__(NS_PER_S)
        self.sources: dict[Session, ScriptedSource] = {}

    def pause(self, deadline_ns: int | None, wake: Wake) -> None:
        super().pause(deadline_ns, wake)
        now_ns = self.now_ns()
        for source in self.sources.values():
            source.push_until(now_ns)


class Soak:
    """Streams in one loop; some end and others take their place, one stays."""

    def __init__(self, bundle: Bundle, ticks: int, streams: int) -> None:
        self._manifest = bundle.manifest
        self._goal, self._streams = ticks, streams
        self._clock = FeedingClock()
        self._levels = Levels(bundle, NullBackend(), streams)
        self._encoder: Runner = open_encoder(bundle, NullBackend())
        self._tokenizer = Tokenizer(bundle.files[TOKENIZER_NAME])
        size, samples = self._manifest.vision.size_px, self._manifest.acoustic.samples_per_hop
        random = np.random.default_rng(0)
        self._script = Script(
            random.integers(0, 256, (size, size, 3), dtype=np.uint8),
            random.normal(0, 0.1, samples).astype(np.float32),
        )
        self._stop = threading.Event()
        self._process = psutil.Process()
        self._every = max(1, ticks // SAMPLES)
        self.published = self.begun = self.bytes = 0
        self._due = self._others = 0
        self._table = np.zeros((SAMPLES + SAMPLES, 5))  # made before: a list of samples would be growth itself
        self._rows = 0
        self.failure: ClcrError | None = None

    def run(self) -> None:
        """Tick until the goal; raises what ended a stream, or AssertionError when a tick is not accounted for."""
        with Wake() as wake:
            self._loop = Loop(self._levels, self._clock, wake, self._ended, self._streams)
            for _ in range(self._streams):
                self._begin()
            self._loop.run(self._stop)
        if self.failure is not None:
            raise self.failure
        due = self._due + sum(session.account.ticks().due for session in self._clock.sources)
        assert due == self.published, f"{due} ticks were due and {self.published} published"

    def _begin(self) -> None:
        now_ns, first = self._clock.now_ns(), self.begun == 0
        grid = TimeGrid.of(self._manifest, now_ns - (now_ns - NS_PER_S) % self._manifest.hop_ns)
        pipeline = open_pipeline(self._manifest, grid.origin_ns, self._tokenizer, self._encoder)
        source = ScriptedSource(pipeline.rings, self._manifest, self._script)
        life = None if first else LIFE_TICKS + 37 * self.begun % LIFE_TICKS
        session = Session(
            pipeline,
            [source],
            Schedule(self._clock, SETTLE_NS, last_tick=life),
            Identity(f"s{self.begun}", new_session_id(), "boot", "f" * 64, "null"),
            self.send,
        )
        self.begun += 1
        self._clock.sources[session] = source
        self._loop.add(session)

    def _ended(self, session: Session, error: ClcrError | None) -> None:
        del self._clock.sources[session]
        self._due += session.account.ticks().due
        if error is not None:
            self.failure = error
            self._stop.set()
        else:
            self._begin()

    def send(self, message: messages.Message) -> None:
        """Count a message as a publisher would take it."""
        if not isinstance(message, messages.Prediction):
            self._others += 1
            message = msgspec.structs.replace(message, seq=self._others)  # as the publisher numbers it
        self.bytes += len(messages.encode(message, "json"))
        if not isinstance(message, messages.Prediction):
            return
        self.published += 1
        if self.published % self._every == 0:
            self._measure()
        if self.published >= self._goal:
            self._stop.set()

    def _measure(self) -> None:
        gc.collect()
        row = self._table[self._rows]
        row[:] = self.published, 0, self._process.num_fds(), self._process.num_threads(), len(gc.get_objects())
        row[1] = self._process.memory_info().rss / 1e6
        self._rows += 1

    def samples(self) -> list[Sample]:
        """What was measured, in order."""
        rows = self._table[: self._rows].tolist()
        return [Sample(int(t), round(mb, 3), int(fds), int(threads), int(n)) for t, mb, fds, threads, n in rows]


def narrow(bundle: Bundle) -> Bundle:
    """The bundle with smaller pictures: a fifth of a tick went into copying pixels, which keep nothing."""
    manifest = bundle.manifest

    def smaller(tensor: TensorSpec) -> TensorSpec:
        sizes = [SIZE_PX if size == manifest.vision.size_px else size for size in tensor.shape]
        return msgspec.structs.replace(tensor, shape=sizes) if tensor.name == "vision_in" else tensor

    engines = {
        name: msgspec.structs.replace(spec, inputs=[smaller(tensor) for tensor in spec.inputs])
        for name, spec in manifest.engines.items()
    }
    vision = msgspec.structs.replace(manifest.vision, size_px=SIZE_PX)
    return Bundle(msgspec.structs.replace(manifest, vision=vision, engines=engines), bundle.files, bundle.id)


def growth(samples: Sequence[Sample], measure: str) -> float:
    """How much a measure grows over 10^6 ticks, from a line through the second half of the samples."""
    kept = samples[len(samples) // 2 :]
    ticks = [sample.ticks for sample in kept]
    slope, _ = np.polyfit(np.array(ticks) - ticks[0], [getattr(sample, measure) for sample in kept], 1)
    return float(slope) * 1e6


def verdict(samples: Sequence[Sample]) -> dict[str, Any]:
    """The slopes, and what grows: descriptors and threads not at all, the rest beyond its limit and the noise."""
    kept = samples[len(samples) // 2 :]
    spans = {name: max(getattr(s, name) for s in kept) - min(getattr(s, name) for s in kept) for name in FIELDS}
    over = [name for name in ("fds", "threads") if spans[name] > 0]
    slopes = {name: growth(samples, name) for name in LIMITS}
    for name, (limit, noise) in LIMITS.items():
        grown = slopes[name] * (kept[-1].ticks - kept[0].ticks) / 1e6
        if slopes[name] > limit and min(grown, spans[name]) > noise:
            over.append(name)
    return {f"{name}_per_million_ticks": round(slope, 3) for name, slope in slopes.items()} | {"grows": over}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print ticks per second and slopes, write the samples; 1 when something grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=1_000_000, help="of all streams together (default: 1000000)")
    parser.add_argument("--streams", type=int, default=4, help="at once (default: 4)")
    parser.add_argument("--bundle", metavar="DIR", help="whose grid and tokenizer (default: the one that is shipped)")
    parser.add_argument("--json", metavar="FILE", help="write figures and samples there")
    parser.add_argument("--faults", type=float, metavar="MINUTES", help="instead: the command, while its inputs fail")
    parser.add_argument("--view", type=float, metavar="MINUTES", help="instead: the dashboard, with pages that read")
    parser.add_argument("--seed", type=int, default=0, help="of the faults or visits (default: 0)")
    given = parser.parse_args(arguments)
    if given.faults is not None:
        from soak_faults import soak_faults

        return soak_faults(given.faults, given.seed, given.json)
    if given.view is not None:
        from soak_view import soak_view

        return soak_view(given.view, given.seed, given.json)
    soak = Soak(narrow(load_bundle(given.bundle or default_bundle_folder())), given.ticks, given.streams)
    begun_ns = time.perf_counter_ns()
    soak.run()
    seconds = (time.perf_counter_ns() - begun_ns) / NS_PER_S
    measured = soak.samples()
    result = {
        "ticks": soak.published,
        "streams_at_once": given.streams,
        "streams_begun": soak.begun,
        "seconds": round(seconds, 1),
        "ticks_per_s": round(soak.published / seconds, 1),
        "last": asdict(measured[-1]),
    } | verdict(measured)
    print(json.dumps(result))
    if given.json is not None:
        samples = [asdict(sample) for sample in measured]
        Path(given.json).write_text(json.dumps(result | {"samples": samples}, indent=1) + "\n", encoding="utf-8")
    return 1 if result["grows"] else 0


if __name__ == "__main__":
    sys.exit(main())
