"""One clip of a manifest through a bundle's engines, hop by hop, as the runtime would see it live.

Pictures, samples and words go through the library's pushed stream, and so through the runtime's own front-ends, window
and engines. Nothing here needs torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clcr.training.data.decode import load_image
from clcr.training.data.manifest import Row
from clcr_stream import Baseline, Engines, Prediction, PushedStream, SourceError
from clcr_stream.clock import NS_PER_S
from clcr_stream.sources.base import BOTH, Modality
from clcr_stream.sources.media import AudioItem, Item, MediaReader, VideoItem, open_file

KIND_MEDIA: dict[str, tuple[Modality, ...]] = {
    "video": ("vision", "acoustic"),
    "audio": ("acoustic",),
    "image": ("vision",),
    "face": ("vision",),
    "text": (),
}
# Pushed so late that the words, which end with the clip, come before its last hop is predicted.
HELD_BACK_NS = NS_PER_S // 2
APART_NS = 2 * NS_PER_S  # a modality that is further behind than files are interleaved is not waited for


@dataclass(frozen=True)
class Answer:
    """What the streams said of a clip: the probabilities or the value at its last hop, and the label of every hop."""

    probs: tuple[float, ...]  # by label; the model's prior when nothing was seen in the last window; () of a regression
    seen: bool  # whether anything of the clip was in the last window
    hops: tuple[int, ...]  # index of the label at each hop, -1 while nothing was seen
    hop_s: float
    value: float = 0.0  # of a regression; 0 when nothing was seen in the last window
    left: Mapping[str, Baseline] = field(default_factory=dict, compare=False)  # what was usual for its person


def recordable(row: Row) -> tuple[Modality, ...]:
    """The modalities that a clip of this kind can have been recorded with."""
    words: tuple[Modality, ...] = ("language",) if row.text.strip() else ()
    return KIND_MEDIA[row.kind] + words


def play(
    engines: Engines,
    row: Row,
    media_root: Path,
    shown: tuple[Modality, ...],
    past: Mapping[str, Baseline] | None = None,
    hold_s: float = 0.0,
) -> Answer | None:
    """Run a clip with only the modalities `shown`; None when it was recorded without one of them.

    The words, whose times a manifest does not have, arrive with the clip's end. `past` is what is usual for its person,
    of a bundle with baselines. A photograph or face is shown for `hold_s`, at 0 once. Raises SourceError when the media
    cannot be decoded or hold nothing between start_s and end_s.
    """
    if not set(shown) <= set(recordable(row)):
        return None
    media: tuple[Modality, ...] = tuple(modality for modality in shown if modality != "language")
    if not media:
        return _play_words(engines, row)
    if row.kind in ("image", "face"):
        return _play_picture(engines, row, load_image(media_root, row), shown, past, hold_s)
    path = media_root / row.media
    if row.kind == "video":
        with open_file(str(path), BOTH, engines.sample_rate_hz, _ignored) as reader:
            if not set(media) <= set(reader.modalities):
                return None
    with open_file(str(path), media, engines.sample_rate_hz, _ignored) as reader:
        return _play_media(engines, row, reader, shown, past)


@dataclass(frozen=True)
class Joined:
    """What one stream said of several parts that follow each other directly."""

    answer: Answer  # of them all, as of one clip
    starts_s: tuple[float, ...]  # of each part, and the end of the last one


def play_joined(
    engines: Engines,
    parts: Sequence[Sequence[Row]],
    media_root: Path,
    shown: tuple[Modality, ...],
    least_s: float,
) -> Joined | None:
    """Run parts as one stream, each of as many of its clips, one directly after the other, as `least_s` take.

    Of clips with sound or video, without words. None when a part's clips together are shorter. Raises SourceError as
    `play` does.
    """
    rate_hz = engines.sample_rate_hz
    with engines.stream(pace="max", modalities=shown) as stream:
        feeder, hearer = _Feeder(stream, shown), _Hearer(engines, stream)
        starts_s = [0.0]
        for rows in parts:
            for row in rows:
                if feeder.end_s - starts_s[-1] >= least_s:
                    break
                feeder.begin(rate_hz)
                with open_file(str(media_root / row.media), shown, rate_hz, _ignored) as reader:
                    for item in _between(_decoded(reader, row), row, rate_hz):
                        feeder.push(item, rate_hz)
                        hearer.hear()
            if feeder.end_s - starts_s[-1] < least_s:
                return None
            starts_s.append(feeder.end_s)
        feeder.finish("")
        answer = hearer.answer(parts[-1][-1])
    return Joined(answer, tuple(starts_s))


def _play_words(engines: Engines, row: Row) -> Answer:
    with engines.stream(pace="max", modalities=("language",)) as stream:
        stream.push_text(row.text, 0, stream.session.hop_ns)
        stream.end()
        return _Hearer(engines, stream).answer(row)


def _play_picture(
    engines: Engines,
    row: Row,
    image: NDArray[np.uint8],
    shown: tuple[Modality, ...],
    past: Mapping[str, Baseline] | None,
    hold_s: float,
) -> Answer:
    face = face_at(image, engines.face_px) if row.kind == "face" else None
    with engines.stream(pace="max", modalities=shown, baselines=past) as stream:
        hearer = _Hearer(engines, stream)
        if "language" in shown:
            stream.push_text(row.text, 0, 0)
        for slot in range(max(1, round(hold_s * engines.frame_rate_hz))):
            time_ns = slot * NS_PER_S // engines.frame_rate_hz
            if face is not None:
                stream.push_face(time_ns, face)
            else:
                stream.push_frame(time_ns, _coloured(image))
            hearer.hear()
        stream.end(round_up=True)
        return hearer.answer(row)


def _play_media(
    engines: Engines,
    row: Row,
    reader: MediaReader,
    shown: tuple[Modality, ...],
    past: Mapping[str, Baseline] | None,
) -> Answer:
    with engines.stream(pace="max", modalities=shown, baselines=past) as stream:
        feeder, hearer = _Feeder(stream, reader.modalities), _Hearer(engines, stream)
        for item in _between(_decoded(reader, row), row, engines.sample_rate_hz):
            feeder.push(item, engines.sample_rate_hz)
            hearer.hear()
        feeder.finish(row.text if "language" in shown else "")
        return hearer.answer(row)


class _Feeder:
    """Pushes what was decoded a little later than it is given, in the order of the file."""

    def __init__(self, stream: PushedStream, media: tuple[Modality, ...]) -> None:
        self._stream = stream
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._reached_ns = dict.fromkeys(media, -1)
        self._newest_ns = 0
        self._start = 0  # of the clip, in samples

    @property
    def end_s(self) -> float:
        """The end of what was given, in the stream."""
        return self._newest_ns / NS_PER_S

    def begin(self, rate_hz: int) -> None:
        """What is given from now on begins here: the next clip. Sound goes on to the sample."""
        self._start = -(-self._newest_ns * rate_hz // NS_PER_S)

    def push(self, item: Item, rate_hz: int) -> None:
        """Take one picture or block of sound; those of HELD_BACK_NS ago are pushed."""
        if self._start:
            item = _later(item, self._start, rate_hz)
        if isinstance(item, VideoItem):
            modality: Modality = "vision"
            start_ns = end_ns = item.time_ns
        else:
            modality = "acoustic"
            start_ns = item.first_sample * NS_PER_S // rate_hz
            end_ns = start_ns + len(item.samples) * NS_PER_S // rate_hz
        self._newest_ns = max(self._newest_ns, end_ns)
        self._waiting.append((end_ns, lambda: self._give(modality, start_ns, item)))
        self._flush(self._newest_ns - HELD_BACK_NS)

    def finish(self, text: str) -> None:
        """The words, the rest and the end. SourceError when nothing was pushed."""
        if not self._waiting:
            raise SourceError("no picture and no sound between its start and its end")
        if text:
            self._stream.push_text(text, 0, self._newest_ns)
        self._flush(self._newest_ns)
        self._stream.end(round_up=True)

    def _flush(self, until_ns: int) -> None:
        while self._waiting and self._waiting[0][0] <= until_ns:
            self._waiting.popleft()[1]()

    def _give(self, modality: Modality, start_ns: int, item: Item) -> None:
        if start_ns < self._reached_ns[modality]:
            return  # a time stamp that goes back: the runtime keeps what came first
        self._reached_ns[modality] = start_ns
        for other, reached_ns in self._reached_ns.items():
            if reached_ns < start_ns - APART_NS:
                self._reached_ns[other] = start_ns - APART_NS
                self._stream.push_gap(other, start_ns - APART_NS)
        if isinstance(item, VideoItem):
            if self._stream.wants_frame(start_ns):
                self._stream.push_frame(start_ns, item.rgb())
            else:
                self._stream.push_gap("vision", start_ns)
        else:
            self._stream.push_audio(start_ns, item.samples)


class _Hearer:
    """Keeps of each prediction the label, and of the last one the whole: memory does not grow with a clip."""

    def __init__(self, engines: Engines, stream: PushedStream) -> None:
        self._labels = engines.labels
        self._stream = stream
        self._hops: list[int] = []
        self._last: Prediction | None = None

    def hear(self) -> None:
        """Take the predictions that wait."""
        while (prediction := self._stream.read(0.0)) is not None:
            self._take(prediction)

    def answer(self, row: Row) -> Answer:
        """Take the predictions to the end. SourceError when there was none."""
        for prediction in self._stream:
            self._take(prediction)
        if self._last is None:
            raise SourceError(f"{row.media or row.id}: the engines gave no valid answer")
        probs = self._last.probs or {}
        return Answer(
            probs=tuple(float(probs[label] or 0.0) for label in self._labels),
            seen=self._last.label is not None or self._last.value is not None,
            hops=tuple(self._hops),
            hop_s=self._stream.session.hop_ns / NS_PER_S,
            value=self._last.value or 0.0,
            left=self._stream.baselines,
        )

    def _take(self, prediction: Prediction) -> None:
        self._last = prediction
        self._hops.append(-1 if prediction.label is None else self._labels.index(prediction.label))


def face_at(image: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """A face crop, grey or RGB, at the model's size; scaled as the packs for training scale it."""
    import cv2

    method = cv2.INTER_AREA if image.shape[0] > size_px else cv2.INTER_LINEAR
    if image.shape[:2] != (size_px, size_px):
        image = np.asarray(cv2.resize(image, (size_px, size_px), interpolation=method), np.uint8)
    return _coloured(image)


