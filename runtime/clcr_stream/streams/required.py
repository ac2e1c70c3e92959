"""Modalities that must be live: how long one may be missing, and what is said when it is missing for longer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clcr_stream.clock import NS_PER_S
from clcr_stream.errors import ConfigError, RequiredError
from clcr_stream.sources.base import Source
from clcr_stream.window.conditions import Condition
from clcr_stream.window.cutter import Chunk

REQUIRABLE = ("vision", "acoustic")
MAX_PATIENCE_S = 86_400.0
USELESS: tuple[Condition, ...] = ("frozen", "covered", "dark", "silent")  # data come, and nothing can be got from them


@dataclass(frozen=True)
class Required:
    """What must be live: without one of `modalities` for `patience_s` the stream `ends`, or only says so."""

    modalities: tuple[str, ...] = ()
    patience_s: float = 10.0
    ends: bool = True


NOTHING = Required()


def parse_required(text: str, patience_s: float, ends: bool) -> Required:
    """`vision,acoustic` as it is typed, "" for nothing. ConfigError."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in REQUIRABLE]
    if unknown:
        raise ConfigError(f"require {text}: {unknown[0]} cannot be required; allowed are vision and acoustic")
    if not 0 < patience_s <= MAX_PATIENCE_S:
        raise ConfigError(f"require_s {patience_s:g}: allowed are seconds above 0, at most {MAX_PATIENCE_S:g}")
    return Required(tuple(name for name in REQUIRABLE if name in names), patience_s, ends)


class RequiredWatch:
    """Which of the required modalities have been missing for too long, in the stream's own time."""

    def __init__(self, required: Required, origin_ns: int) -> None:
        self._required = required
        self._live_ns = dict.fromkeys(required.modalities, origin_ns)
        self._end_ns = origin_ns

    def missing(self, chunk: Chunk) -> tuple[str, ...]:
        """After this hop. A face need not be there: a camera without one is live, a covered one is not."""
        self._end_ns = end_ns = chunk.tick.end_ns
        for modality, view in (("vision", chunk.vision), ("acoustic", chunk.acoustic)):
            if modality in self._live_ns and view.seen and view.condition not in USELESS:
                self._live_ns[modality] = end_ns
        return self.stalled(0)

    def stalled(self, for_ns: int) -> tuple[str, ...]:
        """When no hop has come for so long: none of them is live meanwhile."""
        now_ns, patience_ns = self._end_ns + for_ns, int(self._required.patience_s * NS_PER_S)
        return tuple(name for name, live_ns in self._live_ns.items() if now_ns - live_ns >= patience_ns)

    def error(self, missing: Sequence[str], sources: Sequence[Source]) -> RequiredError:
        """What ends the stream: who is missing, and what their sources say of it."""
        reasons = []
        for modality in missing:
            reports = [source.report() for source in sources if modality in source.modalities]
            said = [f"{report.kind} {report.name} is {report.state} ({report.reason})" for report in reports]
            reasons.append(f"{modality}: {'; '.join(said) or 'no source brings it'}")
        return RequiredError(
            f"required and not live for {self._required.patience_s:g} s: {', '.join(reasons)}; "
            "run `clcr-stream doctor`, or give --require-action alert to go on without"
        )
