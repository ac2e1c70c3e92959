"""The process that recognises speech: sound on its standard input, lines of JSON on its standard output.

A process of its own may crash, hang or be slow, and no window waits for it. It ends when its standard input does, or
its parent.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import IO

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from clcr_stream.errors import ClcrError, one_line
from clcr_stream.processes import command, end_with
from clcr_stream.sources.speech.choose import open_recogniser, parse
from clcr_stream.sources.speech.recogniser import Recogniser, Revision

HEADER = struct.Struct("<cqI")  # what it is, index of the first sample, number of samples
SOUND, FLUSH = b"s", b"f"
NICENESS = 5  # the engines of the session come first


class Ready(Struct, frozen=True, tag="ready"):
    """The recogniser is loaded."""

    about: str


class Heard(Struct, frozen=True, tag="heard"):
    """`samples` more, until this one, were dealt with; `flushed` answers a flush, `doubted` is the recogniser's."""

    until: int
    samples: int
    flushed: bool = False
    doubted: int = 0


class Failed(Struct, frozen=True, tag="failed"):
    """It will never work here, and why."""

    reason: str


Answer = Ready | Heard | Failed | Revision
_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


def decode_answer(line: bytes) -> Answer:
    """One line of the process's output; MsgspecError when it is none."""
    return _answers.decode(line)


def child_command(spec: str, live: bool) -> list[str]:
    """The command of the process for a text that names a recogniser."""
    return [*command(__name__, "main"), spec, "live" if live else "recording"]


def sound_frame(first: int, samples: NDArray[np.float32]) -> bytes:
    """Samples (n,) float32 as the process reads them."""
    return HEADER.pack(SOUND, first, len(samples)) + samples.astype("<f4").tobytes()


FLUSH_FRAME = HEADER.pack(FLUSH, 0, 0)

Frame = tuple[int, NDArray[np.float32]] | None  # first index and samples; None: flush


def read_frames(pipe: IO[bytes]) -> Iterator[Frame]:
    """What comes through the pipe, until it ends."""
    while len(head := pipe.read(HEADER.size)) == HEADER.size:
        kind, first, count = HEADER.unpack(head)
        if kind == FLUSH:
            yield None
            continue
        data = pipe.read(4 * count)
        if len(data) < 4 * count:
            return
        yield first, np.frombuffer(data, "<f4").astype(np.float32)


class Waiting:
    """Frames that came while a reading went on; sound that follows on is joined, so that a slow reader catches up."""

    def __init__(self, join: bool) -> None:
        self._join = join
        self._frames: list[Frame] = []
        self._changed = threading.Condition()
        self._ended = False

    def put(self, frame: Frame) -> None:
        """The next frame; any thread."""
        with self._changed:
            self._frames.append(frame)
            self._changed.notify()

    def end(self) -> None:
        """No more frames."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._changed:
                while not self._frames:
                    if self._ended:
                        return
                    self._changed.wait()
                frame = self._take()
            yield frame

    def _take(self) -> Frame:
        frame = self._frames.pop(0)
        if frame is None or not self._join:
            return frame
        first, parts, stop = frame[0], [frame[1]], frame[0] + len(frame[1])
        while self._frames and (following := self._frames[0]) is not None and following[0] == stop:
            parts.append(following[1])
            stop += len(following[1])
            self._frames.pop(0)
        return first, np.concatenate(parts)


def serve(recogniser: Recogniser, frames: Iterator[Frame], out: IO[bytes]) -> None:
    """Answer every frame: the revisions that it brings, then that it was heard."""

    def say(answer: Answer) -> None:
        out.write(msgspec.json.encode(answer) + b"\n")

    say(Ready(recogniser.about))
    out.flush()
    until = 0
    for frame in frames:
        if frame is None:
            revisions, samples = recogniser.flush(), 0
        else:
            first, sound = frame
            revisions, samples = recogniser.push(first, sound), len(sound)
            until = first + samples
        for revision in revisions:
            say(revision)
        say(Heard(until, samples, frame is None, recogniser.doubted))
        out.flush()


def main() -> int:
    """`SPEC live|recording`, called in a process of its own."""
    spec, mode = sys.argv[1:]
    end_with(os.getppid())()
    # Whatever a library prints must not stand between the answers.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        try:
            recogniser = open_recogniser(parse(spec), live=mode == "live")
        except ClcrError as error:
            out.write(msgspec.json.encode(Failed(one_line(str(error)))) + b"\n")
            out.flush()
            return error.exit_code
        waiting = Waiting(join=mode == "live")
        threading.Thread(target=_collect, args=(waiting,), name="sound", daemon=True).start()
        try:
            serve(recogniser, iter(waiting), out)
        except BrokenPipeError:
            raise
        except Exception:
            traceback.print_exc()  # its last line becomes the reason
            sys.stderr.flush()
            os._exit(1)  # the other thread waits in standard input, which Python's own end would wait for
    return 0


def _collect(waiting: Waiting) -> None:
    for frame in read_frames(sys.stdin.buffer):
        waiting.put(frame)
    # What is being read now is of no use to anybody.
    os._exit(0)