def _coloured(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def _decoded(reader: MediaReader, row: Row) -> Iterator[Item]:
    try:
        yield from reader.items(round(row.start_s * NS_PER_S))
    except SourceError as error:
        raise SourceError(f"{row.media}: {error}") from error


def _between(items: Iterator[Item], row: Row, rate_hz: int) -> Iterator[Item]:
    """The items of [start_s, end_s), their times counted from start_s."""
    start_ns, first = round(row.start_s * NS_PER_S), round(row.start_s * rate_hz)
    length_ns = round((row.end_s - row.start_s) * NS_PER_S) if row.end_s else None
    length = round((row.end_s - row.start_s) * rate_hz) if row.end_s else None
    for item in items:
        if isinstance(item, VideoItem):
            time_ns = item.time_ns - start_ns
            if time_ns >= 0 and (length_ns is None or time_ns < length_ns):
                yield VideoItem(time_ns, item.rgb)
        else:
            place = item.first_sample - first
            time_ns = place * NS_PER_S // rate_hz
            stop = None if length is None else max(0, length - place)
            samples = item.samples[max(0, -place) : stop]
            if len(samples):
                yield AudioItem(max(0, place), samples)
        if length_ns is not None and time_ns > length_ns + APART_NS:
            return


def _later(item: Item, samples: int, rate_hz: int) -> Item:
    if isinstance(item, VideoItem):
        return VideoItem(item.time_ns + samples * NS_PER_S // rate_hz, item.rgb)
    return AudioItem(item.first_sample + samples, item.samples)


def _ignored(_error: str) -> None:
    """Errors in the middle of a file are passed over, as the runtime does."""
