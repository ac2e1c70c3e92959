"""The person that a stream watches: their baselines begin anew with another face, are calibrated, taken over and kept.

A session calls `before` with every hop that was cut and `after` once the engines have run; all on the loop's thread.
What it does follows from the stream's own data, so a recording replays alike. Without baselines in the bundle nothing
here has an effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from clcr_stream.clock import NS_PER_S
from clcr_stream.inference.baselines import Baseline, Baselines
from clcr_stream.inference.levels import Levels
from clcr_stream.window.cutter import Chunk

CALIBRATING = "calibrating"  # the reason in `degraded` meanwhile
LEAST_SHARE = 1 / 3  # of the time of a calibration that a face or voice has to be there
TOLD_EVERY_S = 60.0  # at most one line about another face in so much time of the stream
_NAMES = {"vision": "face", "acoustic": "voice"}


@dataclass(frozen=True)
class PersonPlan:
    """What was asked for: seconds of calibration, baselines to begin with, and who hears of what happens.

    `tell` gets lines for a person, `calibrated` the baselines at the end of the calibration; neither may block.
    """

    calibrate_s: float = 0.0
    initial: Baselines = field(default_factory=dict)
    tell: Callable[[str], object] = lambda _: None
    calibrated: Callable[[Baselines], object] = lambda _: None


class Person:
    """The baselines of one stream over time; `calibration_left_s` may be read from any thread."""

    def __init__(self, plan: PersonPlan = PersonPlan()) -> None:
        self._plan = plan
        self._begun = False
        self._owner: int | None = None  # whose face vision's baseline is of
        self._mixed = False  # the last hop held faces of two persons
        self._of_first: Baselines | None = None  # as they were before the first change of person
        self._told_ns: int | None = None
        self._calibrating = plan.calibrate_s > 0
        self.calibration_left_s = plan.calibrate_s
        self.changes = 0
        self.final: Baselines = {}  # as the stream left them

    @property
    def notes(self) -> tuple[str, ...]:
        """What a prediction of this hop is marked with."""
        return (CALIBRATING,) if self._calibrating else ()

    @property
    def to_keep(self) -> Baselines:
        """What belongs to the person with whom the stream began, or who calibrated; {} if a calibration was cut off."""
        if self._calibrating:
            return {}
        kept = self.final if self._of_first is None else self._of_first
        return {modality: baseline for modality, baseline in kept.items() if baseline.age_steps > 0}

    def before(self, levels: Levels, seat: int, chunk: Chunk) -> None:
        """Before the engines take a hop: begin with what was given, forget the face of somebody else."""
        if not levels.baseline_states:
            return
        if not self._begun:
            self._begun = True
            if self._calibrating:
                self._plan.tell(f"calibrating: look and speak neutrally for {self._plan.calibrate_s:g} s")
            else:
                levels.set_baselines(seat, self._plan.initial)
        if not chunk.persons:
            return
        newest = chunk.persons[-1]
        if self._owner is not None and (self._mixed or newest != self._owner):
            self._change(levels, seat, chunk.tick.end_ns, told=newest != self._owner)
        self._owner, self._mixed = newest, chunk.persons[0] != newest

    def after(self, levels: Levels, seat: int, stream_ns: int) -> None:
        """After the engines took a hop, `stream_ns` after the stream's beginning."""
        if not self._calibrating:
            return
        self.calibration_left_s = max(0.0, self._plan.calibrate_s - stream_ns / NS_PER_S)
        if self.calibration_left_s == 0:
            self._calibrating = False
            self._calibrate(levels, seat)

    def clear_window(self, levels: Levels, seat: int) -> None:
        """The levels forget all but what is usual for the person, who is still the same."""
        kept = levels.baselines(seat)
        levels.clear(seat)
        levels.set_baselines(seat, kept)

    def leave(self, levels: Levels, seat: int) -> None:
        """The stream is about to leave its seat."""
        self.final = levels.baselines(seat)
        if self._begun and self._calibrating:
            self._plan.tell("the stream ended before its calibration: nothing was set")

    def _change(self, levels: Levels, seat: int, now_ns: int, told: bool) -> None:
        """Vision's baseline was another's. That of sound stays: nothing says who speaks, and it fades in a minute."""
        if "vision" not in levels.baseline_states:
            return
        if self._of_first is None:
            self._of_first = levels.baselines(seat)
        levels.clear_baseline(seat, "vision")
        if not told:
            return
        self.changes += 1
        if self._told_ns is None or now_ns - self._told_ns >= TOLD_EVERY_S * NS_PER_S:
            self._told_ns = now_ns
            self._plan.tell("another face, or the same after a while: its baseline begins anew")

    def _calibrate(self, levels: Levels, seat: int) -> None:
        """What was seen counts from now on like a whole horizon, so it has its full weight and changes slowly."""
        least_s = LEAST_SHARE * self._plan.calibrate_s
        texts, adopted = [], {}
        for modality, baseline in levels.baselines(seat).items():
            states = levels.baseline_states[modality]
            seen_s = baseline.age_steps / states.steps_per_s
            if seen_s >= least_s:
                adopted[modality] = Baseline(baseline.mean, np.full_like(baseline.steps, states.horizon_steps))
                texts.append(f"{_NAMES[modality]} from {seen_s:.1f} s")
            else:
                if modality in self._plan.initial:
                    adopted[modality] = self._plan.initial[modality]
                texts.append(f"no {_NAMES[modality]} ({seen_s:.1f} s of at least {least_s:.1f} s)")
        levels.set_baselines(seat, adopted)
        self._of_first = None
        self._plan.tell(f"calibrated: {', '.join(texts)}")
        self._plan.calibrated(adopted)
