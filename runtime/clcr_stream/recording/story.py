"""A session read from a file: a recording, or the JSON lines of `--output`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from clcr_stream.errors import PublishError, SourceError
from clcr_stream.recording.options import SUFFIX
from clcr_stream.recording.reader import open_recording
from clcr_stream.recording.seen import Seen, Watch
from clcr_stream.wire import messages


@dataclass(frozen=True)
class Story:
    """One session: what it was, its predictions by tick, its words by time in their last revision, its last status.

    `notes` say what of the file could not be read or was left out.
    """

    session: messages.Session
    predictions: tuple[messages.Prediction, ...]
    words: tuple[messages.Transcript, ...]
    status: messages.Status | None
    notes: tuple[str, ...] = ()

    def seen(self) -> Seen:
        """What its predictions say together."""
        watch = Watch()
        watch.write(self.session)
        for prediction in self.predictions:
            watch.write(prediction)
        if self.status is not None:
            watch.write(self.status)
        return watch.seen()


def read_story(path: Path, session: str | None = None) -> Story:
    """The session in a recording or a file of JSON lines: the one named, else the one that started last. SourceError.

    Lines that are no message are left out, and so is everything of other sessions; a note says so.
    """
    notes: list[str] = []
    if path.suffix == SUFFIX:
        recording = open_recording(path)
        notes = recording.notes
        found = _messages((entry.payload for entry in recording.entries() if entry.kind in messages.KINDS), notes)
    else:
        found = _messages(_lines(path), notes)
    return make_story(found, str(path), notes, session)


def make_story(found: Iterable[messages.Message], name: str, notes: list[str], session: str | None = None) -> Story:
    """The session that these messages are of, in whatever order they come. SourceError when there is none."""
    sessions: dict[str, messages.Session] = {}
    others: dict[str, list[messages.Message]] = {}
    for message in found:
        if isinstance(message, messages.Session):
            sessions[message.session] = message
        else:
            others.setdefault(message.session, []).append(message)
    if not sessions:
        why = "; ".join(notes) or "it holds no session message"
        raise SourceError(f"{name}: not a session ({why}); give a file of --record FILE.mcap or --output FILE.jsonl")
    if session is not None and session not in sessions:
        raise SourceError(f"{name}: there is no session {session}; it holds {', '.join(sorted(sessions))}")
    chosen = sessions[session] if session is not None else max(sessions.values(), key=lambda one: one.started_at)
    if len(sessions) > 1:
        rest = ", ".join(sorted(set(sessions) - {chosen.session}))
        notes.append(f"holds {len(sessions)} sessions; this is {chosen.session} of {chosen.started_at}, not {rest}")
    return _told(chosen, others.get(chosen.session, []), notes)


def _told(session: messages.Session, found: list[messages.Message], notes: list[str]) -> Story:
    predictions = {one.seq: one for one in found if isinstance(one, messages.Prediction)}
    words: dict[str, messages.Transcript] = {}
    for one in found:
        if isinstance(one, messages.Transcript) and one.revision >= words.get(one.id, one).revision:
            words[one.id] = one
    statuses = [one for one in found if isinstance(one, messages.Status)]
    return Story(
        session=session,
        predictions=tuple(predictions[seq] for seq in sorted(predictions)),
        words=tuple(sorted((one for one in words.values() if one.text.strip()), key=lambda one: one.start_ns)),
        status=max(statuses, key=lambda one: one.seq, default=None),
        notes=tuple(notes),
    )


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while line := file.readline(messages.MAX_PAYLOAD_BYTES + 2):
                yield line
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); give a .mcap or .jsonl file") from None


def _messages(payloads: Iterable[bytes], notes: list[str]) -> Iterator[messages.Message]:
    refused = 0
    for payload in payloads:
        if payload.strip():
            try:
                yield messages.decode(payload, "json")
            except PublishError:
                refused += 1
    if refused:
        notes.append(f"{refused} lines are no messages and were left out")
