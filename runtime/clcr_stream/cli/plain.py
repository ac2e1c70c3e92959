"""A session as plain lines: one per second, words, notices and the account; on a terminal a block redrawn in place.

`clcr-stream top` shows this where the screen cannot be drawn on, and `clcr-stream top -` for the JSON lines of
`clcr-stream --output -`, which `scripts/demo` ends in.
"""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Iterator

from clcr_stream.cli.cells import bar, printable
from clcr_stream.cli.standard_streams import CLEAR_LINE
from clcr_stream.cli.terminal import Notices
from clcr_stream.streams import reports
from clcr_stream.streams.account import Account
from clcr_stream.wire.messages import Message, Modality, Prediction, Session, Status, Transcript, decode
from clcr_stream.wire.watched import recording_badge

BAR_CELLS = 30
PLAIN_PERIOD_NS = 1_000_000_000
KEPT_SEGMENTS = 256


def answer(prediction: Prediction) -> str:
    """The prediction in a few words."""
    if prediction.value is not None:
        return f"value {prediction.value:+.2f}"
    if prediction.label is None or prediction.confidence is None:
        return "no input" if "no_input" in prediction.degraded else "no valid answer"
    return f"{printable(prediction.label):<9}{prediction.confidence:5.2f}"


def inputs(prediction: Prediction) -> str:
    """What of the window there was: shares of its time for face and sound, yes or no for words."""
    found = prediction.modalities
    words = "yes" if found.language.present else "no"
    return f"face {_share(found.vision)}  sound {_share(found.acoustic)}  words {words:<3}"


def _share(modality: Modality) -> str:
    return f"{100 * modality.coverage:3.0f} %" if modality.present and modality.coverage is not None else "   no"


def block(prediction: Prediction, time_s: float, recorded: str = "") -> list[str]:
    """The lines of the redrawn view."""
    probs = {printable(name): share for name, share in (prediction.probs or {}).items()}
    width = max((len(name) for name in probs), default=0)
    return [
        f"{time_s:6.1f} s   {answer(prediction)}{recorded}",
        *(f"   {name:<{width}} {share or 0.0:5.2f} {bar(share, BAR_CELLS)}" for name, share in probs.items()),
        f"   {inputs(prediction)}   {prediction.latency_ms or 0.0:.0f} ms",
    ]


class View:
    """Turns messages into what to print; `in_place` redraws, otherwise plain lines at most once per second.

    `name` stands before each line where several streams are shown.
    """

    def __init__(self, in_place: bool, name: str = "") -> None:
        self._in_place = in_place
        self._name = f"{name}: " if name else ""
        self._drawn = 0
        self._origin_ns: int | None = None
        self._next_ns = 0
        self._said: dict[str, str] = {}  # the last segments
        self._status: Status | None = None
        self._notices = Notices()

    def show(self, message: Message) -> str:
        """What to print for `message`; often nothing."""
        text = self._text(message)
        if not self._name or not text:
            return text
        return "".join(f"{self._name}{line}\n" for line in text.splitlines())

    def _text(self, message: Message) -> str:
        if isinstance(message, Session):
            self._origin_ns, self._next_ns = message.origin_ns, 0
            self._said.clear()
            about = f"model {printable(message.bundle_name)} ({message.bundle[:12]}) on {printable(message.backend)}"
            columns = shutil.get_terminal_size().columns - 1
            notice = textwrap.fill(printable(message.intended_use.notice), max(20, columns))
            return f"{about}\n{notice}\n"
        if isinstance(message, Status):
            self._status = message
            seen = reports.View(message.stream, Account(), message.sources, refused=message.refused_peers)
            return self._above("".join(f"{printable(line)}\n" for line in self._notices.new([seen])))
        if isinstance(message, Transcript):
            return self._words(message)
        return self._prediction(message) if isinstance(message, Prediction) else ""

    def end(self) -> str:
        """The account of the session, from its last status."""
        if self._status is None:
            return ""
        ticks, latency = self._status.ticks, self._status.latency_ms
        reasons = ", ".join(f"{name} {count}" for name, count in ticks.skipped.items() if count)
        skipped = sum(ticks.skipped.values())
        lines = [f"{ticks.published} predictions, {skipped} skipped{f' ({reasons})' if reasons else ''}"]
        if latency.p50 is not None and latency.p95 is not None and latency.p99 is not None:
            lines.append(
                f"capture to publish: p50 {latency.p50:.0f} ms, p95 {latency.p95:.0f} ms, p99 {latency.p99:.0f} ms"
            )
        return "\n".join(lines) + "\n"

    def _words(self, segment: Transcript) -> str:
        if not segment.final or self._said.get(segment.id) == segment.text:
            return ""
        self._said[segment.id] = segment.text
        while len(self._said) > KEPT_SEGMENTS:
            del self._said[next(iter(self._said))]
        return self._above(f'           "{printable(segment.text)}"\n')

    def _above(self, text: str) -> str:
        """Lines that stay, where the redrawn block was; the next prediction draws it again below."""
        if not text:
            return ""
        up, self._drawn = self._up(), 0
        return up + text

    def _prediction(self, prediction: Prediction) -> str:
        now_ns = prediction.window.end_ns
        if self._origin_ns is None:  # joined before the session message came
            self._origin_ns = prediction.window.start_ns
        time_s = (now_ns - self._origin_ns) / 1e9
        if self._in_place:
            lines = block(prediction, time_s, self._recorded(prediction))
            up, self._drawn = self._up(), len(lines)
            return up + "".join(f"{CLEAR_LINE}{line}\n" for line in lines)
        if now_ns < self._next_ns:
            return ""
        self._next_ns = now_ns + PLAIN_PERIOD_NS
        share = bar(prediction.confidence, 20)
        latency = f"{prediction.latency_ms or 0.0:.0f} ms"
        rest = f"{share:<20}  {inputs(prediction)}   {latency}{self._recorded(prediction)}"
        return f"{time_s:6.1f} s   {answer(prediction)} {rest}\n"

    def _recorded(self, prediction: Prediction) -> str:
        """What its session records, from the last status of it."""
        if self._status is None or self._status.session != prediction.session:
            return ""
        badge = recording_badge(self._status)
        return f"   {badge}" if badge else ""

    def _up(self) -> str:
        return f"\x1b[{self._drawn}A\x1b[J" if self._drawn else ""


def shown(lines: Iterable[bytes], in_place: bool) -> Iterator[str]:
    """What to print for each JSON line, and at the end."""
    view = View(in_place)
    for line in lines:
        yield view.show(decode(line, "json"))
    yield view.end()
