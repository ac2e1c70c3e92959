"""How a source is doing, as one small state machine: events and their times in, state, reason, code and since when out.

    absent -> starting -> live -> frozen | dark | covered | silent | clipping | noisy | stale -> lost -> reconnecting

A source that never came is `starting`, or `absent` once a try has failed. One that came is `live`, or names what is
wrong with what it brings; `stale` when nothing comes. When its connection ends it is `lost`, and `reconnecting` from
the first new try on. `ended` and `failed` are for good. Pure logic: no clock, no lock, no device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from clcr_stream.clock import NS_PER_MS, NS_PER_S
from clcr_stream.errors import SourceCode
from clcr_stream.window.conditions import FINE, Condition, Trouble

State = Literal[
    "absent",
    "starting",
    "live",
    "stale",
    "frozen",
    "dark",
    "covered",
    "silent",
    "clipping",
    "noisy",
    "lost",
    "reconnecting",
    "ended",
    "failed",
]
OVER: tuple[State, ...] = ("ended", "failed")

# A camera in dim light still gives 5 pictures a second, 0.6 s is three of them; 1 s is promised, with the next tick.
STALE_PICTURE_NS = 600 * NS_PER_MS
STALE_SOUND_NS = 300 * NS_PER_MS  # 15 blocks of 20 ms; 0.5 s is promised
STALE_NETWORK_SOUND_NS = 700 * NS_PER_MS  # containers bring sound in bursts

# The worst first: of a source with two modalities the state is that of the one that is worse off.
_SEVERITY: tuple[Trouble, ...] = ("frozen", "covered", "dark", "silent", "clipping", "noisy")
REASONS: Mapping[Trouble, str] = {
    "frozen": "it repeats one picture; restart the camera",
    "covered": "nothing can be made out: a cover, a hand or a dirty lens",
    "dark": "hardly any light; switch on a lamp",
    "silent": "digital silence: muted, or switched off",
    "clipping": "the sound is at its limit; turn the microphone down",
    "noisy": "hardly louder than its noise; come closer to the microphone",
}


@dataclass(frozen=True)
class Standing:
    """How a source is doing; `entered` says how often each state began."""

    state: State
    reason: str
    since_ns: int
    entered: Mapping[str, int]
    code: SourceCode = ""


class Health:
    """The state of one source; the times of all calls must not go back. `stale_after_ns`: by what it brings.

    What is asked, and how often, changes nothing. After the end nothing changes any more.
    """

    def __init__(self, now_ns: int, stale_after_ns: Mapping[str, int] | None = None) -> None:
        self._stale_after_ns = dict(stale_after_ns or {})
        self._state: State = "starting"
        self._reason, self._since_ns = "", now_ns
        self._code: SourceCode = ""
        self._entered: dict[str, int] = {"starting": 1}
        self._came_ns: dict[str, int] = {}  # of this connection
        self._conditions: dict[str, Condition] = {}
        self._was_live = False
        self.note = ""  # the reason while it is live

    def opening(self, now_ns: int) -> None:
        """A try begins."""
        self._settle(now_ns)
        if self._state not in ("absent", "reconnecting", "starting"):
            self._enter("reconnecting", now_ns, self._reason or "being opened again", self._code)

    def gone(self, now_ns: int, reason: str, code: SourceCode = "") -> None:
        """A try has failed, or the connection has ended."""
        self._settle(now_ns)
        if not self._was_live:
            self._enter("absent", now_ns, reason, code)
        else:
            self._enter("reconnecting" if self._state == "reconnecting" else "lost", now_ns, reason, code)
        self._came_ns.clear()
        self._conditions.clear()

    def came(self, now_ns: int, what: str = "", condition: Condition = FINE) -> None:
        """Data came: of which modality, and what is wrong with it."""
        self._settle(now_ns)
        if what:
            self._came_ns[what], self._conditions[what] = now_ns, condition
        self._was_live = True
        self._show(now_ns)

    def awaits(self, now_ns: int, what: str, awaited: bool = True) -> None:
        """From now on `what` is waited for, and stalls at its limit; or no longer."""
        self._settle(now_ns)
        if awaited:
            self._came_ns[what] = now_ns
        else:
            self._came_ns.pop(what, None)

    def over(self, state: State, now_ns: int, reason: str, code: SourceCode = "") -> None:
        """It has `ended` or `failed`; the first one counts."""
        self._settle(now_ns)
        self._enter(state, now_ns, reason, code)

    def put(self, state: State, now_ns: int, reason: str) -> None:
        """The source says itself how it is doing; until it is live, what has failed before keeps its code."""
        self._settle(now_ns)
        self._was_live = self._was_live or state == "live"
        self._enter(state, now_ns, reason, "" if state == "live" else self._code)

    def at(self, now_ns: int) -> Standing:
        """How it is doing now."""
        self._settle(now_ns)
        return Standing(self._state, self._reason, self._since_ns, dict(self._entered), self._code)

    def _settle(self, now_ns: int) -> None:
        """What has become of it by itself until now: nothing came for too long."""
        if not self._came_ns or self._state in ("stale", "lost", "reconnecting", *OVER):
            return
        first_ns, what = min((came_ns + self._limit_ns(name), name) for name, came_ns in self._came_ns.items())
        if now_ns > first_ns:
            missing = {"vision": "picture", "acoustic": "sound"}.get(what, "data")
            self._enter("stale", first_ns, f"no new {missing} for {self._limit_ns(what) / NS_PER_S:.1f} s", "no_data")

    def _limit_ns(self, what: str) -> int:
        return self._stale_after_ns.get(what, 2**62)

    def _show(self, now_ns: int) -> None:
        """The state that follows from what came; a modality that is overdue stays so until it comes itself."""
        if any(now_ns - came_ns > self._limit_ns(name) for name, came_ns in self._came_ns.items()):
            return
        wrong = [condition for condition in _SEVERITY if condition in self._conditions.values()]
        if wrong:
            self._enter(wrong[0], now_ns, REASONS[wrong[0]])
        else:
            self._enter("live", now_ns, self.note)

    def _enter(self, state: State, now_ns: int, reason: str, code: SourceCode = "") -> None:
        if self._state in OVER:
            return
        if state != self._state:
            self._state, self._since_ns = state, now_ns
            self._entered[state] = self._entered.get(state, 0) + 1
        self._reason, self._code = reason, code
